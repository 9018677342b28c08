"""The ledger and the budgets: one row per attempt, one sum per scope, always changed together.

What a change may be is decided in ``selfreg_sdk.meter``; here it is made. The sum of a scope is only ever moved by
the difference between what a row counted before and what it counts now, so the two cannot drift apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

import sqlalchemy as sa

from selfreg_sdk.money import from_pico
from selfreg_sdk.store.engine import Store
from selfreg_sdk.store.tables import metadata
from selfreg_sdk.usage import Usage

Purpose = Literal["answer", "plan", "trial", "score", "probe"]
State = Literal["reserved", "settled", "released", "unknown"]

_ledger = metadata.tables["ledger"]
_budget = metadata.tables["budget"]

# The statements of every call, built once: building them costs more than running them.
_HOLD = (
    sa.update(_budget)
    .where(
        _budget.c.scope == sa.bindparam("of_scope"),
        sa.or_(
            sa.bindparam("cap", type_=sa.BigInteger).is_(None),
            _budget.c.spent_pico + _budget.c.held_pico + sa.bindparam("worst", type_=sa.BigInteger)
            <= sa.bindparam("cap", type_=sa.BigInteger),
        ),
    )
    .values(
        held_pico=_budget.c.held_pico + sa.bindparam("worst", type_=sa.BigInteger),
        last_cap_pico=sa.bindparam("cap", type_=sa.BigInteger),
        updated_at=sa.bindparam("updated_at"),
    )
)
_ADD = sa.insert(_ledger).returning(_ledger.c.id)
_LOCK = sa.select(_ledger).where(_ledger.c.id == sa.bindparam("of_id")).with_for_update()
_MOVE = (
    sa.update(_budget)
    .where(_budget.c.scope == sa.bindparam("of_scope"))
    .values(
        spent_pico=_budget.c.spent_pico + sa.bindparam("spent", type_=sa.BigInteger),
        held_pico=_budget.c.held_pico + sa.bindparam("held", type_=sa.BigInteger),
        unpriced=_budget.c.unpriced + sa.bindparam("more_unpriced", type_=sa.Integer),
        updated_at=sa.bindparam("updated_at"),
    )
)
_END = sa.update(_ledger).where(_ledger.c.id == sa.bindparam("of_id"))


@dataclass(frozen=True, kw_only=True)
class BudgetStatus:
    """One scope: what it spent, what calls in flight hold, and the cap that was last used with it (None: no cap).

    Attributes:
        unpriced: attempts whose cost is not known; they are not in ``spent``.
    """

    scope: str
    cap: Decimal | None
    spent: Decimal
    held: Decimal
    unpriced: int

    @property
    def left(self) -> Decimal | None:
        """What a new call may still cost at most; None without a cap."""
        return None if self.cap is None else max(self.cap - self.spent - self.held, Decimal(0))


@dataclass(frozen=True, kw_only=True)
class LedgerEntry:
    """One attempt, as recorded.

    Attributes:
        worst: USD held for it; None when the price is not known.
        cost: USD charged for it; None while reserved, when released and when the price is not known.
    """

    id: int
    request_id: str
    attempt: int
    purpose: Purpose
    state: State
    task_key: str
    model: str
    endpoint: str
    config_version_id: int | None
    params: Mapping[str, Any]
    scopes: tuple[str, ...]
    worst: Decimal | None
    cost: Decimal | None
    usage: Usage | None
    flags: tuple[str, ...]
    reason: str | None
    created_at: datetime
    lease_until: datetime
    ended_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class Totals:
    """Sums over attempts.

    Attributes:
        settled: attempts with a reply; the tokens and ``usd`` are theirs.
        unknown: attempts that may have been billed; ``unknown_usd`` is what they were charged, their worst case.
        unpriced: attempts, settled or unknown, without a known cost.
    """

    settled: int
    unknown: int
    unpriced: int
    prompt_tokens: int
    completion_tokens: int
    usd: Decimal
    unknown_usd: Decimal

    @property
    def tokens(self) -> int:
        """Prompt plus completion."""
        return self.prompt_tokens + self.completion_tokens


class Ledger:
    """Rows of the ledger and the budget table. Writers take the caller's transaction, readers bring their own."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def hold(
        self, connection: sa.Connection, scope: str, *, worst: int, cap: int | None, now: datetime
    ) -> BudgetStatus | None:
        """Hold ``worst`` pico-USD in a scope if it fits under the cap; returns the refusing scope, else None.

        The check and the change are one UPDATE, so no other thread or process can come between them.
        """
        empty = {"scope": scope, "spent_pico": 0, "held_pico": 0, "unpriced": 0, "updated_at": now}
        connection.execute(self._store.insert_new(_budget), empty)
        values = {"of_scope": scope, "worst": worst, "cap": cap, "updated_at": now}
        if connection.execute(_HOLD, values).rowcount == 1:
            return None
        return _status(connection.execute(sa.select(_budget).where(_budget.c.scope == scope)).mappings().one())

    def add(self, connection: sa.Connection, row: Mapping[str, Any]) -> int:
        """Insert the row of an attempt; returns its id."""
        return int(connection.execute(_ADD, row).scalar_one())

    def lock(self, connection: sa.Connection, ledger_id: int) -> sa.RowMapping:
        """One row, kept from others until the transaction ends."""
        return connection.execute(_LOCK, {"of_id": ledger_id}).mappings().one()

    def lock_expired(self, connection: sa.Connection, now: datetime) -> list[sa.RowMapping]:
        """Reserved rows whose lease ended, kept from others; rows another process is just handling are skipped."""
        query = sa.select(_ledger).where(_ledger.c.state == "reserved", _ledger.c.lease_until <= now)
        return list(connection.execute(query.with_for_update(skip_locked=True)).mappings())

    def move(
        self,
        connection: sa.Connection,
        row: sa.RowMapping,
        state: State,
        *,
        cost: int | None,
        now: datetime,
        usage: Usage | None = None,
        flags: Iterable[str] = (),
        reason: str | None = None,
    ) -> None:
        """Give a row its new state and cost, and move every scope it counts in by the difference."""
        before = _counted(row["state"], row["worst_pico"], row["cost_pico"])
        after = _counted(state, row["worst_pico"], cost)
        spent, held, unpriced = (new - old for new, old in zip(after, before, strict=True))
        # In the order in which reserve takes them, so that two transactions cannot wait for each other.
        for scope in sorted(row["scopes"]):
            change = {"of_scope": scope, "spent": spent, "held": held, "more_unpriced": unpriced, "updated_at": now}
            connection.execute(_MOVE, change)
        counts = {
            "prompt_tokens": usage and usage.prompt_tokens,
            "completion_tokens": usage and usage.completion_tokens,
            "reasoning_tokens": usage and usage.reasoning_tokens,
            "cached_tokens": usage and usage.cached_tokens,
        }
        ended = {"state": state, "cost_pico": cost, "flags": sorted(flags), "reason": reason, "ended_at": now}
        connection.execute(_END, {"of_id": row["id"], **counts, **ended})

    def status(self, scopes: Iterable[str] | None = None) -> tuple[BudgetStatus, ...]:
        """Every budget ever used, or those named, by name."""
        query = sa.select(_budget).order_by(_budget.c.scope)
        if scopes is not None:
            query = query.where(_budget.c.scope.in_(list(scopes)))
        with self._store.read() as connection:
            return tuple(_status(row) for row in connection.execute(query).mappings())

    def entries(self, *, limit: int | None = None, **equal: str) -> tuple[LedgerEntry, ...]:
        """Attempts, newest first, where the columns named have the values given."""
        query = _where(sa.select(_ledger), equal).order_by(_ledger.c.id.desc()).limit(limit)
        with self._store.read() as connection:
            return tuple(_entry(row) for row in connection.execute(query).mappings())

    def totals(self, **equal: str) -> Totals:
        """Sums over attempts where the columns named have the values given."""
        sums = (
            _ledger.c.state,
            sa.func.count().label("rows"),
            sa.func.count(_ledger.c.cost_pico).label("priced"),
            *(
                sa.func.coalesce(sa.func.sum(_ledger.c[name]), 0).label(name)
                for name in ("prompt_tokens", "completion_tokens", "cost_pico")
            ),
        )
        query = _where(sa.select(*sums).where(_ledger.c.state.in_(("settled", "unknown"))), equal)
        with self._store.read() as connection:
            by_state = {row["state"]: row for row in connection.execute(query.group_by(_ledger.c.state)).mappings()}
        nothing = {"rows": 0, "priced": 0, "prompt_tokens": 0, "completion_tokens": 0, "cost_pico": 0}
        settled, unknown = (by_state.get(state, nothing) for state in ("settled", "unknown"))
        return Totals(
            settled=settled["rows"],
            unknown=unknown["rows"],
            unpriced=settled["rows"] - settled["priced"] + unknown["rows"] - unknown["priced"],
            prompt_tokens=int(settled["prompt_tokens"]),
            completion_tokens=int(settled["completion_tokens"]),
            usd=from_pico(int(settled["cost_pico"])),
            unknown_usd=from_pico(int(unknown["cost_pico"])),
        )


