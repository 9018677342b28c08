"""The real stack on a loopback provider and a store of its own, put together the way the product does it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, TypeVar

from policies import PLAN_MARKER, Aggregation, DecodingParams, Plan
from selfreg_sdk.answering import Answering
from selfreg_sdk.assembly import Choices, Target, assemble
from selfreg_sdk.booking import Books, CallSpec, Receipt
from selfreg_sdk.calls import Calls, Retry
from selfreg_sdk.chat_model import ChatSelfReg
from selfreg_sdk.client import Client, Timeouts
from selfreg_sdk.facts import Request
from selfreg_sdk.money import Budget
from selfreg_sdk.prices import PriceOverride, Prices
from selfreg_sdk.runtime import Runtime
from selfreg_sdk.store import Store
from selfreg_sdk.store.ledger import LedgerEntry
from selfreg_sdk.vendors import Vendor
from tests.fake_provider import FakeProvider, Payload

T = TypeVar("T")

MODEL = "fake-model"
PLANNER = "planner-model"
PRICE = PriceOverride(input_usd_per_mtok=Decimal("0.40"), output_usd_per_mtok=Decimal("1.60"))
"""What `FakeProvider` bills by default."""
PRICES = Prices({MODEL: PRICE, PLANNER: PRICE})
QUICK = Retry(attempts=3, first_wait=0.01, longest_wait=0.02)
TIMEOUTS = Timeouts(connect=2.0, first_byte=5.0, idle=5.0, total=20.0)
HANG = 10.0
"""Seconds: a generous bound, what takes longer has hung."""

CREATIVE = Plan(family="creative", determinism="open", diversity="many", depth="none", length="paragraph")
"""A plan that changes every number: temperature 1.2, top_p 0.95, 512 tokens."""


def body(text: str = "hello", **more: Any) -> dict[str, Any]:
    """A wire payload without decoding parameters."""
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], **more}


def call(text: str = "hello", *, max_tokens: int | None = 64, **changes: Any) -> CallSpec:
    """A paid call to the fake model."""
    payload = body(text) if max_tokens is None else body(text, max_tokens=max_tokens)
    return CallSpec(**{"model": MODEL, "payload": payload, "max_tokens": max_tokens, **changes})


def request(
    text: str = "hello", *, task: str | None = "greet", caller: DecodingParams = DecodingParams(), **changes: Any
) -> Request:
    """A request before decoding is decided."""
    return Request(**{"body": body(text), "caller": caller, "task": task, **changes})


def is_planning(payload: Payload) -> bool:
    """Whether a request is a planning call."""
    return str(payload["messages"][0].get("content")).startswith(PLAN_MARKER)


def plans(said: str | Callable[[Payload], str], answer: str = "fine") -> Callable[[Payload], str]:
    """A provider's ``reply``: what it says to planning calls, and to all others."""

    def reply(payload: Payload) -> str:
        if not is_planning(payload):
            return answer
        return said if isinstance(said, str) else said(payload)

    return reply


@dataclass(kw_only=True)
class Stack:
    """Everything behind one model, on one provider and one store."""

    provider: FakeProvider
    shared: Runtime
    client: Client
    budgets: dict[str, Budget] = field(default_factory=dict)
    retry: Retry = QUICK

    @property
    def calls(self) -> Calls:
        """The paid-call path."""
        books = Books(
            meter=self.shared.meter,
            prices=PRICES,
            cache=self.shared.cache,
            budgets=self.budgets,
            base_url=self.provider.base_url,
        )
        return Calls(books, retry=self.retry)

    def answering(self, *, planner: str | None = None, channel: Any = None, **choices: Any) -> Answering:
        """Answers requests to the fake model.

        Args:
            planner: id of the planning model; None to never plan.
            channel: reaches the planning model; None is the client.
            choices: fields of `Choices`.
        """
        given = Choices(**{"budgets": self.budgets, "prices": PRICES, "retry": self.retry, **choices})
        plan = None if planner is None else (self._target(planner), channel or self.client)
        return assemble(self._target(MODEL), given, self.shared, planner=plan)

    def _target(self, model: str) -> Target:
        return Target(
            model=model, endpoint=self.client.endpoint, base_url=self.provider.base_url, vendor=Vendor(rules=None)
        )

    @property
    def ledger(self) -> tuple[LedgerEntry, ...]:
        """All attempts, oldest first."""
        return self.shared.meter.ledger()[::-1]

    @property
    def planning(self) -> list[Payload]:
        """The planning calls that arrived."""
        return [payload for payload in self.provider.payloads if is_planning(payload)]

    @property
    def answers(self) -> list[Payload]:
        """The answering calls that arrived."""
        return [payload for payload in self.provider.payloads if not is_planning(payload)]

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run ``work`` on a loop of its own, and close the loop's connections."""

        async def whole() -> T:
            try:
                return await work
            finally:
                await self.client.aclose()

        return asyncio.run(whole())


@contextmanager
def stack(
    provider: FakeProvider,
    *,
    cap: str | None = None,
    store: Any = ":memory:",
    timeouts: Timeouts = TIMEOUTS,
    **fields: Any,
) -> Iterator[Stack]:
    """A stack on ``provider``; ``cap`` in USD sets a budget named "b"."""
    budgets = {} if cap is None else {"b": Budget.parse(cap)}
    with Store.open(store) as opened, Client(base_url=provider.base_url, timeouts=timeouts) as client:
        yield Stack(provider=provider, shared=Runtime.on(opened), client=client, budgets=budgets, **fields)


def chat(on: FakeProvider, **given: Any) -> ChatSelfReg:
    """A chat model on the provider that never plans, unless ``planner`` says so."""
    usual = {"model": MODEL, "base_url": on.base_url, "prices": PRICES, "retry": QUICK, "timeouts": TIMEOUTS}
    return ChatSelfReg(**{**usual, "planner": "off", **given})


# -- the four faces of the paid-call path, as functions of the same form ----------------------------------------------


def complete(on: Stack, spec: CallSpec, receipt: Receipt | None = None) -> tuple[str, Receipt]:
    """One answer; text and receipt."""
    answer, receipt = on.calls.complete(spec, on.client)
    return answer.texts[0] or "", receipt


def acomplete(on: Stack, spec: CallSpec, receipt: Receipt | None = None) -> tuple[str, Receipt]:
    """The same on an event loop."""
    answer, receipt = on.run(on.calls.acomplete(spec, on.client))
    return answer.texts[0] or "", receipt


def stream(on: Stack, spec: CallSpec, receipt: Receipt | None = None) -> tuple[str, Receipt]:
    """The same in pieces."""
    receipt = receipt or Receipt()
    return "".join(text_of(piece) for piece in on.calls.stream(spec, on.client, receipt)), receipt


def astream(on: Stack, spec: CallSpec, receipt: Receipt | None = None) -> tuple[str, Receipt]:
    """The same in pieces on an event loop."""
    receipt = receipt or Receipt()

    async def collect() -> str:
        return "".join([text_of(piece) async for piece in on.calls.astream(spec, on.client, receipt)])

    return on.run(collect()), receipt


WHOLE = (complete, acomplete)
STREAMED = (stream, astream)
FACES = (*WHOLE, *STREAMED)


def text_of(piece: Any) -> str:
    """The text in a streamed piece."""
    return "".join(choice["delta"].get("content") or "" for choice in piece.body["choices"])


def vote(n: int) -> Aggregation:
    """At most n samples for one answer."""
    return Aggregation.parse(f"vote of {n}")


def several(n: int) -> Aggregation:
    """Exactly n samples for one answer."""
    return Aggregation.parse(f"any of {n}")
