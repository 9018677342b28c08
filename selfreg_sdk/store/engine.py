"""Opening a store and running transactions on it. Knows SQLite and Postgres, knows no table.

Why SQLite is set up as it is:

- ``BEGIN IMMEDIATE`` for every transaction that writes. With the driver's deferred default, two processes read the
  same value, both write, and one update is lost or fails with "locked"; taking the write lock first makes
  read-check-write one step.
- WAL, so that readers never wait for the writer. One machine only: a store on a network share is not safe.
- ``synchronous=FULL`` for whatever somebody relies on from then on: a commit returns when the disk has it. Only a group
  of mere reservations (``group(durable=False)``) returns before that. It survives the death of the process at any
  instant, ``kill -9`` included, for the system has the pages. A power cut within the next milliseconds, before the
  writer has the disk catch up (``sync``, or the next durable commit), may lose the reservations of calls that were just
  sent; the calls of that moment could then be billed without being counted. With ``durability="strict"`` every commit
  waits for the disk, which costs a call one more sync.
- One connection is never used by two processes: after a fork the child opens its own.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, TypeVar, get_args

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, IntegrityError, StatementError

from selfreg_sdk.errors import ConfigError, StoreError
from selfreg_sdk.store import connections, schema
from selfreg_sdk.store.location import Location, locate, prepare_file
from selfreg_sdk.store.process import Process, process_id

Durability = Literal["normal", "strict"]


class Service(Protocol):
    """What works on a store for its whole process, such as the writer of the ledger."""

    def close(self) -> None:
        """Finish what was begun."""


S = TypeVar("S", bound=Service)


class Store:
    """An open store: ``with store.write() as connection`` is one transaction.

    Safe to share between threads. A forked child may use it too and gets connections of its own, except for
    ``:memory:``, which lives and dies with the process that opened it.
    """

    def __init__(self, location: Location, durability: Durability = "normal") -> None:
        self._location = location
        self._strict = durability == "strict"
        self._process = Process(location)
        self._closed = False

    @classmethod
    def open(cls, url_or_path: str | Path | None = None, *, durability: Durability | None = None) -> Store:
        """Open a store, creating or upgrading it as needed.

        A new file gets mode 0600 and missing parent directories 0700. Two processes may open a new store at once.

        Args:
            url_or_path: a file path, ``sqlite:///path``, ``:memory:`` (one process, nothing kept) or
                ``postgresql+psycopg://user@host/name``. None: the variable SELFREG_STORE, else the user's data folder.
            durability: "strict" makes reservations wait for the disk, too; "normal" lets a power cut take those of the
                last milliseconds. None: the variable SELFREG_DURABILITY, else "normal".

        Raises:
            StoreError: not a database, not ours, damaged, not writable, or written by a newer selfreg. It is left as is.
            ConfigError: a URL of another kind, or psycopg is missing, or a durability that is not known.
        """
        location = locate(url_or_path)
        wanted: Any = durability or os.environ.get("SELFREG_DURABILITY") or "normal"
        if wanted not in get_args(Durability):
            raise ConfigError(f"durability {wanted!r} is not one of {', '.join(get_args(Durability))}")
        if location.path is not None:
            prepare_file(location.path)
        store = cls(location, wanted)
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
    def write(self, *, durable: bool = True) -> Iterator[sa.Connection]:
        """One transaction that may write: committed at the end of the block, rolled back if it raises.

        Args:
            durable: wait until the disk has it. Without, it survives the death of this process, but a power cut may take it.

        Raises:
            StoreError: the store cannot be used (locked too long, full disk, read-only, damaged).
        """
        process = self._mine()
        with (
            # Postgres locks rows, not the database: its writers need no queue.
            process.lock if self._location.sqlite else nullcontext(),
            self._explained(),
            process.engine.connect() as connection,
            nullcontext() if durable or self._strict else self._quickly(connection),
            connection.begin(),
        ):
            if not (durable or self._strict or self._location.sqlite):
                connection.exec_driver_sql("SET LOCAL synchronous_commit = off")
            yield connection

    @contextmanager
    def _quickly(self, connection: sa.Connection) -> Iterator[None]:
        """Commits of this connection do not wait for the disk; SQLite takes that between transactions alone."""
        if not self._location.sqlite:
            yield
            return
        cursor = connection.connection.cursor()
        cursor.execute("PRAGMA synchronous=NORMAL")
        try:
            yield
        finally:
            cursor.execute("PRAGMA synchronous=FULL")
            cursor.close()

    @contextmanager
    def group(self, *, durable: bool) -> Iterator[Any]:
        """One transaction that may write, on a cursor of the driver itself (see ``bulk``). For one thread at a time.

        Args:
            durable: wait until the disk has it. Without, it survives the death of this process, but not a power cut.

        Raises:
            StoreError: as for ``write``; nothing was changed.
        """
        process, durable = self._mine(), durable or self._strict
        errors = process.engine.dialect.loaded_dbapi
        try:
            if not self._location.sqlite:
                with closing(process.engine.raw_connection()) as link:
                    yield from self._in_postgres(link, durable)
            elif process.lock.acquire(timeout=connections.BUSY_SECONDS):
                try:
                    yield from self._in_sqlite(process, durable)
                finally:
                    process.lock.release()
            else:
                raise StoreError(connections.explain(self.url, "database is locked"))
        except (errors.IntegrityError, errors.DataError, errors.ProgrammingError):
            raise  # about one row, not about the store
        except errors.Error as error:
            raise StoreError(connections.explain(self.url, str(error))) from error

    def _in_sqlite(self, process: Process, durable: bool) -> Iterator[Any]:
        if process.cursor is None:
            process.link = process.engine.raw_connection()
            process.cursor = process.link.cursor()
        cursor = process.cursor
        wanted = "FULL" if durable else "NORMAL"
        if process.synchronous != wanted:
            cursor.execute(f"PRAGMA synchronous={wanted}")
            process.synchronous = wanted
        cursor.execute("BEGIN IMMEDIATE")
        try:
            yield cursor
            cursor.execute("COMMIT")
        except BaseException:
            # A full disk may have ended the transaction already.
            with suppress(sqlite3.Error):
                cursor.execute("ROLLBACK")
            raise
        process.behind = not durable and self.path is not None

    def _in_postgres(self, link: sa.PoolProxiedConnection, durable: bool) -> Iterator[Any]:
        cursor = link.cursor()
        try:
            if not durable:
                cursor.execute("SET LOCAL synchronous_commit = off")
            yield cursor
        except BaseException:
            link.rollback()
            raise
        link.commit()

    @property
    def behind(self) -> bool:
        """Whether something was committed that a power cut could still take; ``sync`` changes that."""
        return self._process.behind

    def sync(self) -> None:
        """Let the disk catch up with what was committed without waiting for it."""
        process = self._mine()
        process.behind = False
        # Syncing a file is not bound to the descriptor it was written through. SQLite holds no lock on this one that
        # closing ours could drop, and if it is gone, a checkpoint has synced it.
        with suppress(FileNotFoundError):
            log = os.open(f"{self.path}-wal", os.O_RDWR)
            try:
                os.fsync(log)
            finally:
                os.close(log)

    def service(self, make: Callable[[Store], S]) -> S:
        """What ``make`` gives for this store: made once in each process, closed with the store.

        Raises:
            StoreError: the store is closed.
        """
        process = self._mine()
        found: S | None = process.services.get(make)
        if found is None:
            with process.services_lock:
                found = process.services.get(make) or process.services.setdefault(make, make(self))
        return found

    @property
    def dialect(self) -> sa.Dialect:
        """The kind of SQL spoken, with the types' converters."""
        return self._mine().engine.dialect

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

    def insert_new(self, table: sa.Table, *, by: Sequence[str] = ()) -> sa.Insert:
        """An INSERT that leaves an existing row alone; execute it with the row.

        Args:
            by: the unique columns that a row is known by; the primary key, if there are none.
        """
        known_by = [table.columns[name] for name in by] or list(table.primary_key)
        return self._insert(table).on_conflict_do_nothing(index_elements=known_by)

    def insert_or_update(self, table: sa.Table, row: Mapping[str, Any]) -> sa.Insert:
        """An INSERT that overwrites an existing row of the same primary key."""
        others = {name: value for name, value in row.items() if name not in table.primary_key.columns}
        insert = self._insert(table).values(row)
        return insert.on_conflict_do_update(index_elements=list(table.primary_key), set_=others)

    def close(self) -> None:
        """Finish what was handed in, then close every connection of this process; safe to call twice."""
        process = self._process
        if process.pid == process_id() and not self._closed:
            for service in process.services.values():
                service.close()
            if process.link is not None:
                process.link.close()
            process.engine.dispose()
        self._closed = True

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Store({self.url!r})"

    def _mine(self) -> Process:
        if self._closed:
            raise StoreError(f"store {self.url!r} is closed; open it again with Store.open")
        if self._process.pid != process_id():
            if self._location.memory:
                raise StoreError("a ':memory:' store cannot be shared with a forked process; give a file path instead")
            self._process = self._process.succeed()
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
            raise StoreError(connections.explain(self.url, str(error.orig))) from error
        except StatementError as error:
            # A value that a column refused (dump_json) arrives wrapped.
            raise (error.orig if isinstance(error.orig, ConfigError) else error) from None

    def _make_ready(self) -> None:
        """Refuse what is not ours before touching it, then switch to WAL, then upgrade the schema in one transaction."""
        with self.read() as connection:
            revision = schema.revision(connection, self.url)
        if self.path is not None:
            connections.use_wal(self.path)
        if revision != schema.HEAD:
            with self.write() as connection:
                schema.upgrade(connection, self.url)
