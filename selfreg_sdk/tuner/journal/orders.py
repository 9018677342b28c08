"""From a wish for samples to what is sent for it, under which key, and what it can cost at most."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import Any

from policies import Capabilities, Compiled
from selfreg_sdk.booking import CallSpec
from selfreg_sdk.payload import Payload
from selfreg_sdk.prices import cost, prompt_token_bound, worst_case
from selfreg_sdk.store.draw_row import DrawId
from selfreg_sdk.store.studies import StudyRecord
from selfreg_sdk.tuner.journal.doors import Door
from selfreg_sdk.tuner.search.dimensions import Point
from selfreg_sdk.tuner.search.drawing import Drawn, DrawRequest
from selfreg_sdk.usage import Usage

_MOST_KEPT = 10_000
_LONGEST = -(10**18)
"""Stands for a seed that is longer than any that is sent: the bytes of a request count as prompt."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """A request for samples, worked out.

    Attributes:
        door: behind which the model is.
        compiled: its decoding parameters; ``n`` is not among them.
        payload: what is sent for one sample.
        id: names it in the journal.
        request_id: names it in the ledger.
        task_key: of the study.
    """

    door: Door
    compiled: Compiled
    payload: Payload
    id: DrawId
    request_id: str
    task_key: str

    @property
    def at_once(self) -> int:
        """Samples that one request may ask for, as far as the endpoint has shown."""
        return self.door.at_once(self.compiled)

    def spec(self, start: int, n: int) -> CallSpec:
        """The paid call for ``n`` samples from ``start`` on; its reply is kept under the key.

        Samples that are asked for one by one have seeds of their own if there is one at all: with the same seed they would
        be one sample, paid for several times.
        """
        return CallSpec(
            model=self.door.model,
            payload=sized(self.payload, self.compiled, start=start, n=n),
            params=self.compiled.wire,
            max_tokens=self.compiled.sent.max_tokens,
            n=n,
            purpose="trial",
            task_key=self.task_key,
            request_id=self.request_id,
            record_key=self.id.key,
            sample_index=start,
        )

    @cached_property
    def bound(self) -> Usage:
        """Most tokens of the prompt, and of one sample."""
        prompt = prompt_token_bound(sized(self.payload, self.compiled, start=self.id.start, n=self.id.count))
        return Usage(prompt_tokens=prompt or 0, completion_tokens=self.compiled.sent.max_tokens or 0)


def sized(payload: Payload, compiled: Compiled, *, start: int, n: int) -> Payload:
    """The request for one sample as one for ``n`` samples from number ``start`` on."""
    fields: dict[str, Any] = {"n": n} if n > 1 else {}
    if compiled.sent.seed is not None:
        fields["seed"] = compiled.sent.seed + start
    return payload.replace(fields) if fields else payload


class Orders:
    """Works out orders; what several have in common once.

    Args:
        doors: model to door.
        study: in whose name they are made.
    """

    def __init__(self, doors: Mapping[str, Door], study: StudyRecord) -> None:
        self._doors = doors
        self._study = study
        self._compiled: dict[int, tuple[Point, Capabilities, Compiled]] = {}
        self._payloads: dict[int, tuple[Sequence[Mapping[str, str]], Payload]] = {}

    def order(self, request: DrawRequest) -> Order:
        """What is sent for a request.

        Raises:
            ConfigError: its model was not announced, or a setting is no decoding parameter.
        """
        door, compiled, payload = self._sent(request.config, request.messages)
        id_ = DrawId(door.key(payload), request.start, request.count)
        return Order(
            door=door,
            compiled=compiled,
            payload=payload,
            id=id_,
            request_id=self.request_id(id_),
            task_key=self._study.task_key,
        )

    def request_id(self, id_: DrawId) -> str:
        """The name of a draw in the ledger: the same in every worker and after every resume, another in every study."""
        text = f"{self._study.id} {self._study.name} {id_.key} {id_.start} {id_.count}"
        return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:32]

    def worst(self, config: Point, messages: Sequence[Mapping[str, str]], count: int) -> Decimal:
        """USD that one attempt at so many samples can cost at most, never less than what is reserved for it."""
        door, compiled, payload = self._sent(config, messages)
        whole, rest = divmod(count, most := min(door.at_once(compiled), count))
        worst = whole * self._attempt(door, compiled, payload, most)
        return worst + self._attempt(door, compiled, payload, rest) if rest else worst

    def cost_of(self, config: Point, drawn: Drawn) -> Decimal:
        """USD of these samples where nobody has drawn a part of them before, without discounts for what is cached."""
        door, compiled = self._of(config)
        requests = -(-len(drawn.samples) // door.at_once(compiled))
        prompt = cost(door.price, Usage(prompt_tokens=drawn.prompt_tokens, completion_tokens=0))
        whole = cost(door.price, Usage(prompt_tokens=drawn.prompt_tokens, completion_tokens=drawn.output_tokens))
        return whole + (requests - 1) * prompt

    def max_tokens(self, config: Point) -> int:
        """Longest sample of a configuration."""
        return self._of(config)[1].sent.max_tokens or 0

    def _attempt(self, door: Door, compiled: Compiled, payload: Payload, n: int) -> Decimal:
        longest = _LONGEST if compiled.sent.seed is not None else 0
        prompt = prompt_token_bound(sized(payload, compiled, start=longest, n=n))
        return worst_case(door.price, prompt_tokens=prompt or 0, max_tokens=compiled.sent.max_tokens or 0, n=n)

    def _sent(self, config: Point, messages: Sequence[Mapping[str, str]]) -> tuple[Door, Compiled, Payload]:
        door, compiled = self._of(config)
        return door, compiled, self._prompt(messages).replace({"model": door.model, **compiled.wire})

    def _of(self, config: Point) -> tuple[Door, Compiled]:
        door = self._doors[config["model"]]
        known = self._compiled.get(id(config))
        # An id may be that of an object long gone.
        if known is not None and known[0] is config and known[1] is door.capabilities:
            return door, known[2]
        if len(self._compiled) >= _MOST_KEPT:
            self._compiled.clear()
        compiled = door.compiled(config)
        self._compiled[id(config)] = config, door.capabilities, compiled
        return door, compiled

    def _prompt(self, messages: Sequence[Mapping[str, str]]) -> Payload:
        known = self._payloads.get(id(messages))
        if known is not None and known[0] is messages:
            return known[1]
        if len(self._payloads) >= _MOST_KEPT:
            self._payloads.clear()
        payload = Payload({"messages": [dict(message) for message in messages]})
        self._payloads[id(messages)] = messages, payload
        return payload
