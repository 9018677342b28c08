"""The tables of the store. Money is whole pico-USD in BIGINT columns, stamps are UTC, free-form values are JSON.

The schema changes only through ``migrations``; a test holds that both agree.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    DateTime,
    Dialect,
    Index,
    Integer,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel


class UtcDateTime(TypeDecorator[datetime]):
    """An aware datetime, stored in UTC; naive ones are refused, because they would mean local time."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """To UTC."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone; pass an aware datetime")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """To aware UTC; SQLite hands back naive values."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


# SQLite numbers rows by itself only in columns declared INTEGER.
RowId = BigInteger().with_variant(Integer, "sqlite")


def _row_id() -> Any:
    return Field(default=None, sa_column=Column(RowId, primary_key=True, autoincrement=True))


def _json(nullable: bool = False) -> Any:
    return Field(default=None, sa_column=Column(JSON(none_as_null=True), nullable=nullable))


def _pico(nullable: bool = False) -> Any:
    return Field(default=None if nullable else 0, sa_column=Column(BigInteger, nullable=nullable))


def _text(nullable: bool = False, index: bool = False) -> Any:
    return Field(default=None, sa_column=Column(Text, nullable=nullable, index=index))


def _stamp(nullable: bool = False, index: bool = False) -> Any:
    return Field(default=None, sa_column=Column(UtcDateTime, nullable=nullable, index=index))


def _generation() -> Any:
    return Field(default=0, sa_column=Column(BigInteger, nullable=False, index=True, server_default="0"))


class Table(SQLModel, registry=registry()):
    """Base of our tables, with metadata of their own: a user's SQLModel tables never mix with ours."""


class ConfigVersion(Table, table=True):
    """One configuration of a task; rows are only ever added."""

    __tablename__: ClassVar[Any] = "config_version"
    # AUTOINCREMENT: the id of a version names it in every answer it shaped, so SQLite must never reuse one.
    __table_args__: ClassVar[Any] = {"sqlite_autoincrement": True}

    id: int | None = _row_id()
    task_key: str = _text(index=True)
    model: str = _text()
    aggregation: str = _text()
    params: dict[str, Any] = _json()
    plan: dict[str, Any] | None = _json(nullable=True)
    provenance: dict[str, Any] = _json()
    score: float | None = None
    score_low: float | None = None
    score_high: float | None = None
    cost_pico: int | None = _pico(nullable=True)
    parent_id: int | None = Field(default=None, foreign_key="config_version.id", sa_type=RowId)
    created_at: datetime = _stamp()


class ConfigPointer(Table, table=True):
    """Which version of a task is in use at a stage; promoting and rolling back move it."""

    __tablename__: ClassVar[Any] = "config_pointer"

    task_key: str = Field(sa_type=Text, primary_key=True)
    stage: str = Field(sa_type=Text, primary_key=True)
    version_id: int = Field(foreign_key="config_version.id", sa_type=RowId)
    moved_at: datetime = _stamp()
    generation: int = _generation()


class Budget(Table, table=True):
    """What one scope has spent and what calls in flight hold. The only place where spending is added up."""

    __tablename__: ClassVar[Any] = "budget"

    scope: str = Field(sa_type=Text, primary_key=True)
    spent_pico: int = _pico()
    held_pico: int = _pico()
    unpriced: int = Field(default=0)
    last_cap_pico: int | None = _pico(nullable=True)
    updated_at: datetime = _stamp()


OPEN = text("state = 'reserved'")
"""Of attempts: nobody knows yet how they end. As text, because SQLite takes a partial index only where it sees its very words."""


HELD = text("lease_until IS NOT NULL")
"""Of draws: a worker is at it."""


class LedgerRow(Table, table=True):
    """One attempt to call a provider."""

    __tablename__: ClassVar[Any] = "ledger"
    __table_args__: ClassVar[Any] = (
        Index("ix_ledger_open", "lease_until", sqlite_where=OPEN, postgresql_where=OPEN),
        {"sqlite_autoincrement": True},
    )

    id: int | None = _row_id()
    request_id: str = _text(index=True)
    attempt: int
    purpose: str = _text()
    state: str = _text()
    task_key: str = _text(index=True)
    model: str = _text()
    endpoint: str = _text()
    config_version_id: int | None = Field(default=None, foreign_key="config_version.id", sa_type=RowId)
    params: dict[str, Any] = _json()
    scopes: list[str] = _json()
    worst_pico: int | None = _pico(nullable=True)
    cost_pico: int | None = _pico(nullable=True)
    prompt_tokens: int | None = Field(default=None, sa_type=BigInteger)
    completion_tokens: int | None = Field(default=None, sa_type=BigInteger)
    reasoning_tokens: int | None = Field(default=None, sa_type=BigInteger)
    cached_tokens: int | None = Field(default=None, sa_type=BigInteger)
    flags: list[str] = _json()
    reason: str | None = _text(nullable=True)
    pid: int
    lease_until: datetime = _stamp()
    created_at: datetime = _stamp()
    ended_at: datetime | None = _stamp(nullable=True)