def _counted(state: State, worst: int | None, cost: int | None) -> tuple[int, int, int]:
    """What a row in this state counts as (spent, held, unpriced) in each of its scopes."""
    if state == "reserved":
        return 0, worst or 0, 0
    if state == "released":
        return 0, 0, 0
    return cost or 0, 0, int(cost is None)


def _where(query: sa.Select[Any], equal: Mapping[str, str]) -> sa.Select[Any]:
    return query.where(*(_ledger.c[name] == value for name, value in equal.items()))


def _usd(pico: int | None) -> Decimal | None:
    return None if pico is None else from_pico(pico)


def _status(row: sa.RowMapping) -> BudgetStatus:
    return BudgetStatus(
        scope=row["scope"],
        cap=_usd(row["last_cap_pico"]),
        spent=from_pico(row["spent_pico"]),
        held=from_pico(row["held_pico"]),
        unpriced=row["unpriced"],
    )


def _entry(row: sa.RowMapping) -> LedgerEntry:
    values = dict(row)
    counts = {
        name: values.pop(name) for name in ("prompt_tokens", "completion_tokens", "reasoning_tokens", "cached_tokens")
    }
    values.pop("pid")
    return LedgerEntry(
        worst=_usd(values.pop("worst_pico")),
        cost=_usd(values.pop("cost_pico")),
        usage=None if counts["prompt_tokens"] is None else Usage(**counts),
        scopes=tuple(values.pop("scopes")),
        flags=tuple(values.pop("flags")),
        **values,
    )
