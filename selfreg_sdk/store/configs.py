"""Configurations of tasks: versions that are only added, and pointers that move between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from typing import Any, Literal, cast, get_args

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from selfreg_sdk.errors import ConfigError
from selfreg_sdk.money import from_pico, to_pico
from selfreg_sdk.store.changes import count, pointer_key
from selfreg_sdk.store.engine import Store
from selfreg_sdk.store.remembered import Remembered
from selfreg_sdk.store.tables import metadata

Stage = Literal["staging", "production"]

_versions = metadata.tables["config_version"]
_pointers = metadata.tables["config_pointer"]


@dataclass(frozen=True, kw_only=True)
class ConfigRecord:
    """One version of the configuration of a task.

    Attributes:
        id: given by the store; None before it is added.
        params: decoding parameters by name, as JSON values.
        plan: the words it was compiled from, for planned versions.
        provenance: at least ``kind`` (static, planned, tuned, ...); who made it and from what.
        score, score_low, score_high: mean and interval, when it was measured.
        cost_usd: what finding it cost.
    """

    task_key: str
    model: str
    aggregation: str
    params: Mapping[str, Any]
    provenance: Mapping[str, Any]
    plan: Mapping[str, Any] | None = None
    score: float | None = None
    score_low: float | None = None
    score_high: float | None = None
    cost_usd: Decimal | None = None
    parent_id: int | None = None
    id: int | None = None
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))


class Configs:
    """Reads and adds versions, moves pointers. Every method is one transaction.

    Args:
        store: where they are.
        remembered: keeps what `current` read; None is what the store keeps for all its readers in this process.
    """

    def __init__(self, store: Store, *, remembered: Remembered | None = None) -> None:
        self._store = store
        self._given = remembered

    @property
    def _remembered(self) -> Remembered:
        # Asked for each time: a forked child has a memory of its own.
        return self._given or self._store.service(Remembered)

    def add_version(self, record: ConfigRecord) -> int:
        """Append a version and return its id; ids are never reused.

        Raises:
            ConfigError: no ``kind`` in the provenance, or the parent does not exist.
        """
        return self.add_once(record, same=None)

    def add_once(self, record: ConfigRecord, *, same: Callable[[ConfigRecord], bool] | None) -> int:
        """`add_version`, unless one of the versions under its key is the ``same``: then the id of that one.

        However many processes come at once, one of them adds it.
        """
        if not record.provenance.get("kind"):
            raise ConfigError(f"provenance {dict(record.provenance)!r} has no 'kind'; name one, like 'planned'")
        row = {
            "task_key": record.task_key,
            "model": record.model,
            "aggregation": record.aggregation,
            "params": dict(record.params),
            "plan": None if record.plan is None else dict(record.plan),
            "provenance": dict(record.provenance),
            "score": record.score,
            "score_low": record.score_low,
            "score_high": record.score_high,
            "cost_pico": None if record.cost_usd is None else to_pico(record.cost_usd),
            "parent_id": record.parent_id,
            "created_at": record.created_at,
        }
        try:
            with self._store.write() as connection:
                if same is not None:
                    if connection.dialect.name == "postgresql":  # SQLite has locked all there is
                        connection.execute(sa.text("LOCK TABLE config_version IN SHARE ROW EXCLUSIVE MODE"))
                    query = sa.select(_versions).where(_versions.c.task_key == record.task_key).order_by(_versions.c.id)
                    for known in map(_record, connection.execute(query).mappings().all()):
                        if known.id is not None and same(known):
                            return known.id
                added = connection.execute(sa.insert(_versions).values(row).returning(_versions.c.id)).scalar_one()
        except IntegrityError:
            raise ConfigError(f"config version {record.parent_id!r}, named as the parent, does not exist") from None
        return int(added)

    def get(self, version_id: int) -> ConfigRecord:
        """One version.

        Raises:
            ConfigError: there is none with this id.
        """
        with self._store.read() as connection:
            row = connection.execute(sa.select(_versions).where(_versions.c.id == version_id)).mappings().first()
        if row is None:
            raise ConfigError(f"config version {version_id!r} does not exist; 'selfreg configs list' shows them")
        return _record(row)

    def list(self, task: str | None = None) -> tuple[ConfigRecord, ...]:
        """All versions, or those of one task key; oldest first."""
        query = sa.select(_versions).order_by(_versions.c.id)
        if task is not None:
            query = query.where(_versions.c.task_key == task)
        with self._store.read() as connection:
            return tuple(_record(row) for row in connection.execute(query).mappings())

    def point(self, task_key: str, stage: Stage, version_id: int) -> None:
        """Make a version the one in use at a stage; the earlier one stays and can be pointed at again.

        Other processes use it within `remembered.AT_MOST` seconds.

        Raises:
            ConfigError: unknown stage, no such version, or the version of another task.
        """
        if stage not in get_args(Stage):
            raise ConfigError(f"stage {stage!r} is not one of {', '.join(get_args(Stage))}")
        values: dict[str, Any] = {"task_key": task_key, "stage": stage, "version_id": version_id}
        values["moved_at"] = datetime.now(UTC)
        with self._store.write() as connection:
            owner = connection.execute(sa.select(_versions.c.task_key).where(_versions.c.id == version_id)).scalar()
            if owner != task_key:
                said = "does not exist" if owner is None else f"belongs to task {owner!r}"
                raise ConfigError(f"config version {version_id!r} {said}, so task {task_key!r} cannot use it")
            values["generation"] = count(self._store, connection)
            connection.execute(self._store.insert_or_update(_pointers, values))
        self._remembered.forget(pointer_key(task_key, stage))

    def current(self, task_key: str, stage: Stage = "production") -> ConfigRecord | None:
        """The version in use, or None; at most `remembered.AT_MOST` seconds after it changed."""
        return self._remembered.read(pointer_key(task_key, stage), partial(_current, task_key, stage))

    async def acurrent(self, task_key: str, stage: Stage = "production") -> ConfigRecord | None:
        """`current` for asyncio; the store is read in a thread, and only if the answer is not remembered."""
        return await self._remembered.aread(pointer_key(task_key, stage), partial(_current, task_key, stage))

    def latest(self, task_key: str) -> ConfigRecord | None:
        """The version in production at this moment, whatever is remembered: worth a look before something is paid for."""
        with self._store.read() as connection:
            return _current(task_key, "production", connection)

    def pointers(self, task: str | None = None) -> dict[tuple[str, Stage], int]:
        """(task key, stage) → version id, for all tasks or one."""
        query = sa.select(_pointers)
        if task is not None:
            query = query.where(_pointers.c.task_key == task)
        with self._store.read() as connection:
            rows = connection.execute(query).mappings().all()
        return {(str(row["task_key"]), cast(Stage, row["stage"])): int(row["version_id"]) for row in rows}


def _current(task_key: str, stage: Stage, connection: sa.Connection) -> ConfigRecord | None:
    query = (
        sa.select(_versions)
        .join(_pointers, _pointers.c.version_id == _versions.c.id)
        .where(_pointers.c.task_key == task_key, _pointers.c.stage == stage)
    )
    row = connection.execute(query).mappings().first()
    return None if row is None else _record(row)


def _record(row: sa.RowMapping) -> ConfigRecord:
    values = dict(row)
    cost = values.pop("cost_pico")
    return ConfigRecord(cost_usd=None if cost is None else from_pico(cost), **values)