class Response(Table, table=True):
    """A reply, under the hash of the full request and the number of its repeat; its usage is in its ledger row."""

    __tablename__: ClassVar[Any] = "response"

    key: str = Field(sa_type=Text, primary_key=True)
    sample_index: int = Field(primary_key=True)
    format: int
    body: str = _text()
    digest: str = _text()
    model: str = _text()
    endpoint: str = _text()
    ledger_id: int | None = Field(default=None, foreign_key="ledger.id", sa_type=RowId)
    created_at: datetime = _stamp()


class Study(Table, table=True):
    """A tuning run over one task."""

    __tablename__: ClassVar[Any] = "study"

    id: int | None = _row_id()
    name: str = Field(sa_type=Text, unique=True)
    task_key: str = _text(index=True)
    spec: dict[str, Any] = _json()
    seed: int = Field(sa_type=BigInteger)
    state: str = _text()
    outcome: dict[str, Any] | None = _json(nullable=True)
    created_at: datetime = _stamp()
    updated_at: datetime = _stamp()


class Draw(Table, table=True):
    """Samples that a study asked for, under the hash of the request and the number of the first; replies are in ``response``."""

    __tablename__: ClassVar[Any] = "draw"
    __table_args__: ClassVar[Any] = (
        Index("ix_draw_held", "study_id", "owner", sqlite_where=HELD, postgresql_where=HELD),
    )

    study_id: int = Field(foreign_key="study.id", sa_type=RowId, primary_key=True)
    key: str = Field(sa_type=Text, primary_key=True)
    start: int = Field(primary_key=True)
    count: int = Field(primary_key=True)
    state: str = _text()
    cost_pico: int = _pico()
    seconds: float | None = None
    marks: list[Any] | None = _json(nullable=True)
    mark_cost_pico: int = _pico()
    mark_error: str | None = _text(nullable=True)
    reason: str | None = _text(nullable=True)
    refused_scope: str | None = _text(nullable=True)
    refused_cap_pico: int | None = _pico(nullable=True)
    owner: str | None = _text(nullable=True)
    lease_until: datetime | None = _stamp(nullable=True)
    created_at: datetime = _stamp()
    ended_at: datetime | None = _stamp(nullable=True)


class Trial(Table, table=True):
    """One configuration tried in a study."""

    __tablename__: ClassVar[Any] = "trial"
    __table_args__: ClassVar[Any] = (UniqueConstraint("study_id", "number"),)

    id: int | None = _row_id()
    study_id: int = Field(foreign_key="study.id", sa_type=RowId)
    number: int
    state: str = _text()
    params: dict[str, Any] = _json()
    score: float | None = None
    score_low: float | None = None
    score_high: float | None = None
    cost_pico: int | None = _pico(nullable=True)
    detail: dict[str, Any] = _json()
    created_at: datetime = _stamp()
    ended_at: datetime | None = _stamp(nullable=True)


class Lease(Table, table=True):
    """Who works on what, until when; what a dead worker held is taken over after that."""

    __tablename__: ClassVar[Any] = "lease"

    resource: str = Field(sa_type=Text, primary_key=True)
    owner: str = _text()
    until: datetime = _stamp()


class LearnedCapability(Table, table=True):
    """A request field that one model at one endpoint turned out to reject or ignore."""

    __tablename__: ClassVar[Any] = "learned_capability"

    endpoint: str = Field(sa_type=Text, primary_key=True)
    model: str = Field(sa_type=Text, primary_key=True)
    field: str = Field(sa_type=Text, primary_key=True)
    outcome: str = _text()
    detail: str = _text()
    learned_at: datetime = _stamp()
    generation: int = _generation()


class Generation(Table, table=True):
    """Counts the changes that processes must notice; the rows a change touched carry its number."""

    __tablename__: ClassVar[Any] = "generation"

    name: str = Field(sa_type=Text, primary_key=True)
    number: int = Field(sa_type=BigInteger)


metadata = Table.metadata
