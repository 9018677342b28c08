"""A journal that says what requests cost in use, beside what a study paid for them.

The two differ where another study had paid, and where an attempt was charged though nobody knows how it ended. A search that
counts on the first decides the same after every resume; against the second the cap is held.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from selfreg_sdk.prices import cost
from selfreg_sdk.tuner.journal.doors import Doors
from selfreg_sdk.tuner.journal.journal import Bought, Journal
from selfreg_sdk.tuner.search.drawing import DrawRequest
from selfreg_sdk.usage import Usage


class Priced(Journal):
    """The journal of a study, with `Drawn.cost` by the tokens that were drawn; `Bought.cost` stays what was paid.

    Arguments as of `Journal`.
    """

    def __init__(self, *, doors: Doors, **given: Any) -> None:
        super().__init__(doors=doors, **given)
        self._doors = doors

    async def purchase(self, requests: Sequence[DrawRequest], *, mark: bool, parallel: int) -> list[Bought]:
        """As `Journal.purchase`."""
        bought = await super().purchase(requests, mark=mark, parallel=parallel)
        return [self._priced(request, one) for request, one in zip(requests, bought, strict=True)]

    def _priced(self, request: DrawRequest, bought: Bought) -> Bought:
        if bought.drawn is None:
            return bought
        door = self._doors[request.config["model"]]
        at_once = min(door.at_once(door.compiled(request.config)), request.count)
        # Each request pays its prompt.
        prompts = bought.drawn.prompt_tokens * -(-request.count // at_once)
        used = Usage(prompt_tokens=prompts, completion_tokens=bought.drawn.output_tokens)
        return replace(bought, drawn=replace(bought.drawn, cost=cost(door.price, used)))
