"""The version of the schema: read it, upgrade it, refuse what is newer or not ours.

Alembic is imported only when there is something to upgrade; opening an up-to-date store needs one SELECT.
"""

from __future__ import annotations

import threading
from pathlib import Path

import sqlalchemy as sa

from selfreg_sdk.errors import StoreError

# The newest revision in migrations/versions; a test holds that it is.
HEAD = "0003"

VERSION_TABLE = "selfreg_schema"

# Any constant of ours: Postgres sessions that upgrade the same database queue on it.
_ADVISORY_LOCK = 0x5E1F4E6

_alembic = threading.Lock()
"""Alembic keeps the upgrade that runs in a global: threads of one process upgrade one store after another."""


def revision(connection: sa.Connection, shown: str) -> str | None:
    """The revision of the store, or None for an empty database. Reads only.

    Raises:
        StoreError: a database with tables, but none of ours.
    """
    tables = sa.inspect(connection).get_table_names()
    if VERSION_TABLE in tables:
        found = connection.execute(sa.text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()
        if found is None:
            raise StoreError(f"store {shown!r} has lost its schema version; restore a backup (nothing was changed)")
        return str(found)
    # On Postgres other applications may share a database; on SQLite the file is either ours or someone else's.
    if tables and connection.dialect.name == "sqlite":
        raise StoreError(
            f"store {shown!r} is a database of another application (tables {', '.join(sorted(tables)[:3])}...) "
            f"and was left as it is; name another file"
        )
    return None


def upgrade(connection: sa.Connection, shown: str) -> None:
    """Bring the store to HEAD inside the caller's write transaction: all of it or nothing, also after a kill.

    Whoever comes second waits for the write lock (SQLite) or the advisory lock (Postgres) and finds the work done.

    Raises:
        StoreError: the store was written by a newer selfreg.
    """
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    if connection.dialect.name == "postgresql":
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
    found = revision(connection, shown)
    if found == HEAD:
        return
    config = Config()
    # The config file format of alembic reads % as interpolation.
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%"))
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if found is not None and found not in known:
        raise StoreError(
            f"store {shown!r} has schema {found!r}, newer than the {HEAD!r} this selfreg knows; "
            f"upgrade selfreg, or name another store (nothing was changed)"
        )
    config.attributes["connection"] = connection
    with _alembic:
        command.upgrade(config, HEAD)
