"""Replies on disk. The rules of when one may be used are in ``selfreg_sdk.cache``; here are only rows."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from selfreg_sdk.store.engine import Store
from selfreg_sdk.store.tables import metadata

# Raised when the meaning of a stored body changes; rows of another format count as misses.
FORMAT = 1

_responses = metadata.tables["response"]


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
        return StoredResponse(body=row.body, intact=row.format == FORMAT and row.digest == _digest(row.body))

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


def _digest(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()
