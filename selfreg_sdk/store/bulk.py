"""Reading and writing many rows at driver speed.

SQLAlchemy's Core takes about 50 us for a small statement, most of it spent on what is the same every time. Here the text of
a statement is written once for each number of rows, values are converted by the column types of ``tables`` (so the stored
form is the same), and the driver runs it. Many rows go in one statement: the driver gives Python's lock away at every
one it runs, and on a busy event loop getting it back can take milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import sqlalchemy as sa

T = TypeVar("T")

Cursor = Any
"""A cursor of the driver: sqlite3 or psycopg."""

# The numbers of rows that statements are written for, so that their texts are few and the driver's cache holds them all.
_SIZES = (64, 32, 16, 8, 4, 2, 1)


class Rows:
    """Rows of one table, over a choice of its columns.

    Args:
        dialect: of the open engine, whose JSON serializer applies.
        names: the columns, in the order of the values.
    """

    def __init__(self, dialect: sa.Dialect, table: sa.Table, names: Sequence[str]) -> None:
        self._table = table.name
        self._names = tuple(names)
        self._postgres = dialect.name == "postgresql"
        columns = [table.columns[name] for name in names]
        types = [column.type.dialect_impl(dialect) for column in columns]
        to_driver = [(place, kind.bind_processor(dialect)) for place, kind in enumerate(types)]
        self._to_driver = [(place, convert) for place, convert in to_driver if convert is not None]
        # Postgres must be told the types of values that are not in an INSERT; for SQLite a cast could change them.
        self._marks = [f"CAST(%s AS {column.type.compile(dialect)})" if self._postgres else "?" for column in columns]
        self._texts: dict[tuple[Any, ...], str] = {}

    def bind(self, values: Iterable[Any]) -> tuple[Any, ...]:
        """The values of a row as the driver takes them.

        Raises:
            ConfigError: a value that JSON has no form for.
            ValueError: a stamp without a time zone.
        """
        row = list(values)
        for place, convert in self._to_driver:
            row[place] = convert(row[place])
        return tuple(row)

    def insert(self, cursor: Cursor, rows: Sequence[tuple[Any, ...]], *, unless: tuple[str, ...] = ()) -> None:
        """Insert bound rows; those that agree with an existing row in the columns ``unless`` are left out."""
        for some in _chunks(rows):
            cursor.execute(self._text(self._insert, len(some), unless), _flat(some))

    def update(self, cursor: Cursor, rows: Sequence[tuple[Any, ...]], *, add: tuple[str, ...] = ()) -> None:
        """Change the rows that the first column names, one bound row each; columns in ``add`` grow by the value."""
        for some in _chunks(rows):
            if len(some) == 1:
                key, *others = some[0]
                cursor.execute(self._text(self._update_one, add), (*others, key))
            else:
                cursor.execute(self._text(self._update, len(some), add), _flat(some))

    def select(self, cursor: Cursor, keys: Sequence[Any]) -> list[tuple[Any, ...]]:
        """The rows whose first column is among ``keys`` (sorted), kept from others until the transaction ends.

        Values come as the driver has them: choose columns whose types need no conversion.
        """
        found: list[tuple[Any, ...]] = []
        for some in _chunks(keys):
            found += cursor.execute(self._text(self._select, len(some)), some).fetchall()
        return found

    def delete(self, cursor: Cursor, keys: Sequence[Any]) -> None:
        """Delete the rows whose first column is among ``keys``."""
        for some in _chunks(keys):
            cursor.execute(self._text(self._delete, len(some)), some)

    def _insert(self, rows: int, unless: tuple[str, ...]) -> str:
        rest = f" ON CONFLICT ({', '.join(unless)}) DO NOTHING" if unless else ""
        return f"INSERT INTO {self._table} ({', '.join(self._names)}) VALUES {self._values(rows)}{rest}"

    def _update(self, rows: int, add: tuple[str, ...]) -> str:
        table, (key, *others) = self._table, self._names
        changes = [f"{name} = {f'{table}.{name} + ' if name in add else ''}given.{name}" for name in others]
        return (
            f"WITH given ({', '.join(self._names)}) AS (VALUES {self._values(rows)}) "
            f"UPDATE {table} SET {', '.join(changes)} FROM given WHERE {table}.{key} = given.{key}"
        )

    def _update_one(self, add: tuple[str, ...]) -> str:
        key, *others = zip(self._names, self._marks, strict=True)
        changes = [f"{name} = {f'{name} + ' if name in add else ''}{mark}" for name, mark in others]
        return f"UPDATE {self._table} SET {', '.join(changes)} WHERE {key[0]} = {key[1]}"

    def _select(self, rows: int) -> str:
        # SQLite has locked the whole database already.
        lock = " FOR UPDATE" if self._postgres else ""
        return f"SELECT {', '.join(self._names)} FROM {self._table} {self._among(rows)} ORDER BY {self._names[0]}{lock}"

    def _delete(self, rows: int) -> str:
        return f"DELETE FROM {self._table} {self._among(rows)}"

    def _among(self, rows: int) -> str:
        return f"WHERE {self._names[0]} IN ({', '.join([self._marks[0]] * rows)})"

    def _values(self, rows: int) -> str:
        return ", ".join([f"({', '.join(self._marks)})"] * rows)

    def _text(self, write: Callable[..., str], *given: Any) -> str:
        key = (write.__name__, *given)
        if key not in self._texts:
            self._texts[key] = write(*given)
        return self._texts[key]


def _chunks(rows: Sequence[T]) -> Sequence[Sequence[T]]:
    if len(rows) < 2:
        return (rows,) if rows else ()
    chunks, start = [], 0
    while left := len(rows) - start:
        size = next(size for size in _SIZES if size <= left)
        chunks.append(rows[start : start + size])
        start += size
    return chunks


def _flat(rows: Sequence[tuple[Any, ...]]) -> Sequence[Any]:
    return rows[0] if len(rows) == 1 else [value for row in rows for value in row]
