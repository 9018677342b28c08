"""What was learned at run time about the request fields a model at an endpoint takes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal, get_args

import sqlalchemy as sa

from selfreg_sdk.endpoint import endpoint_id
from selfreg_sdk.errors import ConfigError
from selfreg_sdk.store.engine import Store
from selfreg_sdk.store.tables import metadata

Outcome = Literal["rejected", "ignored"]

_learned = metadata.tables["learned_capability"]


class LearnedCapabilities:
    """Remembers rejected and ignored fields per endpoint and model. Every method is one transaction."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def learn(self, endpoint: str, model: str, field: str, outcome: Outcome, detail: str = "") -> None:
        """Remember the outcome for a field; a later one replaces it.

        Args:
            detail: what the provider said; only its first 300 characters are kept.
        """
        if outcome not in get_args(Outcome):
            raise ConfigError(f"outcome {outcome!r} is not one of {', '.join(get_args(Outcome))}")
        row = {
            "endpoint": endpoint_id(endpoint),
            "model": model,
            "field": field,
            "outcome": outcome,
            "detail": detail[:300],
            "learned_at": datetime.now(UTC),
        }
        with self._store.write() as connection:
            connection.execute(self._store.insert_or_update(_learned, row))

    def learned(self, endpoint: str, model: str) -> dict[str, Outcome]:
        """Field → outcome, for one model at one endpoint."""
        query = sa.select(_learned.c.field, _learned.c.outcome).where(
            _learned.c.endpoint == endpoint_id(endpoint), _learned.c.model == model
        )
        with self._store.read() as connection:
            return {str(field): outcome for field, outcome in connection.execute(query)}
