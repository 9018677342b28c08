"""Replies on disk. The rules of when one may be used are in ``selfreg_sdk.cache``; here are only rows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from selfreg_sdk.store.engine import Store
from selfreg_sdk.store.tables import metadata

# Raised when the meaning of a stored body changes; rows of another format count as misses.
FORMAT = 1

_responses = metadata.tables["response"]
_ledger = metadata.tables["ledger"]

_AT_ONCE = 500
"""Values in one IN."""

RESPONSE_COLUMNS = tuple(_responses.columns.keys())


@dataclass(frozen=True, kw_only=True)
class RecordedResponse:
    """A reply that is ready to be stored: already JSON, so that storing it cannot fail half-way.

    Attributes:
        key: hash of the full request and the endpoint.
        sample_index: the number of the repeat of this same request.
        body: JSON text.
    """

    key: str
    sample_index: int
    body: str
    model: str
    endpoint: str


@dataclass(frozen=True, kw_only=True)
class StoredResponse:
    """A row as it is on disk; ``intact`` is False for another format or a body that does not match its digest."""

    body: str
    intact: bool


@dataclass(frozen=True, kw_only=True)
class StoredRepeat(StoredResponse):
    """One of the replies to a request.

    Attributes:
        seconds: from its reservation to its settlement; None if nobody wrote that down.
    """

    key: str
    sample_index: int
    seconds: float | None


def response_row(response: RecordedResponse, *, ledger_id: int, now: datetime) -> dict[str, Any]:
    """The row that stores a reply together with the settlement of its attempt, in the order of ``RESPONSE_COLUMNS``."""
    return {
        "key": response.key,
        "sample_index": response.sample_index,
        "format": FORMAT,
        "body": response.body,
        "digest": _digest(response.body),
        "model": response.model,
        "endpoint": response.endpoint,
        "ledger_id": ledger_id,
        "created_at": now,
    }


class Responses:
    """Rows of the response table."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def find(self, key: str, sample_index: int) -> StoredResponse | None:
        """The row, intact or not; None if there is none."""
        query = sa.select(_responses.c.format, _responses.c.body, _responses.c.digest).where(_is(key, sample_index))
        with self._store.read() as connection:
            row = connection.execute(query).first()
        if row is None:
            return None
        return StoredResponse(body=row.body, intact=_intact(row.format, row.body, row.digest))

    def repeats(self, keys: Iterable[str]) -> list[StoredRepeat]:
        """All replies under these keys, intact or not, by key and repeat."""
        columns = [_responses.c[name] for name in ("key", "sample_index", "format", "body", "digest")]
        times = _ledger.c.created_at, _ledger.c.ended_at
        query = (
            sa.select(*columns, *times)
            .select_from(_responses.outerjoin(_ledger, _ledger.c.id == _responses.c.ledger_id))
            .order_by(_responses.c.key, _responses.c.sample_index)
        )
        wanted, found = sorted(set(keys)), list[StoredRepeat]()
        with self._store.read() as connection:
            for at in range(0, len(wanted), _AT_ONCE):
                rows = connection.execute(query.where(_responses.c.key.in_(wanted[at : at + _AT_ONCE])))
                found += [
                    StoredRepeat(
                        key=row.key,
                        sample_index=row.sample_index,
                        body=row.body,
                        intact=_intact(row.format, row.body, row.digest),
                        seconds=_seconds(row.created_at, row.ended_at),
                    )
                    for row in rows
                ]
        return found

    def delete(self, key: str, sample_index: int) -> None:
        """Drop one row."""
        with self._store.write() as connection:
            connection.execute(sa.delete(_responses).where(_is(key, sample_index)))

    def count(self) -> int:
        """Number of replies stored."""
        with self._store.read() as connection:
            return connection.execute(sa.select(sa.func.count()).select_from(_responses)).scalar_one()


def _is(key: str, sample_index: int) -> sa.ColumnElement[bool]:
    return (_responses.c.key == key) & (_responses.c.sample_index == sample_index)


def _intact(format_: int, body: str, digest: str) -> bool:
    return format_ == FORMAT and digest == _digest(body)


def _seconds(began: datetime | None, ended: datetime | None) -> float | None:
    seconds = None if began is None or ended is None else (ended - began).total_seconds()
    return seconds if seconds is not None and seconds >= 0 else None  # a clock that was set back measured nothing


def _digest(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()
