"""Opening a store and running transactions on it. Knows SQLite and Postgres, knows no table.

Why SQLite is set up as it is:

- ``BEGIN IMMEDIATE`` for every transaction that writes. With the driver's deferred default, two processes read the
  same value, both write, and one update is lost or fails with "locked"; taking the write lock first makes
  read-check-write one step.
- WAL, so that readers never wait for the writer. One machine only: a store on a network share is not safe.
- ``synchronous=FULL``. NORMAL survives a killed process, but a power cut may lose the last commits, and then a
  provider could have billed more than the ledger holds. A model call takes longer than the two syncs it costs.
- One connection is never used by two processes: after a fork the child opens its own.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, IntegrityError, StatementError
from sqlalchemy.pool import StaticPool

from selfreg_sdk.errors import ConfigError, StoreError
from selfreg_sdk.store import schema
from selfreg_sdk.store.location import Location, dump_json, locate, prepare_file

# How long a writer waits for the others. Transactions here take milliseconds; only a stuck process reaches this.
BUSY_SECONDS = 30.0


class _Process:
    """What one process may use: an engine and the lock that lets its threads queue for SQLite's single write lock.

    Threads that queue here wake at once; in SQLite's own busy handler they would sleep and retry.
    """

    def __init__(self, location: Location) -> None:
        self.pid = os.getpid()
        self.lock = threading.RLock()
        self.engine = _engine(location)


# Connections inherited through a fork are kept, not closed: closing them would run SQLite's clean-up in the child.
_inherited: list[_Process] = []


class Store:
    """An open store: ``with store.write() as connection`` is one transaction.

    Safe to share between threads. A forked child may use it too and gets connections of its own, except for
    ``:memory:``, which lives and dies with the process that opened it.
    """

    def __init__(self, location: Location) -> None:
        self._location = location
        self._process = _Process(location)
        self._closed = False

    @classmethod
    def open(cls, url_or_path: str | Path | None = None) -> Store:
        """Open a store, creating or upgrading it as needed.

        A new file gets mode 0600 and missing parent directories 0700. Two processes may open a new store at once.

        Args:
            url_or_path: a file path, ``sqlite:///path``, ``:memory:`` (one process, nothing kept) or
                ``postgresql+psycopg://user@host/name``. None: the variable SELFREG_STORE, else the user's data folder.

        Raises:
            StoreError: not a database, not ours, damaged, not writable, or written by a newer selfreg. It is left as is.
            ConfigError: a URL of another kind, or psycopg is missing.
        """
        location = locate(url_or_path)
        if location.path is not None:
            prepare_file(location.path)
        store = cls(location)
        try:
            store._make_ready()
        except BaseException:
            store.close()
            raise
        return store

    @property
    def url(self) -> str:
        """Where the store is, without the password."""
        return self._location.shown

    @property
    def path(self) -> Path | None:
        """The file, for SQLite on disk."""
        return self._location.path

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """One transaction that may write: committed at the end of the block, rolled back if it raises.

        Raises:
            StoreError: the store cannot be used (locked too long, full disk, read-only, damaged).
        """
        process = self._mine()
        with (
            # Postgres locks rows, not the database: its writers need no queue.
            process.lock if self._location.sqlite else nullcontext(),
            self._explained(),
            process.engine.begin() as connection,
        ):
            yield connection

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """One consistent view; on SQLite it waits for nobody.

        Raises:
            StoreError: as for ``write``.
        """
        process = self._mine()
        with (
            process.lock if self._location.memory else nullcontext(),
            self._explained(),
            process.engine.connect().execution_options(selfreg_read=True) as connection,
            connection.begin(),
        ):
            yield connection

    def insert_new(self, table: sa.Table) -> sa.Insert:
        """An INSERT that leaves an existing row of the same primary key alone; execute it with the row."""
        return self._insert(table).on_conflict_do_nothing(index_elements=list(table.primary_key))

    def insert_or_update(self, table: sa.Table, row: Mapping[str, Any]) -> sa.Insert:
        """An INSERT that overwrites an existing row of the same primary key."""
        others = {name: value for name, value in row.items() if name not in table.primary_key.columns}
        insert = self._insert(table).values(row)
        return insert.on_conflict_do_update(index_elements=list(table.primary_key), set_=others)

    def close(self) -> None:
        """Close every connection of this process; safe to call twice."""
        self._closed = True
        if self._process.pid == os.getpid():
            self._process.engine.dispose()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Store({self.url!r})"

    def _mine(self) -> _Process:
        if self._closed:
            raise StoreError(f"store {self.url!r} is closed; open it again with Store.open")
        if self._process.pid != os.getpid():
            if self._location.memory:
                raise StoreError("a ':memory:' store cannot be shared with a forked process; give a file path instead")
            _inherited.append(self._process)
            self._process = _Process(self._location)
        return self._process

    def _insert(self, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
        return sqlite.insert(table) if self._location.sqlite else postgresql.insert(table)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Database failures as StoreError; broken constraints pass, they are for the caller who knows the table."""
        try:
            yield
        except IntegrityError:
            raise
        except DBAPIError as error:
            raise StoreError(_explain(self.url, str(error.orig))) from error
        except StatementError as error:
            # A value that a column refused (dump_json) arrives wrapped.
            raise (error.orig if isinstance(error.orig, ConfigError) else error) from None

    def _make_ready(self) -> None:
        """Refuse what is not ours before touching it, then switch to WAL, then upgrade the schema in one transaction."""
        with self.read() as connection:
            revision = schema.revision(connection, self.url)
        if self.path is not None:
            _use_wal(self.path)
        if revision != schema.HEAD:
            with self.write() as connection:
                schema.upgrade(connection, self.url)


def _engine(location: Location) -> sa.Engine:
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


def _use_wal(path: Path) -> None:
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
        raise StoreError(_explain(str(path), str(error))) from error


def _explain(url: str, reason: str) -> str:
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
