"""Where a store lives: the meaning of a path or URL, and a private file for it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_data_path
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from selfreg_sdk.errors import ConfigError, StoreError

# Made once: json.dumps with these arguments would make it for every value.
_JSON = json.JSONEncoder(allow_nan=False, separators=(",", ":"))
_MAGIC = b"SQLite format 3\x00"
_KINDS = "a file path, sqlite:///path, :memory: or postgresql+psycopg://user@host/name"


@dataclass(frozen=True, kw_only=True)
class Location:
    """A place for a store.

    Attributes:
        url: for SQLAlchemy; holds the password, so it is not printed.
        path: the file, for SQLite on disk.
    """

    url: URL
    path: Path | None = None

    @property
    def sqlite(self) -> bool:
        """SQLite, on disk or in memory."""
        return self.url.get_backend_name() == "sqlite"

    @property
    def memory(self) -> bool:
        """SQLite in memory."""
        return self.sqlite and self.path is None

    @property
    def shown(self) -> str:
        """For messages: the path, or the URL without its password."""
        return str(self.path) if self.path else self.url.render_as_string(hide_password=True)


def locate(url_or_path: str | Path | None) -> Location:
    """Read a path or URL; None means the variable SELFREG_STORE, else the user's data folder.

    Raises:
        ConfigError: empty, or a kind of URL that is not supported.
    """
    if url_or_path is None:
        url_or_path = os.environ.get("SELFREG_STORE") or user_data_path("selfreg", appauthor=False) / "selfreg.sqlite3"
    text = str(url_or_path).strip()
    if not text:
        raise ConfigError(f"store {url_or_path!r} is empty; give {_KINDS}")
    if text in (":memory:", "sqlite://", "sqlite:///:memory:"):
        return Location(url=URL.create("sqlite+pysqlite"))
    if text.startswith("sqlite:///"):
        text = text.removeprefix("sqlite:///")
    elif text.startswith(("postgresql://", "postgresql+psycopg://", "postgres://")):
        return Location(url=_postgres(text))
    elif "://" in text:
        raise ConfigError(f"store kind {text.partition('://')[0]!r} is not supported; give {_KINDS}")
    path = Path(text).expanduser().absolute()
    return Location(url=URL.create("sqlite+pysqlite", database=str(path)), path=path)


def _postgres(text: str) -> URL:
    try:
        return make_url(text).set(drivername="postgresql+psycopg")
    except (ArgumentError, ValueError):
        # The text may hold a password: it is not repeated.
        raise ConfigError(f"the Postgres URL of the store cannot be read; give {_KINDS}") from None


def prepare_file(path: Path) -> None:
    """Create the file (0600) and its missing folders (0700), or check that what is there begins like a database.

    The mode is set at creation, before anything is written; SQLite gives its -wal and -shm files the same mode.

    Raises:
        StoreError: a folder, not SQLite, or no permission. What exists is left as it is.
    """
    try:
        for folder in reversed(path.parents):
            if not folder.exists():
                folder.mkdir(mode=0o700, exist_ok=True)
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        except FileExistsError:
            with path.open("rb") as file:
                start = file.read(len(_MAGIC))
            # An empty file is what a process killed right after creating it leaves behind.
            if start not in (b"", _MAGIC):
                raise StoreError(
                    f"store {str(path)!r} is not a SQLite database (it begins with {start!r}) and was left as it is; "
                    f"name another file, or move this one away"
                ) from None
    except OSError as error:
        raise StoreError(
            f"store {str(path)!r} cannot be opened: {error.strerror}; "
            f"name a file in a folder that this user may write, for example with SELFREG_STORE"
        ) from error


def dump_json(value: object) -> str:
    """JSON for columns, compact.

    Raises:
        ConfigError: NaN (other readers of the database could not parse it), or a value that JSON has no form for.
    """
    try:
        return _JSON.encode(value)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"cannot be stored as JSON ({error}); give only text, finite numbers, lists and dicts"
        ) from None
