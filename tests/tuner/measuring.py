"""Measurements made of plain numbers, and a journal that knows its answers beforehand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from selfreg_sdk.tuner.examples.examples import Example
from selfreg_sdk.tuner.journal.journal import Bought
from selfreg_sdk.tuner.measuring.measured import Measured, Outcome, Range
from selfreg_sdk.tuner.scoring.metrics import Mode, metric
from selfreg_sdk.tuner.scoring.scoring import Mark
from selfreg_sdk.tuner.search.dimensions import Point
from selfreg_sdk.tuner.search.drawing import Drawn, DrawRequest, Sample


def measured(
    values: Sequence[float | None] | Mapping[str, float | None],
    *,
    cost: str | Sequence[str] = "0.001",
    span: Range | None = (0.0, 1.0),
    mode: Mode = "max",
    **fields: Any,
) -> Measured:
    """A measurement with these values; None is a failed example."""
    by_id = values if isinstance(values, Mapping) else {f"e{index}": value for index, value in enumerate(values)}
    costs = [cost] * len(by_id) if isinstance(cost, str) else cost
    outcomes = tuple(
        Outcome(example=example, value=value, cost=Decimal(usd), reason="" if value is not None else "it raised")
        for (example, value), usd in zip(by_id.items(), costs, strict=True)
    )
    given = {"config": {"model": "m", "n": 1}, "wanted": len(outcomes), "spent": Decimal(0), **fields}
    return Measured(metric=metric("first", mode=mode), span=span, outcomes=outcomes, **given)


Answer = Callable[[DrawRequest], Bought]


class FakeJournal:
    """Carries out what it is asked, each request at a price, under a cap that it keeps like a study does.

    Attributes:
        asked: every request, in order.
        batches: how many came at once.
    """

    def __init__(
        self, answer: Answer, *, price: str = "0.01", worst: str | None = None, cap: str | None = None
    ) -> None:
        self._answer = answer
        self._price, self._worst = Decimal(price), Decimal(worst or price)
        self._left = None if cap is None else Decimal(cap)
        self.asked: list[DrawRequest] = []
        self.batches: list[int] = []

    def worst(
        self, config: Point, messages: Sequence[Mapping[str, str]], count: int, example: Example | None = None
    ) -> Decimal:
        return self._worst * count

    def cost_of(self, config: Point, drawn: Drawn) -> Decimal:
        return drawn.cost

    async def purchase(self, requests: Sequence[DrawRequest], *, mark: bool, parallel: int) -> list[Bought]:
        self.batches.append(len(requests))
        return [self._buy(request) for request in requests]

    def _buy(self, request: DrawRequest) -> Bought:
        self.asked.append(request)
        if self._left is not None and self._worst * request.count > self._left:
            return Bought(fate="refused", reason="the cap")
        if self._left is not None:
            self._left -= self._price * request.count
        return self._answer(request)


def bought(
    request: DrawRequest, scores: Sequence[float], *, ballots: Sequence[str] | None = None, price: str = "0.01"
) -> Bought:
    """Samples with these scores; marking costs a tenth of drawing."""
    assert len(scores) == request.count
    names = ballots or [str(score) for score in scores]
    cost = Decimal(price) * request.count
    drawn = Drawn(
        samples=tuple(Sample(text=name, tokens=10) for name in names),
        prompt_tokens=20,
        output_tokens=10 * request.count,
        cost=cost,
    )
    marks = tuple(Mark(score=score, ballot=name) for score, name in zip(scores, names, strict=True))
    return Bought(fate="bought", drawn=drawn, marks=marks, cost=cost * Decimal("1.1"), marking=cost / 10, seconds=0.5)
