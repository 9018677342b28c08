"""Spending under hard caps: reserve → settle | release | unknown.

The promise: what providers billed <= what the ledger counts <= the cap, at every instant, for any number of threads
and processes on one store. It holds because

- the worst case of an attempt is held *before* it is sent, by one conditional UPDATE in one transaction;
- only evidence lowers what is counted: a reply with its usage, or the certainty that nothing was billed. A clock never
  does. When a lease ends, the attempt is charged at its worst case and marked unknown, which frees nothing;
- the reply, its usage and the settlement are one transaction, so there is no instant at which a reply that was
  received could be lost and paid for again.

A caller whose reply says more than the worst case (a provider that ignored max_tokens) is recorded in full and
flagged; that is the one way the ledger can pass a cap, and no client can prevent it.

::

    reserved ──settle──> settled            reply received
        ├──release─────> released           certainly not billed
        └──mark_unknown / lease ended──> unknown      maybe billed: charged at the worst case
                                            └── a late settle or release corrects it
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import sqlalchemy as sa

from selfreg_sdk.endpoint import endpoint_id
from selfreg_sdk.errors import BudgetExceeded, ConfigError, UnknownPriceError
from selfreg_sdk.money import from_pico, to_pico
from selfreg_sdk.store.engine import Store
from selfreg_sdk.store.ledger import BudgetStatus, Ledger, LedgerEntry, Purpose, State, Totals
from selfreg_sdk.store.responses import RecordedResponse, Responses
from selfreg_sdk.usage import Usage

_log = logging.getLogger(__name__)


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
        if (soft is None) != (on_soft is None) or (soft is not None and not 0 < soft <= 1):
            raise ConfigError(f"soft={soft!r} must be a fraction in (0, 1] and come together with on_soft")
        self._store = store
        self._ledger = Ledger(store)
        self._responses = Responses(store)
        self._lease = timedelta(seconds=lease_seconds)
        self._clock = clock
        self._soft = soft
        self._on_soft = on_soft
        self._told: set[str] = set()
        self._told_lock = threading.Lock()

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
        caps: dict[str, Decimal | None] = {}
        for scope, cap in scopes:
            if scope in caps:
                raise ConfigError(f"budget {scope!r} is named twice for one call; name each scope once")
            caps[scope] = cap
        capped = [scope for scope, cap in caps.items() if cap is not None]
        if worst is None and capped:
            raise UnknownPriceError(
                f"the price of model {info.model!r} at {endpoint_id(info.endpoint)!r} is not known, so the cap of budget "
                f"{capped[0]!r} cannot be kept; add a price override for it, or drop the cap"
            )
        held = 0 if worst is None else to_pico(worst)
        now = self._clock()
        with self._store.write() as connection:
            for scope, cap in sorted(caps.items()):
                granted = None if cap is None else to_pico(cap, round_up=False)
                refused = self._ledger.hold(connection, scope, worst=held, cap=granted, now=now)
                if refused is not None:
                    raise BudgetExceeded(
                        scope=scope,
                        cap=cap if cap is not None else Decimal(0),
                        spent=refused.spent,
                        held=refused.held,
                        wanted=from_pico(held),
                    )
            ledger_id = self._ledger.add(connection, self._row(info, sorted(caps), held, worst is not None, now))
        return Reservation(id=ledger_id, worst=worst, scopes=tuple(sorted(caps)), info=info)

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
            usage: tokens, after ``prices.trusted``; None is flagged ``usage_unknown``.

        Returns:
            USD charged; None when the price is not known.

        Raises:
            StoreError: nothing was recorded; the attempt stays reserved and is charged at its worst case by ``recover``.
        """
        now = self._clock()
        with self._store.write() as connection:
            row = self._ledger.lock(connection, reservation.id)
            if row["state"] == "settled":
                charged = row["cost_pico"]
                return None if charged is None else from_pico(charged)
            worst = row["worst_pico"]
            charged = worst if cost is None else to_pico(cost)
            marks = set(flags)
            if usage is None:
                marks.add("usage_unknown")
            if charged is None:
                marks.add("unpriced")
            elif worst is not None and charged > worst:
                marks.add("over_worst_case")
            if row["state"] != "reserved":
                marks.add("late")
            self._ledger.move(connection, row, "settled", cost=charged, now=now, usage=usage, flags=marks)
            if response is not None:
                self._responses.add(connection, response, ledger_id=reservation.id, now=now)
        self._tell(reservation.scopes)
        return None if charged is None else from_pico(charged)

    def release(self, reservation: Reservation, reason: str) -> None:
        """Free what is held: the attempt was certainly not billed. No effect on a settled row."""
        self._end(reservation.id, "released", reason, unless=("settled", "released"))

    def mark_unknown(self, reservation: Reservation, reason: str) -> None:
        """The attempt may have been billed: charge its worst case. Only on a row that is still reserved."""
        self._end(reservation.id, "unknown", reason, unless=("settled", "released", "unknown"))

    def recover(self, now: datetime | None = None) -> int:
        """Mark attempts whose lease ended, of any process, as unknown at their worst case; returns how many.

        This moves money from held to spent and never frees any, so a clock that jumps can do no harm: an attempt that
        was still running is corrected when it settles.
        """
        now = now or self._clock()
        with self._store.write() as connection:
            rows = self._ledger.lock_expired(connection, now)
            for row in rows:
                self._ledger.move(connection, row, "unknown", cost=row["worst_pico"], now=now, reason="lease ended")
        return len(rows)

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

    def _row(self, info: AttemptInfo, scopes: list[str], held: int, priced: bool, now: datetime) -> dict[str, Any]:
        return {
            "request_id": info.request_id,
            "attempt": info.attempt,
            "purpose": info.purpose,
            "state": "reserved",
            "task_key": info.task_key,
            "model": info.model,
            "endpoint": endpoint_id(info.endpoint),
            "config_version_id": info.config_version_id,
            "params": dict(info.params),
            "scopes": scopes,
            "worst_pico": held if priced else None,
            "flags": [],
            "pid": os.getpid(),
            "lease_until": now + self._lease,
            "created_at": now,
        }

    def _end(self, ledger_id: int, state: State, reason: str, *, unless: tuple[State, ...]) -> None:
        now = self._clock()
        with self._store.write() as connection:
            row: sa.RowMapping = self._ledger.lock(connection, ledger_id)
            if row["state"] not in unless:
                cost = row["worst_pico"] if state == "unknown" else None
                self._ledger.move(connection, row, state, cost=cost, now=now, reason=reason[:300])

    def _tell(self, scopes: tuple[str, ...]) -> None:
        """Call on_soft for scopes that reached the soft limit and were not told of before."""
        if self._soft is None or self._on_soft is None:
            return
        try:
            for status in self._ledger.status(scopes):
                if status.cap is None or status.spent + status.held < status.cap * self._soft:
                    continue
                with self._told_lock:
                    if status.scope in self._told:
                        continue
                    self._told.add(status.scope)
                self._on_soft(status)
        except Exception:
            _log.exception("the soft limit of budgets %r could not be reported", scopes)
