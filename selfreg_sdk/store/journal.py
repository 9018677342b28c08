"""What happens to the rows of attempts and the sums of budgets, many changes in one transaction.

What a change may be is decided in ``selfreg_sdk.meter``; here it is made. Rows and sums are locked, read, reckoned with in
Python and written back, all inside one transaction, so that no thread or process can come between the check of a cap and the
change. The sum of a scope is only ever moved by the difference between what a row counted before and what it counts now, so
the two cannot drift apart.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from selfreg_sdk.errors import BudgetExceeded, ConfigError
from selfreg_sdk.money import from_pico
from selfreg_sdk.store.bulk import Cursor, Rows
from selfreg_sdk.store.engine import Store
from selfreg_sdk.store.ledger import BudgetStatus, State
from selfreg_sdk.store.responses import RESPONSE_COLUMNS, RecordedResponse, response_row
from selfreg_sdk.store.tables import metadata
from selfreg_sdk.usage import Usage

_NEW = (
    *("request_id", "attempt", "purpose", "state", "task_key", "model", "endpoint", "config_version_id"),
    *("params", "scopes", "worst_pico", "flags", "pid", "lease_until", "created_at"),
)
_ENDED = (
    *("id", "state", "cost_pico", "prompt_tokens", "completion_tokens", "reasoning_tokens", "cached_tokens"),
    *("flags", "reason", "ended_at"),
)
# Scopes: with a budget for each run or user there is no end of them.
_REMEMBERED = 10_000

_SUMS = ("scope", "spent_pico", "held_pico", "unpriced", "last_cap_pico")


@dataclass(slots=True)
class Attempt:
    """A row of the ledger, as far as it counts; money in pico-USD."""

    id: int
    state: State
    worst: int | None
    cost: int | None
    scopes: tuple[str, ...]

    def counts(self) -> tuple[int, int, int]:
        """(spent, held, unpriced) in each of its scopes."""
        if self.state == "reserved":
            return 0, self.worst or 0, 0
        if self.state == "released":
            return 0, 0, 0
        return self.cost or 0, 0, int(self.cost is None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ending:
    """How an attempt ended; ``response`` is stored with it."""

    state: State
    cost: int | None
    now: datetime
    usage: Usage | None = None
    flags: Iterable[str] = ()
    reason: str | None = None
    response: RecordedResponse | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Hold:
    """Hold ``worst`` pico-USD in every scope and add a row, or do neither. Its outcome is the id of the row.

    Attributes:
        caps: scope to cap in pico-USD, None to count only; sorted by scope.
        row: from ``Journal.row``.
    """

    caps: Mapping[str, int | None]
    worst: int
    row: tuple[Any, ...]
    now: datetime
    durable: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class End:
    """End an attempt. Its outcome is the row as it then is, and whether it was changed.

    Attributes:
        scopes: of its row.
        decide: from the row as it is to its ending, None to leave it. Called with the row locked.
        durable: somebody will rely on it, so it must be on the disk.
    """

    id: int
    scopes: tuple[str, ...]
    decide: Callable[[Attempt], Ending | None]
    durable: bool


Operation = Hold | End


@dataclass(slots=True)
class Sum:
    """A budget's row, and what the running transaction adds to it; money in pico-USD.

    Attributes:
        at: monotonic time at which this was true.
    """

    spent: int
    held: int
    unpriced: int
    cap: int | None
    at: float = field(default_factory=time.monotonic)
    added: tuple[int, int, int] = (0, 0, 0)
    touched: datetime | None = None

    def add(self, change: tuple[int, int, int], now: datetime) -> None:
        """Move the sum."""
        spent, held, unpriced = change
        self.spent += spent
        self.held += held
        self.unpriced += unpriced
        self.added = (self.added[0] + spent, self.added[1] + held, self.added[2] + unpriced)
        self.touched = now

    def status(self, scope: str) -> BudgetStatus:
        """As it is shown."""
        return BudgetStatus(
            scope=scope,
            cap=None if self.cap is None else from_pico(self.cap),
            spent=from_pico(self.spent),
            held=from_pico(self.held),
            unpriced=self.unpriced,
        )


class Journal:
    """Makes changes on one store, for one process. For one thread at a time.

    Attributes:
        seen: the sums of scopes as of the last change this process made in them.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        dialect, tables = store.dialect, metadata.tables
        self._sqlite = dialect.name == "sqlite"
        self._new = Rows(dialect, tables["ledger"], _NEW)
        self._new_with_id = Rows(dialect, tables["ledger"], ("id", *_NEW))
        self._held = Rows(dialect, tables["ledger"], ("id", "state", "worst_pico", "cost_pico"))
        self._ended = Rows(dialect, tables["ledger"], _ENDED)
        self._sums = Rows(dialect, tables["budget"], _SUMS)
        self._moved = Rows(dialect, tables["budget"], (*_SUMS, "updated_at"))
        self._responses = Rows(dialect, tables["response"], RESPONSE_COLUMNS)
        self._known: set[str] = set()
        self.seen: dict[str, Sum] = {}

    def row(self, values: Mapping[str, Any]) -> tuple[Any, ...]:
        """A new row of the ledger in the form ``Hold`` takes; safe to call from any thread.

        Raises:
            ConfigError: a value that JSON has no form for.
        """
        return self._new.bind([values[name] for name in _NEW])

    def post(self, operations: Sequence[Operation]) -> list[Any]:
        """Make all changes in one transaction; an outcome is what an operation says, or the error it alone ended with.

        Ends come first, so that the money they free is there for the holds, which come in the order given.

        Raises:
            StoreError: nothing was changed at all.
        """
        with self._store.group(durable=any(operation.durable for operation in operations)) as cursor:
            page = _Page(cursor, self)
            outcomes = page.write(operations)
        if len(self.seen) > _REMEMBERED:
            self._known.clear()
            self.seen.clear()
        self._known.update(page.sums)
        self.seen.update(page.sums)
        return outcomes


