"""Rows of draws: what a study asked for, who is at it, and what became of it.

A worker claims a row before it carries it out. The claim is a lease: it holds until the worker finishes or gives up, or until
its time has run out, for then the worker counts as dead and another takes over. Finishing takes the lease: what a worker
brings that lost it is turned away. Leases go by the clock of the database where there is one, else by that of the machine.

No row waits for the disk: a power cut may take the last of them, and what they say follows from the ledger and the replies.

What a row cost is never added up by a worker: it is the sum of the ledger's rows of its request, so that it holds what
died with a worker, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from selfreg_sdk.money import from_pico
from selfreg_sdk.store.draw_row import DrawEnd, DrawId, DrawRow, draw_of, ending_of, id_of
from selfreg_sdk.store.engine import Store
from selfreg_sdk.store.tables import metadata

_draws = metadata.tables["draw"]
_studies = metadata.tables["study"]
_leases = metadata.tables["lease"]
_ledger = metadata.tables["ledger"]

_AT_ONCE = 500
"""Values in one IN."""


@dataclass(frozen=True, kw_only=True)
class Claimed:
    """What a worker got.

    Attributes:
        ids: draws that are its own now.
        others: draws of the study that others are at.
    """

    ids: tuple[DrawId, ...]
    others: int


class DrawRows:
    """Draws of one study. Every method is one transaction and blocks: not for event loops.

    Args:
        request_id: names a draw in the ledger.
        gone: whether an owner is known to be dead, so that its leases need not run out.
    """

    def __init__(
        self,
        store: Store,
        study_id: int,
        *,
        request_id: Callable[[DrawId], str],
        gone: Callable[[str], bool] = lambda owner: False,
    ) -> None:
        self._store = store
        self._study = study_id
        self._request_id = request_id
        self._gone = gone

    def find(self, keys: Iterable[str]) -> dict[DrawId, DrawRow]:
        """All draws under these keys."""
        with self._store.read() as connection:
            now = self._now(connection)
            rows = self._select(connection, keys)
            return {id_of(row): draw_of(row, held=self._is_held(row, now)) for row in rows}

    def all(self) -> tuple[DrawRow, ...]:
        """All draws of the study, in the order they were begun."""
        query = sa.select(_draws).where(_draws.c.study_id == self._study)
        with self._store.read() as connection:
            rows = connection.execute(query.order_by(_draws.c.created_at, _draws.c.key, _draws.c.start)).mappings()
            now = self._now(connection)
            return tuple(draw_of(row, held=self._is_held(row, now)) for row in rows)

    def claim(
        self,
        owner: str,
        wanted: Sequence[DrawId],
        *,
        needs: Callable[[DrawRow | None], bool],
        most: int,
        seconds: float,
    ) -> Claimed:
        """Take draws that nobody is at, so many that every worker of the study gets its share of ``wanted``.

        Draws under one key are never in two hands: the second may build upon the first.

        Args:
            wanted: in order of preference.
            needs: whether there is work on a draw, from its row; None if it has none. Called with the row locked.
            most: at most so many.
            seconds: how long the leases last.
        """
        with self._store.write(durable=False) as connection:
            # On Postgres claims queue here; SQLite has locked all there is.
            connection.execute(sa.select(_studies.c.id).where(_studies.c.id == self._study).with_for_update())
            now = self._now(connection)
            until = now + timedelta(seconds=seconds)
            workers = self._register(connection, owner, now, until)
            known = {id_of(row): row for row in self._select(connection, {id_.key for id_ in wanted}, lock=True)}
            busy = {id_.key for id_, row in known.items() if self._is_held(row, now)}
            share, taken = min(most, -(-len(wanted) // workers)), list[DrawId]()
            for id_ in wanted:
                row = known.get(id_)
                if (
                    len(taken) < share
                    and id_.key not in busy
                    and needs(None if row is None else draw_of(row, held=False))
                ):
                    taken.append(id_)
            self._take(connection, owner, until, now, taken, known)
            others = sa.select(_draws.c.owner).where(
                _draws.c.study_id == self._study, _draws.c.lease_until > now, _draws.c.owner != owner
            )
            alive = sum(not self._gone(str(other)) for other in connection.execute(others).scalars())
        return Claimed(ids=tuple(taken), others=alive)

    def renew(self, owner: str, seconds: float) -> None:
        """Let the leases of a worker last from now on, as far as it still has them."""
        with self._store.write(durable=False) as connection:
            now = self._now(connection)
            until = now + timedelta(seconds=seconds)
            self._register(connection, owner, now, until)
            mine = (_draws.c.study_id == self._study, _draws.c.owner == owner, _draws.c.lease_until.is_not(None))
            # Locked in the order in which everybody locks them, or two threads could wait for each other.
            lock = sa.select(_draws.c.key).where(*mine).order_by(_draws.c.key, _draws.c.start, _draws.c.count)
            connection.execute(lock.with_for_update()).all()
            connection.execute(sa.update(_draws).where(*mine).values(lease_until=until))

    def release(self, owner: str, ids: Sequence[DrawId]) -> None:
        """Give draws back that were not finished."""
        if not ids:
            return
        change = sa.update(_draws).where(*self._is_one(), _draws.c.owner == owner)
        with self._store.write(durable=False) as connection:
            in_order = sorted(ids, key=lambda id_: (id_.key, id_.start, id_.count))
            connection.execute(change.values(owner=None, lease_until=None), self._named(in_order))

    def finish(self, owner: str, ends: Sequence[DrawEnd]) -> dict[DrawId, DrawRow]:
        """Write down what became of draws; those of which somebody else took the lease are left as they are.

        Returns:
            Those that were written, with what they cost.
        """
        with self._store.write(durable=False) as connection:
            rows = self._select(connection, {end.id.key for end in ends}, lock=True)
            held = {id_of(row) for row in rows if row["owner"] == owner and row["lease_until"] is not None}
            mine = [end for end in ends if end.id in held]
            costs, now = self._costs(connection, [end.id for end in mine]), self._now(connection)
            values = [
                name | ending_of(end) | {"to_cost": costs[end.id][0], "to_mark_cost": costs[end.id][1], "to_ended": now}
                for name, end in zip(self._named([end.id for end in mine]), mine, strict=True)
            ]
            if values:
                connection.execute(self._ending, values)
        return {
            end.id: DrawRow(
                **vars(end), cost=from_pico(costs[end.id][0]), mark_cost=from_pico(costs[end.id][1]), held=False
            )
            for end in mine
        }

    def leave(self, owner: str) -> None:
        """A worker has ended: the others need not share with it any more."""
        with self._store.write(durable=False) as connection:
            connection.execute(sa.delete(_leases).where(_leases.c.resource == self._resource(owner)))

    @property
    def _ending(self) -> sa.Update:
        return (
            sa.update(_draws)
            .where(*self._is_one())
            .values(
                state=sa.bindparam("to_state"),
                cost_pico=sa.bindparam("to_cost"),
                seconds=sa.bindparam("to_seconds"),
                marks=sa.bindparam("to_marks"),
                mark_cost_pico=sa.bindparam("to_mark_cost"),
                mark_error=sa.bindparam("to_mark_error"),
                reason=sa.bindparam("to_reason"),
                refused_scope=sa.bindparam("to_scope"),
                refused_cap_pico=sa.bindparam("to_cap"),
                ended_at=sa.bindparam("to_ended"),
                lease_until=None,
            )
        )

    def _take(
        self,
        connection: sa.Connection,
        owner: str,
        until: datetime,
        now: datetime,
        ids: Sequence[DrawId],
        known: Mapping[DrawId, sa.RowMapping],
    ) -> None:
        new = [id_ for id_ in ids if id_ not in known]
        lease = {"owner": owner, "lease_until": until}
        if new:
            fresh = {"study_id": self._study, "state": "open", "cost_pico": 0, "mark_cost_pico": 0, "created_at": now}
            connection.execute(sa.insert(_draws), [asdict(id_) | fresh | lease for id_ in new])
        if old := [id_ for id_ in ids if id_ in known]:
            connection.execute(sa.update(_draws).where(*self._is_one()).values(**lease), self._named(old))

    def _register(self, connection: sa.Connection, owner: str, now: datetime, until: datetime) -> int:
        """Note that a worker is there; how many there are."""
        row = {"resource": self._resource(owner), "owner": owner, "until": until}
        connection.execute(self._store.insert_or_update(_leases, row))
        here = _leases.c.resource.startswith(self._resource(""), autoescape=True)
        others = sa.select(_leases.c.owner).where(here, _leases.c.until > now, _leases.c.owner != owner)
        return 1 + sum(not self._gone(str(other)) for other in connection.execute(others).scalars())

    def _resource(self, owner: str) -> str:
        return f"study {self._study} worker {owner}"

    def _is_held(self, row: sa.RowMapping, now: datetime) -> bool:
        until = row["lease_until"]
        return until is not None and until > now and not self._gone(row["owner"])

    def _costs(self, connection: sa.Connection, ids: Sequence[DrawId]) -> dict[DrawId, tuple[int, int]]:
        """(draw, marking) in pico-USD, open attempts at their worst case."""
        names = {self._request_id(id_): id_ for id_ in ids}
        costs = dict.fromkeys(ids, (0, 0))
        paid = sa.func.coalesce(_ledger.c.cost_pico, _ledger.c.worst_pico, 0)
        query = sa.select(_ledger.c.request_id, _ledger.c.purpose, sa.func.sum(paid)).where(
            _ledger.c.state != "released"
        )
        for some in _chunks(sorted(names)):
            sums = query.where(_ledger.c.request_id.in_(some)).group_by(_ledger.c.request_id, _ledger.c.purpose)
            for request_id, purpose, pico in connection.execute(sums):
                draw, marking = costs[names[request_id]]
                is_draw = purpose == "trial"
                costs[names[request_id]] = draw + is_draw * int(pico), marking + (not is_draw) * int(pico)
        return costs

    def _select(self, connection: sa.Connection, keys: Iterable[str], *, lock: bool = False) -> list[sa.RowMapping]:
        query = sa.select(_draws).where(_draws.c.study_id == self._study)
        if lock:
            query = query.order_by(_draws.c.key, _draws.c.start, _draws.c.count).with_for_update()
        found: list[sa.RowMapping] = []
        for some in _chunks(sorted(set(keys))):
            found += connection.execute(query.where(_draws.c.key.in_(some))).mappings()
        return found

    def _is_one(self) -> tuple[sa.ColumnElement[bool], ...]:
        return (
            _draws.c.study_id == sa.bindparam("of_study"),
            _draws.c.key == sa.bindparam("of_key"),
            _draws.c.start == sa.bindparam("of_start"),
            _draws.c.count == sa.bindparam("of_count"),
        )

    def _named(self, ids: Iterable[DrawId]) -> list[dict[str, Any]]:
        return [
            {"of_study": self._study, "of_key": id_.key, "of_start": id_.start, "of_count": id_.count} for id_ in ids
        ]

    def _now(self, connection: sa.Connection) -> datetime:
        if connection.dialect.name == "postgresql":
            now: datetime = connection.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
            return now
        return datetime.now(UTC)


def _chunks(values: Sequence[str]) -> Iterable[Sequence[str]]:
    return (values[at : at + _AT_ONCE] for at in range(0, len(values), _AT_ONCE))
