"""From a request to its answer: decide, send, and once more without a field the provider refuses.

Joins the regulator (what is sent) with the paid-call path (how it is paid), for any channel.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, Generic, TypeVar

from selfreg_sdk.booking import CallSpec, Receipt
from selfreg_sdk.calls import Calls
from selfreg_sdk.channel import Answer, Channel, Piece
from selfreg_sdk.errors import BudgetExceeded, ContextLengthExceeded, ParameterRejected, ProviderError
from selfreg_sdk.facts import Request
from selfreg_sdk.regulator import Decision, Regulator

A = TypeVar("A", bound=Answer)
P = TypeVar("P", bound=Piece)


@dataclass
class Outcome(Generic[A]):
    """An answered request.

    Attributes:
        decision: what was sent, and why.
        answers: one per call made; more than one only where the model takes no ``n``.
        receipts: what each cost.
        flags: anything unusual about the whole request.
    """

    decision: Decision
    answers: list[A] = field(default_factory=list)
    receipts: list[Receipt] = field(default_factory=list)
    flags: tuple[str, ...] = ()

    @property
    def cost(self) -> Decimal | None:
        """USD over all calls and the plan, None if any of it is unknown."""
        costs = [self.decision.plan_cost, *(receipt.cost for receipt in self.receipts)]
        known = [cost for cost in costs if cost is not None]
        return sum(known, Decimal(0)) if len(known) == len(costs) else None

    def record(self) -> dict[str, Any]:
        """What ``response_metadata["selfreg"]`` holds; JSON-ready."""
        decision, cost, plan_cost = self.decision, self.cost, self.decision.plan_cost
        flags = (*self.flags, *(flag for receipt in self.receipts for flag in receipt.flags))
        record: dict[str, Any] = describe(decision)
        record |= {
            "cost_usd": None if cost is None else str(cost),
            "plan_cost_usd": None if plan_cost is None else str(plan_cost),
            "attempts": sum(receipt.attempts for receipt in self.receipts),
            "request_id": decision.request.id,
            "flags": list(dict.fromkeys(flags)),
        }
        if decision.planned is not None and decision.planned.problem:
            record["plan_problem"] = decision.planned.problem
        return record


def describe(decision: Decision) -> dict[str, Any]:
    """Planned, sent and ignored, with where it comes from; JSON-ready."""
    proposal, compiled = decision.proposal, decision.compiled
    sent = compiled.wire
    return {
        "task": decision.task.text,
        "source": proposal.source,
        "plan": None if proposal.plan is None else proposal.plan.as_dict(),
        "planned": proposal.params.as_dict(),
        "sent": _own(sent),
        "ignored": [change.as_dict() for change in compiled.adjustments],
        "config_version": proposal.config_version,
        "rejected": list(decision.rejected),
    }


def _own(value: Any) -> Any:
    """A copy that whoever reads the record may change: what is sent is shared between requests."""
    if isinstance(value, Mapping):
        return {name: _own(item) if isinstance(item, list | dict) else item for name, item in value.items()}
    return list(value) if isinstance(value, list) else value


class Answering:
    """Answers requests to one model.

    Args:
        regulator: decides what is sent.
        calls: sends and pays.
        cached: answer from the exact cache, and store answers there.
    """

    def __init__(self, regulator: Regulator, calls: Calls, *, cached: bool = False) -> None:
        self.regulator = regulator
        self.calls = calls
        self._cached = cached

    def complete(self, request: Request, channel: Channel[A, Any], *, decision: Decision | None = None) -> Outcome[A]:
        """Answer a request, as decided where somebody has.

        Raises:
            BudgetExceeded: not even one sample fits; nothing was sent for it.
            ProviderError: the provider's last word.
        """
        outcome: Outcome[A] = Outcome(decision=decision or self.regulator.decide(request))
        while True:
            try:
                self._add(outcome, *self.calls.complete(self.spec(outcome.decision), channel))
                break
            except (ParameterRejected, ContextLengthExceeded) as exc:
                outcome.decision = self.regulator.concede(outcome.decision, exc)
        for index in range(1, rounds(outcome.decision)):
            try:
                self._add(outcome, *self.calls.complete(self.spec(outcome.decision, index), channel))
            except (BudgetExceeded, ProviderError) as exc:
                # Samples that are paid for are handed out; the record says that some are missing, and why.
                outcome.flags = (f"samples_missing: {type(exc).__name__}",)
                break
        return outcome

    async def acomplete(
        self, request: Request, channel: Channel[A, Any], *, decision: Decision | None = None
    ) -> Outcome[A]:
        """`complete` for asyncio; further samples are drawn at the same time."""
        outcome: Outcome[A] = Outcome(decision=decision or await self.regulator.adecide(request))
        while True:
            try:
                self._add(outcome, *await self.calls.acomplete(self.spec(outcome.decision), channel))
                break
            except (ParameterRejected, ContextLengthExceeded) as exc:
                outcome.decision = await asyncio.to_thread(self.regulator.concede, outcome.decision, exc)
        if (count := rounds(outcome.decision)) == 1:
            return outcome
        more = [self.calls.acomplete(self.spec(outcome.decision, index), channel) for index in range(1, count)]
        for result in await asyncio.gather(*more, return_exceptions=True):
            if isinstance(result, BudgetExceeded | ProviderError):
                outcome.flags = (f"samples_missing: {type(result).__name__}",)
            elif isinstance(result, BaseException):
                raise result
            else:
                self._add(outcome, *result)
        return outcome

    def stream(self, request: Request, channel: Channel[Any, P], outcome: Outcome[Any]) -> Iterator[P]:
        """Answer a request in pieces; ``outcome`` is complete when the iterator is exhausted."""
        while True:
            receipt = Receipt()
            outcome.receipts = [receipt]
            try:
                yield from self.calls.stream(self.spec(outcome.decision), channel, receipt)
                return
            except (ParameterRejected, ContextLengthExceeded) as exc:
                outcome.decision = self.regulator.concede(outcome.decision, exc)

    async def astream(
        self, request: Request, channel: Channel[Any, P], outcome: Outcome[Any]
    ) -> AsyncGenerator[P, None]:
        """`stream` for asyncio."""
        while True:
            receipt = Receipt()
            outcome.receipts = [receipt]
            pieces = self.calls.astream(self.spec(outcome.decision), channel, receipt)
            try:
                async with aclosing(pieces):
                    async for piece in pieces:
                        yield piece
                return
            except (ParameterRejected, ContextLengthExceeded) as exc:
                outcome.decision = await asyncio.to_thread(self.regulator.concede, outcome.decision, exc)

    def spec(self, decision: Decision, index: int = 0) -> CallSpec:
        """The paid call that carries out a decision.

        Args:
            decision: what is sent.
            index: counts repeated draws of the same payload. Each has a seed of its own if there is one at all: draws with
                the same seed would be one sample, paid for several times.
        """
        call = decision.call
        if index and (seed := decision.compiled.sent.seed) is not None:
            call = replace(call, payload=decision.payload.replace({"seed": seed + index}))
        return replace(call, cached=self._cached, sample_index=index) if index or self._cached else call

    @staticmethod
    def _add(outcome: Outcome[A], answer: A, receipt: Receipt) -> None:
        outcome.answers.append(answer)
        outcome.receipts.append(receipt)


def rounds(decision: Decision) -> int:
    """Calls needed for all samples: more than one where the model does not take ``n`` and the task needs several."""
    refused = any(
        change.field == "n" and change.why in ("capability", "conflict") for change in decision.compiled.adjustments
    )
    return decision.request.aggregation.n if refused and decision.compiled.sent.n is None else 1
