"""What the ledger and the budgets say: one row per attempt, one sum per scope. They are changed in ``journal``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

import sqlalchemy as sa

from selfreg_sdk.money import from_pico
from selfreg_sdk.store.engine import Store
from selfreg_sdk.store.tables import OPEN, metadata
from selfreg_sdk.usage import Usage

Purpose = Literal["answer", "plan", "trial", "score", "probe"]
State = Literal["reserved", "settled", "released", "unknown"]

_ledger = metadata.tables["ledger"]
_budget = metadata.tables["budget"]


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
    """Reads rows of the ledger and the budget table."""

    def __init__(self, store: Store) -> None:
        self._store = store

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

    def expired(self, now: datetime) -> list[tuple[int, tuple[str, ...]]]:
        """Reserved rows whose lease ended, oldest first: id and scopes."""
        query = sa.select(_ledger.c.id, _ledger.c.scopes).where(OPEN, _ledger.c.lease_until <= now)
        with self._store.read() as connection:
            # Put in order here: asked for it, SQLite would walk through the whole ledger by id.
            return sorted((row.id, tuple(row.scopes)) for row in connection.execute(query))

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
