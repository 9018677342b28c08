"""What was learned at run time about the request fields a model at an endpoint takes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache, partial
from types import MappingProxyType
from typing import Any, Literal, get_args

import sqlalchemy as sa

from selfreg_sdk.endpoint import endpoint_id
from selfreg_sdk.errors import ConfigError
from selfreg_sdk.store.changes import count, learned_key
from selfreg_sdk.store.engine import Store
from selfreg_sdk.store.remembered import Remembered
from selfreg_sdk.store.tables import metadata

Outcome = Literal["rejected", "ignored"]

_learned = metadata.tables["learned_capability"]


class LearnedCapabilities:
    """Remembers rejected and ignored fields per endpoint and model. Every method is one transaction.

    Args:
        store: where they are.
        remembered: keeps what `learned` read; None is what the store keeps for all its readers in this process.
    """

    def __init__(self, store: Store, *, remembered: Remembered | None = None) -> None:
        self._store = store
        self._given = remembered

    @property
    def _remembered(self) -> Remembered:
        # Asked for each time: a forked child has a memory of its own.
        return self._given or self._store.service(Remembered)

    def learn(self, endpoint: str, model: str, field: str, outcome: Outcome, detail: str = "") -> None:
        """Remember the outcome for a field; a later one replaces it.

        Args:
            detail: what the provider said; only its first 300 characters are kept.
        """
        if outcome not in get_args(Outcome):
            raise ConfigError(f"outcome {outcome!r} is not one of {', '.join(get_args(Outcome))}")
        row: dict[str, Any] = {
            "endpoint": _id(endpoint),
            "model": model,
            "field": field,
            "outcome": outcome,
            "detail": detail[:300],
            "learned_at": datetime.now(UTC),
        }
        with self._store.write() as connection:
            row["generation"] = count(self._store, connection)
            connection.execute(self._store.insert_or_update(_learned, row))
        self._remembered.forget(learned_key(_id(endpoint), model))

    def learned(self, endpoint: str, model: str) -> Mapping[str, Outcome]:
        """Field → outcome, for one model at one endpoint; at most `remembered.AT_MOST` seconds after it changed.

        The same object as long as nothing changes.
        """
        where = _id(endpoint)
        return self._remembered.read(learned_key(where, model), partial(_read, where, model))

    async def alearned(self, endpoint: str, model: str) -> Mapping[str, Outcome]:
        """`learned` for asyncio; the store is read in a thread, and only if the answer is not remembered."""
        where = _id(endpoint)
        return await self._remembered.aread(learned_key(where, model), partial(_read, where, model))


_id = lru_cache(maxsize=256)(endpoint_id)


def _read(endpoint: str, model: str, connection: sa.Connection) -> Mapping[str, Outcome]:
    query = sa.select(_learned.c.field, _learned.c.outcome).where(
        _learned.c.endpoint == endpoint, _learned.c.model == model
    )
    return MappingProxyType({str(field): outcome for field, outcome in connection.execute(query)})
