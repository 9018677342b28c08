"""From a request to its answer: decide, send, and once more without a field the provider refuses.

Joins the regulator (what is sent) with the paid-call path (how it is paid), for any channel.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from contextvars import copy_context
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, Generic, TypeVar

from selfreg_sdk.aggregate import Tally, VoteKey
from selfreg_sdk.booking import CallSpec, Receipt
from selfreg_sdk.calls import Calls
from selfreg_sdk.channel import Answer, Channel, Piece
from selfreg_sdk.decision import Decision
from selfreg_sdk.errors import BudgetExceeded, ContextLengthExceeded, ParameterRejected, ProviderError
from selfreg_sdk.facts import Request
from selfreg_sdk.regulator import Regulator
from selfreg_sdk.sampling import Drawn, Habit, Sampling

A = TypeVar("A", bound=Answer)
P = TypeVar("P", bound=Piece)

_MOST_THREADS = 32
_MOST_TASKS = 4096


@dataclass
class Outcome(Generic[A]):
    """An answered request.

    Attributes:
        decision: what was sent, and why.
        answers: one per call made; several where samples were drawn in waves, or the model takes no ``n``.
        receipts: what each cost.
        flags: anything unusual about the whole request.
        waves: samples asked for at a time, where several were wanted.
        tally, ballots: of a vote, as far as it was taken; a ballot per sample.
        decided_early: the vote was certain before all samples were drawn.
    """

    decision: Decision
    answers: list[A] = field(default_factory=list)
    receipts: list[Receipt] = field(default_factory=list)
    flags: tuple[str, ...] = ()
    waves: list[int] = field(default_factory=list)
    tally: Tally | None = None
    ballots: list[str | None] = field(default_factory=list)
    decided_early: bool = False

    def add(self, answer: A, receipt: Receipt) -> None:
        """Note one more call."""
        self.answers.append(answer)
        self.receipts.append(receipt)

    def flag(self, *names: str) -> None:
        """Note something unusual."""
        self.flags = (*self.flags, *names)

    @property
    def cost(self) -> Decimal | None:
        """USD over all calls and the plan, None if any of it is unknown."""
        costs = [self.decision.plan_cost, *(receipt.cost for receipt in self.receipts)]
        known = [cost for cost in costs if cost is not None]
        return sum(known, Decimal(0)) if len(known) == len(costs) else None

    def record(self) -> dict[str, Any]:
        """What ``response_metadata["selfreg"]`` holds; JSON-ready."""
        decision, cost, plan_cost = self.decision, self.cost, self.decision.plan_cost
        flags = [*self.flags, *(flag for receipt in self.receipts for flag in receipt.flags)]
        if decision.request.open and (tuned := decision.proposal.notes.get("tuned_n")):
            flags.append(f"n_bounded: {tuned}")
        record: dict[str, Any] = describe(decision)
        record |= {
            "cost_usd": None if cost is None else str(cost),
            "plan_cost_usd": None if plan_cost is None else str(plan_cost),
            "attempts": sum(receipt.attempts for receipt in self.receipts),
            "request_id": decision.request.id,
            "flags": list(dict.fromkeys(flags)),
        }
        if self.waves:
            record |= {"samples_of": decision.samples, "waves": list(self.waves)}
        if self.tally is not None:
            record |= {"votes": dict(self.tally.counts), "abstained": self.tally.abstained}
            record["decided_early"] = self.decided_early
        if decision.planned is not None and decision.planned.problem:
            record["plan_problem"] = decision.planned.problem
        return record


def describe(decision: Decision) -> dict[str, Any]:
    """Planned, sent and ignored, with where it comes from; JSON-ready."""
    proposal, compiled = decision.proposal, decision.compiled
    sent = compiled.wire
    return {
        "task": decision.task.text,
        "aggregation": str(decision.aggregation),
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
        self._habits: dict[str, Habit] = {}

    def complete(
        self,
        request: Request,
        channel: Channel[A, Any],
        *,
        decision: Decision | None = None,
        vote_key: VoteKey | None = None,
    ) -> Outcome[A]:
        """Answer a request, as decided where somebody has. Several samples are drawn in waves (`selfreg_sdk.sampling`).

        Args:
            request: what was asked for.
            channel: how it is sent.
            decision: what is sent; None decides now.
            vote_key: from text to ballot, for votes; None is the text.

        Raises:
            BudgetExceeded: not even one sample fits; nothing was sent for it.
            ProviderError: the provider's last word.
        """
        outcome: Outcome[A] = Outcome(decision=decision or self.regulator.decide(request))
        if outcome.decision.samples > 1:
            sampling = self._sampling(outcome, vote_key)
            while calls := sampling.next():
                if (refusal := sampling.take(calls, self._together(calls, channel))) is not None:
                    try:
                        outcome.decision = self.regulator.concede(outcome.decision, refusal)
                    except ProviderError as error:
                        sampling.fail(error)
            self._learn(outcome.decision, sampling)
            return outcome
        while True:
            try:
                outcome.add(*self.calls.complete(self.spec(outcome.decision), channel))
                return outcome
            except (ParameterRejected, ContextLengthExceeded) as exc:
                outcome.decision = self.regulator.concede(outcome.decision, exc)

    async def acomplete(
        self,
        request: Request,
        channel: Channel[A, Any],
        *,
        decision: Decision | None = None,
        vote_key: VoteKey | None = None,
    ) -> Outcome[A]:
        """`complete` for asyncio."""
        outcome: Outcome[A] = Outcome(decision=decision or await self.regulator.adecide(request))
        if outcome.decision.samples > 1:
            sampling = self._sampling(outcome, vote_key)
            while calls := sampling.next():
                if (refusal := sampling.take(calls, await self._atogether(calls, channel))) is not None:
                    try:
                        outcome.decision = await asyncio.to_thread(self.regulator.concede, outcome.decision, refusal)
                    except ProviderError as error:
                        sampling.fail(error)
            self._learn(outcome.decision, sampling)
            return outcome
        while True:
            try:
                outcome.add(*await self.calls.acomplete(self.spec(outcome.decision), channel))
                return outcome
            except (ParameterRejected, ContextLengthExceeded) as exc:
                outcome.decision = await asyncio.to_thread(self.regulator.concede, outcome.decision, exc)

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

    def spec(self, decision: Decision, index: int = 0, count: int | None = None) -> CallSpec:
        """The paid call that carries out a decision.

        Args:
            decision: what is sent.
            index: counts repeated draws of the same payload. Each has a seed of its own if there is one at all: draws with
                the same seed would be one sample, paid for several times.
            count: samples to ask for; None for all that the decision wants of one call.
        """
        call, sent = decision.call, decision.compiled.sent
        payload = decision.payload if index or count not in (None, call.n) else None
        if payload is not None and count not in (None, call.n):
            several, fewer = {"n": count} if count != 1 else {}, ("n",) if count == 1 else ()
            params = {name: value for name, value in {**call.params, **several}.items() if name not in fewer}
            payload = payload.replace(several, without=fewer)
            call = replace(call, payload=payload, params=params, n=count or 1)
        if payload is not None and index and sent.seed is not None:
            call = replace(call, payload=payload.replace({"seed": sent.seed + index}))
        return replace(call, cached=self._cached, sample_index=index) if index or self._cached else call

    # -- several samples -----------------------------------------------------------------------------------------------

    def _sampling(self, outcome: Outcome[A], vote_key: VoteKey | None) -> Sampling[A]:
        decision = outcome.decision
        # What is cached must be asked for in the same portions each time, so they cannot follow from what was seen so far.
        habit = None if self._cached else self._habits.get(decision.task.text)
        price = self.calls.books.price(decision.model)
        return Sampling(outcome, spec=self.spec, vote_key=vote_key, habit=habit, price=price)

    def _learn(self, decision: Decision, sampling: Sampling[Any]) -> None:
        if (habit := sampling.learned()) is not None:
            if len(self._habits) >= _MOST_TASKS:
                self._habits.clear()
            self._habits[decision.task.text] = habit

    def _together(self, calls: Sequence[CallSpec], channel: Channel[A, Any]) -> list[Drawn[A]]:
        """What comes of calls made at the same time, in their order; each ends, whatever comes of the others."""
        if len(calls) == 1:
            return [self._one(calls[0], channel)]
        with ThreadPoolExecutor(min(len(calls), _MOST_THREADS), thread_name_prefix="selfreg-sample") as pool:
            running = [pool.submit(copy_context().run, self._one, call, channel) for call in calls]
        return [one.result() for one in running]

    def _one(self, call: CallSpec, channel: Channel[A, Any]) -> Drawn[A]:
        try:
            return self.calls.complete(call, channel)
        except (BudgetExceeded, ProviderError) as error:
            return error

    async def _atogether(self, calls: Sequence[CallSpec], channel: Channel[A, Any]) -> list[Drawn[A]]:
        """`_together` for asyncio."""
        done: list[Drawn[A]] = []
        running = [self.calls.acomplete(call, channel) for call in calls]
        for result in await asyncio.gather(*running, return_exceptions=True):
            if isinstance(result, BaseException) and not isinstance(result, BudgetExceeded | ProviderError):
                raise result
            done.append(result)
        return done
