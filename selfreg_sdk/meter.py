"""Spending under hard caps: reserve → settle | release | unknown.

The promise: what providers billed <= what the ledger counts <= the cap, at every instant, for any number of threads
and processes on one store. It holds because

- the worst case of an attempt is held *before* it is sent; the check and the change are one transaction, which no other
  thread or process can come between;
- only evidence lowers what is counted: a reply with its usage, or the certainty that nothing was billed. A clock never
  does. When a lease ends, the attempt is charged at its worst case and marked unknown, which frees nothing;
- the reply, its usage and the settlement are one transaction, so there is no instant at which a reply that was
  received could be lost and paid for again.

One writer thread a process commits what all callers hand in, in groups (`selfreg_sdk.store.writer`). Every method that writes
has a twin for event loops, which awaits the group and never touches the database.

A caller whose reply says more than the worst case (a provider that ignored max_tokens) is recorded in full and
flagged; that is the one way the ledger can pass a cap, and no client can prevent it.

::

    reserved ──settle──> settled            reply received
        ├──release─────> released           certainly not billed
        └──mark_unknown / lease ended──> unknown      maybe billed: charged at the worst case
                                            └── a late settle or release corrects it
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from operator import itemgetter
from typing import Any, Literal

from selfreg_sdk.endpoint import endpoint_id
from selfreg_sdk.errors import ConfigError, UnknownPriceError
from selfreg_sdk.money import from_pico, to_pico
from selfreg_sdk.soft_limit import SoftLimit
from selfreg_sdk.store.engine import Store
from selfreg_sdk.store.journal import Attempt, End, Ending, Hold
from selfreg_sdk.store.ledger import BudgetStatus, Ledger, LedgerEntry, Purpose, State, Totals
from selfreg_sdk.store.responses import RecordedResponse
from selfreg_sdk.store.writer import Writer
from selfreg_sdk.usage import Usage


@dataclass(frozen=True, kw_only=True)
class AttemptInfo:
    """What one attempt is for.

    Attributes:
        request_id: the same for all attempts, planning and repeats of one request of the user.
        attempt: 1 for the first try.
        params: the decoding parameters as sent; no messages, no keys.
        config_version_id: the configuration that shaped it, if one did.
    """

    purpose: Purpose
    model: str
    endpoint: str
    request_id: str
    attempt: int = 1
    task_key: str = ""
    params: Mapping[str, Any] = field(default_factory=dict)
    config_version_id: int | None = None


@dataclass(frozen=True, kw_only=True)
class Reservation:
    """Money held for one attempt that may now be sent.

    Attributes:
        id: of its ledger row.
        worst: USD held in every scope; None when the price is not known.
    """

    id: int
    worst: Decimal | None
    scopes: tuple[str, ...]
    info: AttemptInfo


class Meter:
    """Holds and counts money on a store. Safe to share between threads.

    Args:
        lease_seconds: after this long an attempt that was never settled may be marked unknown by ``recover``.
        clock: returns aware datetimes; it stamps rows and ends leases, it never frees money.
        soft: fraction of a cap in (0, 1]; when a settlement reaches it, ``on_soft`` is called once per scope.
        on_soft: receives the status. Its errors are logged, not raised: the reply is already paid for.
    """

    def __init__(
        self,
        store: Store,
        *,
        lease_seconds: float = 900.0,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        soft: Decimal | None = None,
        on_soft: Callable[[BudgetStatus], None] | None = None,
    ) -> None:
        if lease_seconds <= 0:
            raise ConfigError(f"lease_seconds={lease_seconds!r} must be above zero")
        self._store = store
        self._ledger = Ledger(store)
        self._lease = timedelta(seconds=lease_seconds)
        self._clock = clock
        self._soft = SoftLimit(soft, on_soft)

    def reserve(
        self, *, scopes: Sequence[tuple[str, Decimal | None]], worst: Decimal | None, info: AttemptInfo
    ) -> Reservation:
        """Hold the worst case of one attempt in every scope, or in none.

        Args:
            scopes: (scope key, cap in USD or None for counting only); see ``Budget.scope_key``.
            worst: USD, from ``prices.worst_case``; None when the price is not known, allowed only without caps.

        Raises:
            BudgetExceeded: it does not fit under one of the caps; nothing is held, do not send.
            UnknownPriceError: no price, but a cap.
            StoreError: the store cannot be written; nothing is held, do not send.
        """
        hold = self._hold(scopes, worst, info)
        (ledger_id,) = self._writer.run(hold)
        return Reservation(id=ledger_id, worst=worst, scopes=tuple(hold.caps), info=info)

    async def areserve(
        self, *, scopes: Sequence[tuple[str, Decimal | None]], worst: Decimal | None, info: AttemptInfo
    ) -> Reservation:
        """`reserve` on an event loop. If the task is cancelled meanwhile, what was held is given back."""
        hold = self._hold(scopes, worst, info)
        return Reservation(id=await self._writer.arun(hold), worst=worst, scopes=tuple(hold.caps), info=info)

    def settle(
        self,
        reservation: Reservation,
        *,
        cost: Decimal | None,
        usage: Usage | None,
        flags: Iterable[str] = (),
        response: RecordedResponse | None = None,
    ) -> Decimal | None:
        """Record that a reply was received: usage, cost and, if given, the reply itself, in one transaction.

        Call it before the reply is handed out. A second call changes nothing. On a row already marked unknown or
        released it puts the true cost in place of what was counted.

        Args:
            cost: USD; None when it is not known, then the worst case is charged.
            usage: tokens, after ``prices.trusted``; None is flagged ``usage_missing``, unless ``flags`` say why.

        Returns:
            USD charged; None when the price is not known.

        Raises:
            StoreError: nothing was recorded; the attempt stays reserved and is charged at its worst case by ``recover``.
        """
        ((attempt, _),) = self._writer.run(self._settlement(reservation, cost, usage, flags, response))
        for status in self._soft.reached(reservation.scopes, self._writer.journal.seen):
            self._soft.tell(status)
        return _usd(attempt.cost)

    async def asettle(
        self,
        reservation: Reservation,
        *,
        cost: Decimal | None,
        usage: Usage | None,
        flags: Iterable[str] = (),
        response: RecordedResponse | None = None,
    ) -> Decimal | None:
        """`settle` on an event loop. A task that is cancelled meanwhile is cancelled when the books are closed."""
        attempt, _ = await self._writer.arun(self._settlement(reservation, cost, usage, flags, response))
        for status in self._soft.reached(reservation.scopes, self._writer.journal.seen):
            await asyncio.to_thread(self._soft.tell, status)
        return _usd(attempt.cost)

    def release(self, reservation: Reservation, reason: str) -> None:
        """Free what is held: the attempt was certainly not billed. No effect on a settled row."""
        self._writer.run(self._end(reservation.id, reservation.scopes, "released", reason))

    async def arelease(self, reservation: Reservation, reason: str) -> None:
        """`release` on an event loop."""
        await self._writer.arun(self._end(reservation.id, reservation.scopes, "released", reason))

    def mark_unknown(self, reservation: Reservation, reason: str) -> None:
        """The attempt may have been billed: charge its worst case. Only on a row that is still reserved."""
        self._writer.run(self._end(reservation.id, reservation.scopes, "unknown", reason))

    async def amark_unknown(self, reservation: Reservation, reason: str) -> None:
        """`mark_unknown` on an event loop."""
        await self._writer.arun(self._end(reservation.id, reservation.scopes, "unknown", reason))

    def recover(self, now: datetime | None = None) -> int:
        """Mark attempts whose lease ended, of any process, as unknown at their worst case; returns how many.

        This moves money from held to spent and never frees any, so a clock that jumps can do no harm: an attempt that
        was still running is corrected when it settles.
        """
        now = now or self._clock()
        ends = [self._end(*attempt, "unknown", "lease ended", now) for attempt in self._ledger.expired(now)]
        return sum(changed for _, changed in self._writer.run(*ends)) if ends else 0

    def room(self, caps: Mapping[str, Decimal], *, within: float) -> Decimal | None:
        """What may still be spent under the tightest of some caps, as this process last saw it; reads no database.

        Args:
            caps: scope to cap in USD, at least one.
            within: seconds; what was seen longer ago counts as not seen. Other processes may have spent meanwhile.

        Returns:
            None when one of them was not seen.
        """
        seen, now, left = self._writer.journal.seen, time.monotonic(), []
        for scope, cap in caps.items():
            total = seen.get(scope)
            if total is None or now - total.at > within:
                return None
            left.append(cap - from_pico(total.spent + total.held))
        return min(left)

    def status(self, scopes: Iterable[str] | None = None) -> tuple[BudgetStatus, ...]:
        """Every budget on the store, or those named, by name."""
        return self._ledger.status(scopes)

    def ledger(
        self,
        *,
        limit: int | None = None,
        state: State | None = None,
        purpose: Purpose | None = None,
        request_id: str | None = None,
        task_key: str | None = None,
    ) -> tuple[LedgerEntry, ...]:
        """Attempts, newest first, filtered by what is given."""
        wanted = {"state": state, "purpose": purpose, "request_id": request_id, "task_key": task_key}
        return self._ledger.entries(limit=limit, **{name: value for name, value in wanted.items() if value is not None})

    def totals(
        self, *, purpose: Purpose | None = None, request_id: str | None = None, task_key: str | None = None
    ) -> Totals:
        """Tokens and USD over attempts, filtered by what is given."""
        wanted = {"purpose": purpose, "request_id": request_id, "task_key": task_key}
        return self._ledger.totals(**{name: value for name, value in wanted.items() if value is not None})

    @property
    def _writer(self) -> Writer:
        return self._store.service(Writer)

    def _hold(self, scopes: Sequence[tuple[str, Decimal | None]], worst: Decimal | None, info: AttemptInfo) -> Hold:
        caps: dict[str, int | None] = {}
        for scope, cap in sorted(scopes, key=itemgetter(0)):
            if scope in caps:
                raise ConfigError(f"budget {scope!r} is named twice for one call; name each scope once")
            if cap is not None and worst is None:
                raise UnknownPriceError(
                    f"the price of model {info.model!r} at {endpoint_id(info.endpoint)!r} is not known, so the cap of "
                    f"budget {scope!r} cannot be kept; add a price override for it, or drop the cap"
                )
            caps[scope] = None if cap is None else to_pico(cap, round_up=False)
        held, now = None if worst is None else to_pico(worst), self._clock()
        row = {
            "request_id": info.request_id,
            "attempt": info.attempt,
            "purpose": info.purpose,
            "state": "reserved",
            "task_key": info.task_key,
            "model": info.model,
            "endpoint": endpoint_id(info.endpoint),
            "config_version_id": info.config_version_id,
            "params": dict(info.params),
            "scopes": list(caps),
            "worst_pico": held,
            "flags": [],
            "pid": os.getpid(),
            "lease_until": now + self._lease,
            "created_at": now,
        }
        return Hold(caps=caps, worst=held or 0, row=self._writer.journal.row(row), now=now)

    def _settlement(
        self,
        reservation: Reservation,
        cost: Decimal | None,
        usage: Usage | None,
        flags: Iterable[str],
        response: RecordedResponse | None,
    ) -> End:
        known, marks, now = None if cost is None else to_pico(cost), set(flags), self._clock()
        if usage is None and not marks & _NO_USAGE:
            marks.add("usage_missing")

        def decide(attempt: Attempt) -> Ending | None:
            if attempt.state == "settled":
                return None
            charged = attempt.worst if known is None else known
            if charged is None:
                marks.add("unpriced")
            elif attempt.worst is not None and charged > attempt.worst:
                marks.add("over_worst_case")
            if attempt.state != "reserved":
                marks.add("late")
            return Ending(state="settled", cost=charged, now=now, usage=usage, flags=marks, response=response)

        return End(id=reservation.id, scopes=reservation.scopes, decide=decide, durable=True)

    def _end(
        self,
        ledger_id: int,
        scopes: tuple[str, ...],
        state: Literal["released", "unknown"],
        reason: str,
        now: datetime | None = None,
    ) -> End:
        now = now or self._clock()
        final: tuple[State, ...] = (
            ("settled", "released") if state == "released" else ("settled", "released", "unknown")
        )

        def decide(attempt: Attempt) -> Ending | None:
            if attempt.state in final:
                return None
            return Ending(state=state, cost=attempt.worst if state == "unknown" else None, now=now, reason=reason[:300])

        return End(id=ledger_id, scopes=scopes, decide=decide, durable=False)


# What a settlement may say instead of how much was used.
_NO_USAGE = frozenset({"usage_missing", "usage_implausible"})


def _usd(pico: int | None) -> Decimal | None:
    return None if pico is None else from_pico(pico)
