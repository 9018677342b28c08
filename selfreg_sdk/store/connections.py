"""Connections to a database: how they are set up, and what their failures mean for the user."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.pool import StaticPool

from selfreg_sdk.errors import ConfigError, StoreError
from selfreg_sdk.store.location import Location, dump_json

# How long a writer waits for the others. Transactions here take milliseconds; only a stuck process reaches this.
BUSY_SECONDS = 30.0


def new_engine(location: Location) -> sa.Engine:
    """An engine for the place.

    Raises:
        ConfigError: psycopg is missing.
    """
    try:
        if location.sqlite:
            pool: dict[str, Any] = (
                {"poolclass": StaticPool} if location.memory else {"pool_size": 8, "max_overflow": -1}
            )
            engine = sa.create_engine(
                location.url,
                json_serializer=dump_json,
                connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False},
                **pool,
            )
            sa.event.listen(engine, "connect", _set_up_sqlite)
            sa.event.listen(engine, "begin", _begin_sqlite)
        else:
            engine = sa.create_engine(location.url, json_serializer=dump_json, pool_pre_ping=True)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"store {location.shown!r} needs the Postgres driver {error.name!r}; install it with: pip install 'selfreg[postgres]'"
        ) from error
    return engine


def _set_up_sqlite(connection: sqlite3.Connection, record: object) -> None:
    # None: the driver begins nothing by itself, _begin_sqlite does.
    connection.isolation_level = None
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute("PRAGMA synchronous=FULL")


def _begin_sqlite(connection: sa.Connection) -> None:
    reading = connection.get_execution_options().get("selfreg_read", False)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


def use_wal(path: Path) -> None:
    """Switch the file to WAL, once in its life. SQLite does not wait for others here, so we do."""
    deadline = time.monotonic() + BUSY_SECONDS
    try:
        with closing(sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)) as connection:
            while connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
                try:
                    connection.execute("PRAGMA journal_mode=WAL")
                except sqlite3.OperationalError as error:
                    if "locked" not in str(error) or time.monotonic() > deadline:
                        raise
                    time.sleep(0.02)
    except sqlite3.Error as error:
        raise StoreError(explain(str(path), str(error))) from error


def explain(url: str, reason: str) -> str:
    """The database's own words, with the remedy."""
    low = reason.lower()
    if "locked" in low:
        remedy = f"another process has held its write lock for {BUSY_SECONDS:.0f} s; find and stop that process"
    elif "readonly" in low or "read-only" in low or "unable to open" in low:
        remedy = "make the file and its folder writable for this user, or name another place with SELFREG_STORE"
    elif "not a database" in low or "malformed" in low:
        remedy = (
            "it is damaged or no selfreg store, and was left as it is; restore a backup, or move it away to start anew"
        )
    elif "full" in low:
        remedy = "free some disk space; what was committed before is intact"
    else:
        remedy = "check the path or the connection and try again"
    return f"store {url!r}: {reason}; {remedy}"
