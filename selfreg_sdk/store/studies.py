"""Rows of studies: what was tuned, how, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, get_args

import sqlalchemy as sa

from selfreg_sdk.errors import ConfigError
from selfreg_sdk.store.engine import Store
from selfreg_sdk.store.tables import metadata

StudyState = Literal["running", "stopped", "finished"]
"""Running or killed; ended early (an error, Ctrl-C) and to be resumed; at its end."""

_studies = metadata.tables["study"]


@dataclass(frozen=True, kw_only=True)
class StudyRecord:
    """One study.

    Attributes:
        name: unique in the store.
        spec: everything that decides what is proposed, as JSON; no secrets.
        outcome: what it ended with, as its owner wrote it down.
    """

    id: int
    name: str
    task_key: str
    spec: Mapping[str, Any]
    seed: int
    state: StudyState
    outcome: Mapping[str, Any] | None
    created_at: datetime
    updated_at: datetime


class Studies:
    """Studies of a store. Every method is one transaction and blocks: not for event loops."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def ensure(self, name: str, *, task_key: str, spec: Mapping[str, Any], seed: int) -> StudyRecord:
        """The study of this name, made from the arguments if there is none; several workers may come at once.

        An existing one is returned as it is: compare its ``spec`` with yours.
        """
        now = datetime.now(UTC)
        row = {
            "name": name,
            "task_key": task_key,
            "spec": dict(spec),
            "seed": seed,
            "state": "running",
            "created_at": now,
            "updated_at": now,
        }
        with self._store.write() as connection:
            connection.execute(self._store.insert_new(_studies, by=("name",)), row)
            return _record(connection.execute(sa.select(_studies).where(_studies.c.name == name)).mappings().one())

    def find(self, name: str) -> StudyRecord | None:
        """The study of this name, if there is one."""
        with self._store.read() as connection:
            row = connection.execute(sa.select(_studies).where(_studies.c.name == name)).mappings().first()
        return None if row is None else _record(row)

    def get(self, name: str) -> StudyRecord:
        """The study of this name.

        Raises:
            ConfigError: there is none; names those there are.
        """
        found = self.find(name)
        if found is None:
            names = ", ".join(repr(study.name) for study in self.list()[:10])
            raise ConfigError(f"there is no study {name!r} in this store; it has {names or 'none'}")
        return found

    def list(self, task_key: str | None = None) -> tuple[StudyRecord, ...]:
        """All studies, or those of a task, newest first."""
        query = sa.select(_studies).order_by(_studies.c.created_at.desc(), _studies.c.id.desc())
        if task_key is not None:
            query = query.where(_studies.c.task_key == task_key)
        with self._store.read() as connection:
            return tuple(_record(row) for row in connection.execute(query).mappings())

    def update(
        self,
        study_id: int,
        *,
        state: StudyState | None = None,
        spec: Mapping[str, Any] | None = None,
        outcome: Mapping[str, Any] | None = None,
    ) -> None:
        """Change what is given.

        Raises:
            ConfigError: there is no such study, or no such state.
        """
        if state is not None and state not in get_args(StudyState):
            raise ConfigError(f"study state {state!r} is not one of {', '.join(get_args(StudyState))}")
        given = {
            "state": state,
            "spec": None if spec is None else dict(spec),
            "outcome": None if outcome is None else dict(outcome),
        }
        values = {name: value for name, value in given.items() if value is not None}
        change = sa.update(_studies).where(_studies.c.id == study_id).values(**values, updated_at=datetime.now(UTC))
        with self._store.write() as connection:
            if connection.execute(change).rowcount != 1:
                raise ConfigError(f"there is no study with the id {study_id!r} in this store")


def _record(row: sa.RowMapping) -> StudyRecord:
    return StudyRecord(**row)