class _Page:
    """One transaction of a journal."""

    def __init__(self, cursor: Cursor, journal: Journal) -> None:
        self._cursor = cursor
        self._of = journal
        self._attempts: dict[int, Attempt] = {}
        self._made: set[str] = set()
        self.sums: dict[str, Sum] = {}

    def write(self, operations: Sequence[Operation]) -> list[Any]:
        holds = [(place, operation) for place, operation in enumerate(operations) if isinstance(operation, Hold)]
        ends = [(place, operation) for place, operation in enumerate(operations) if isinstance(operation, End)]
        scopes: set[str] = set()
        for _, hold in holds:
            scopes.update(hold.caps)
        for _, end in ends:
            scopes.update(end.scopes)
        # Everybody locks attempts first and sums then, each in order, so that no two can wait for each other.
        if ends:
            self._lock_attempts([end for _, end in ends])
        self._lock_sums(scopes - self._of._known, scopes)
        # A row that somebody deleted counts as one that never was.
        if lost := scopes - self.sums.keys():
            self._lock_sums(lost, lost)

        outcomes: list[Any] = [None] * len(operations)
        endings: dict[int, Ending] = {}
        for place, end in ends:
            outcomes[place] = self._end(end, endings)
        granted: list[tuple[int, Hold]] = []
        for place, hold in holds:
            outcomes[place] = refusal = self._refusal(hold)
            if refusal is None:
                self._hold(hold)
                granted.append((place, hold))
        if endings:
            self._write_endings(endings)
        if granted:
            for (place, _), id_ in zip(granted, self._add([hold.row for _, hold in granted]), strict=True):
                outcomes[place] = id_
        self._write_sums()
        return outcomes

    def _lock_attempts(self, ends: Sequence[End]) -> None:
        scopes = {end.id: end.scopes for end in ends}
        for id_, state, worst, cost in self._of._held.select(self._cursor, sorted(scopes)):
            self._attempts[id_] = Attempt(id_, state, worst, cost, scopes[id_])

    def _lock_sums(self, new: set[str], scopes: set[str]) -> None:
        for scope in sorted(new):
            empty = self._of._moved.bind((scope, 0, 0, 0, None, datetime.now(UTC)))
            self._of._moved.insert(self._cursor, [empty], unless=("scope",))
            if self._cursor.rowcount == 1:
                self._made.add(scope)
        for scope, spent, held, unpriced, cap in self._of._sums.select(self._cursor, sorted(scopes)):
            self.sums[scope] = Sum(spent, held, unpriced, cap)

    def _end(self, operation: End, endings: dict[int, Ending]) -> Any:
        attempt = self._attempts.get(operation.id)
        if attempt is None:
            return ConfigError(f"attempt {operation.id!r} is not in this store; settle it where it was reserved")
        try:
            ending = operation.decide(attempt)
        except Exception as error:
            return error
        if ending is not None:
            before = attempt.counts()
            attempt.state, attempt.cost = ending.state, ending.cost
            spent, held, unpriced = (new - old for new, old in zip(attempt.counts(), before, strict=True))
            for scope in attempt.scopes:
                self.sums[scope].add((spent, held, unpriced), ending.now)
            endings[attempt.id] = ending
        return attempt, ending is not None

    def _refusal(self, operation: Hold) -> BudgetExceeded | None:
        for scope, cap in operation.caps.items():
            used = self.sums[scope]
            if cap is not None and used.spent + used.held + operation.worst > cap:
                return BudgetExceeded(
                    scope=scope,
                    cap=from_pico(cap),
                    spent=from_pico(used.spent),
                    held=from_pico(used.held),
                    wanted=from_pico(operation.worst),
                )
        return None

    def _hold(self, operation: Hold) -> None:
        for scope, cap in operation.caps.items():
            self.sums[scope].add((0, operation.worst, 0), operation.now)
            self.sums[scope].cap = cap

    def _write_endings(self, endings: Mapping[int, Ending]) -> None:
        of, cursor = self._of, self._cursor
        of._ended.update(cursor, [of._ended.bind(_ended(id_, ending)) for id_, ending in endings.items()])
        replies = [
            of._responses.bind(response_row(ending.response, ledger_id=id_, now=ending.now).values())
            for id_, ending in endings.items()
            if ending.response is not None
        ]
        of._responses.insert(cursor, replies, unless=("key", "sample_index"))

    def _add(self, rows: Sequence[tuple[Any, ...]]) -> Sequence[int]:
        """Insert new attempts; their ids."""
        of, cursor = self._of, self._cursor
        if not of._sqlite:
            cursor.execute(_NEXT_IDS, (len(rows),))
            ids = [id_ for (id_,) in cursor.fetchall()]
            of._new_with_id.insert(cursor, [(id_, *row) for id_, row in zip(ids, rows, strict=True)])
            return ids
        # AUTOINCREMENT counts upwards, and nobody else inserts meanwhile.
        of._new.insert(cursor, rows)
        return range(cursor.lastrowid - len(rows) + 1, cursor.lastrowid + 1)

    def _write_sums(self) -> None:
        of, cursor = self._of, self._cursor
        moved = [
            of._moved.bind((scope, *total.added, total.cap, total.touched))
            for scope, total in self.sums.items()
            if total.touched is not None
        ]
        of._moved.update(cursor, moved, add=_SUMS[1:4])
        # Scopes in which everybody was refused are left as if nobody had asked.
        dropped = [scope for scope in sorted(self._made) if self.sums[scope].touched is None]
        of._sums.delete(cursor, dropped)
        for scope in dropped:
            del self.sums[scope]


_NEXT_IDS = "SELECT nextval(pg_get_serial_sequence('ledger', 'id')) FROM generate_series(1, %s)"


def _ended(id_: int, ending: Ending) -> tuple[Any, ...]:
    used = ending.usage
    counts = (
        (None, None, None, None)
        if used is None
        else (used.prompt_tokens, used.completion_tokens, used.reasoning_tokens, used.cached_tokens)
    )
    return (id_, ending.state, ending.cost, *counts, sorted(ending.flags), ending.reason, ending.now)
