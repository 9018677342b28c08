"""F20, F21: files that cannot be a store. One clear error each, and nothing on the disk is changed."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from selfreg_sdk.errors import ConfigError, StoreError
from selfreg_sdk.meter import Meter
from selfreg_sdk.store import Store
from tests.faults.processes import ROOT
from tests.faults.spending import INFO


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def snapshot(path: Path) -> tuple[bytes, list[str]]:
    """The bytes of a file and what lies beside it."""
    return path.read_bytes(), sorted(other.name for other in path.parent.iterdir())


def refused(path: Path, *words: str) -> None:
    """Opening fails with one error that has these words, and leaves everything as it was."""
    before = snapshot(path)
    with pytest.raises(StoreError) as caught:
        Store.open(path)
    assert all(word in str(caught.value) for word in (str(path), *words)), str(caught.value)
    assert snapshot(path) == before


def test_f20_a_new_store_and_its_folders_are_private(tmp_path: Path) -> None:
    path = tmp_path / "new" / "deep" / "store.db"
    old_umask = os.umask(0)
    try:
        with Store.open(path) as store:
            Meter(store).reserve(scopes=[], worst=None, info=INFO)
            files = sorted(path.parent.iterdir())
            assert len(files) == 3, "the database, its -wal and its -shm"
            assert [mode(file) for file in files] == [0o600] * 3
    finally:
        os.umask(old_umask)
    assert (mode(path.parent), mode(path.parent.parent)) == (0o700, 0o700)


def test_f20_the_check_catches_a_store_left_to_the_umask(tmp_path: Path) -> None:
    old_umask = os.umask(0)
    try:
        sqlite3.connect(tmp_path / "plain.db").execute("CREATE TABLE t (x)").connection.close()
    finally:
        os.umask(old_umask)
    assert mode(tmp_path / "plain.db") != 0o600


@pytest.mark.parametrize("content", [b"just some notes\n", b"SQLite", bytes(4096), b"prices: {}\n"])
def test_f20_a_file_that_is_no_database_is_refused_and_kept(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    refused(path, "not a SQLite database", "left as it is")


def test_f20_a_database_of_another_application_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE bookmarks (url TEXT)")
    connection.close()
    refused(path, "another application", "bookmarks")


def test_f21_a_damaged_store_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    Store.open(path).close()
    content = bytearray(path.read_bytes())
    content[100:4096] = os.urandom(3996)
    path.write_bytes(bytes(content))
    with pytest.raises(StoreError, match="backup"):
        Store.open(path)
    assert path.read_bytes() == bytes(content)


def test_f20_a_folder_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="directory"):
        Store.open(tmp_path)


def test_f20_a_path_through_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be opened"):
        Store.open(tmp_path / "file" / "store.db")


# Root may write anywhere, so the child gives its rights away; the modules are loaded before that.
AS_NOBODY = """
import os, sys
from selfreg_sdk.errors import StoreError
from selfreg_sdk.meter import Meter
from selfreg_sdk.store import Store
from tests.faults.spending import INFO
import sqlalchemy.dialects.sqlite.pysqlite, alembic.command
if os.geteuid() == 0:
    os.setegid(65534)
    os.seteuid(65534)
try:
    with Store.open(sys.argv[1]) as store:
        print("opened, rows:", len(Meter(store).ledger()))
        Meter(store).reserve(scopes=[], worst=None, info=INFO)
    print("written")
except StoreError as error:
    print(type(error).__name__, error)
"""


def as_nobody(path: Path) -> str:
    """What a process without rights on the file says."""
    for folder in (path.parent, *path.parent.parents[:3]):
        if folder.stat().st_uid == os.geteuid() and mode(folder) == 0o700:
            folder.chmod(0o711)
    run = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, str(path)], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    assert "Traceback" not in run.stderr, run.stderr
    return run.stdout


def test_f20_a_store_that_may_only_be_read_refuses_to_write(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with Store.open(path) as store:
        Meter(store).reserve(scopes=[], worst=None, info=INFO)
    path.chmod(0o444)
    path.parent.chmod(0o555)

    said = as_nobody(path)
    assert "StoreError" in said
    assert "writable" in said
    assert "written" not in said
    with Store.open(path) as store:
        assert len(Meter(store).ledger()) == 1


def test_f20_a_store_without_permission_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    Store.open(path).close()
    path.chmod(0o000)
    said = as_nobody(path)
    assert "StoreError" in said
    assert "Permission denied" in said


def test_f20_a_closed_store_says_so(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store.db")
    store.close()
    store.close()
    with pytest.raises(StoreError, match="closed"):
        Meter(store).status()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("mysql://root:sk-canary@localhost/x", "mysql"),
        ("", "empty"),
        ("postgresql://user:sk-canary@localhost:port/db", "Postgres URL"),
    ],
)
def test_f20_urls_of_no_store_are_refused_without_their_password(url: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        Store.open(url)
    assert "sk-canary" not in str(caught.value)


def test_f20_the_store_never_shows_its_password() -> None:
    with pytest.raises(ConfigError) as caught:
        Store.open("postgresql+psycopg://user:sk-canary@127.0.0.1:1/db")
    assert "sk-canary" not in str(caught.value)
