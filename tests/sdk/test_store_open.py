from __future__ import annotations

import os
import subprocess
import sys
import threading
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
import sqlalchemy as sa

from selfreg_sdk.errors import ConfigError, StoreError
from selfreg_sdk.meter import Meter
from selfreg_sdk.store import Store
from selfreg_sdk.store.ledger import Ledger
from tests.faults.processes import ROOT
from tests.faults.spending import INFO


def attempts(store: Store) -> int:
    return len(Meter(store).ledger())


def test_the_default_place_is_the_variable_then_the_users_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFREG_STORE", str(tmp_path / "named.db"))
    with Store.open() as store:
        assert store.path == tmp_path / "named.db"
    monkeypatch.delenv("SELFREG_STORE")
    with Store.open() as store:
        assert store.path == tmp_path / "xdg_data_home" / "selfreg" / "selfreg.sqlite3"


def test_a_path_can_be_written_in_several_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    places = (
        tmp_path / "a.db",
        str(tmp_path / "a.db"),
        f"sqlite:///{tmp_path}/a.db",
        "a.db",
        "~/a.db",
        "sqlite:///a.db",
    )
    for number, place in enumerate(places):
        with Store.open(place) as store:
            assert store.url == str(tmp_path / "a.db")
            assert attempts(store) == number
            Meter(store).reserve(scopes=[], worst=None, info=INFO)


@pytest.mark.parametrize("name", ["with space.db", "per%cent?x=1.db", "ümläut#1.db"])
def test_odd_names_are_names(tmp_path: Path, name: str) -> None:
    with Store.open(tmp_path / name) as store:
        Meter(store).reserve(scopes=[], worst=None, info=INFO)
    assert sorted(file.name for file in tmp_path.iterdir() if file.is_file()) == [name]
    with Store.open(tmp_path / name) as store:
        assert attempts(store) == 1


def test_stores_in_memory_are_apart_and_shared_by_threads() -> None:
    with Store.open(":memory:") as one, Store.open(":memory:") as other:
        worker = threading.Thread(target=lambda: Meter(one).reserve(scopes=[], worst=None, info=INFO))
        worker.start()
        worker.join()
        assert (attempts(one), attempts(other)) == (1, 0)


def test_postgres_without_its_driver_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ConfigError, match=r"pip install 'selfreg\[postgres\]'"):
        Store.open("postgresql://user@127.0.0.1/db")


def test_readers_do_not_wait_for_a_writer(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store.db") as store:
        seen: list[int] = []
        with store.write():
            reader = threading.Thread(target=lambda: seen.append(attempts(store)))
            reader.start()
            reader.join(timeout=10)
        assert seen == [0]


FORK = """
import os, sys
from selfreg_sdk.meter import Meter
from selfreg_sdk.store import Store
from selfreg_sdk.store.ledger import Ledger
from selfreg_sdk.errors import StoreError
from tests.faults.spending import INFO
memory = Store.open(":memory:")
store = Store.open(sys.argv[1])
Meter(store).reserve(scopes=[], worst=None, info=INFO)
with store.write() as connection:
    child = os.fork()
    if child == 0:
        # The parent holds the write lock and a connection; reading works at once, with a connection of our own.
        assert len(Meter(store).ledger()) == 1
        try:
            Meter(memory).status()
        except StoreError as error:
            assert "forked" in str(error)
            os._exit(0)
        os._exit(1)
    status = os.waitpid(child, 0)[1]
child = os.fork()
if child == 0:
    Meter(store).reserve(scopes=[], worst=None, info=INFO)
    store.close()
    os._exit(0)
status += os.waitpid(child, 0)[1]
Meter(store).reserve(scopes=[], worst=None, info=INFO)
print(status, len(Meter(store).ledger()), len(Meter(memory).ledger()))
"""


def test_a_forked_child_gets_connections_of_its_own(tmp_path: Path) -> None:
    path = str(tmp_path / "store.db")
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", FORK, path], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    assert run.stdout == "0 3 0\n", run.stderr


def test_a_full_disk_is_a_clear_error_and_what_was_committed_stays(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store.db") as store:
        Meter(store).reserve(scopes=[("b", None)], worst=Decimal(1), info=INFO)
        with store.write() as connection:
            connection.exec_driver_sql("CREATE TABLE filler (x BLOB)")

        def fill() -> None:
            with store.write() as connection:
                # SQLite's own limit on the size of the file gives the error of a full disk.
                pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
                connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
                connection.exec_driver_sql("INSERT INTO filler VALUES (zeroblob(1000000))")

        with pytest.raises(StoreError, match="disk space"):
            fill()
        assert attempts(store) == 1
        assert Meter(store).status()[0].held == 1


def test_a_writer_that_waits_too_long_gets_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfreg_sdk.store.connections.BUSY_SECONDS", 0.1)
    with (
        Store.open(tmp_path / "store.db") as one,
        Store.open(tmp_path / "store.db") as other,
        one.write(),
        pytest.raises(StoreError, match="write lock"),
    ):
        Meter(other).reserve(scopes=[], worst=None, info=INFO)


def test_opening_a_store_that_is_up_to_date_loads_no_alembic(tmp_path: Path) -> None:
    Store.open(tmp_path / "store.db").close()
    code = "import sys; from selfreg_sdk.store import Store; Store.open(sys.argv[1]).close(); print('alembic' in sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "store.db")],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=60,
    )
    assert run.stdout == "False\n", run.stderr


def test_recovery_looks_at_open_attempts_alone(tmp_path: Path) -> None:
    """However long the ledger is: SQLite finds them through the index of the open ones."""
    asked: list[str] = []
    with Store.open(tmp_path / "store.db") as store:
        Ledger(store).expired(datetime.now(UTC))  # connections are set up
        with store.read() as connection:
            sa.event.listen(connection.engine, "before_cursor_execute", lambda *given: asked.append(given[2]))
        Ledger(store).expired(datetime.now(UTC))
        with store.read() as connection:
            query = next(statement for statement in reversed(asked) if "lease_until" in statement)
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}", ("x",) * query.count("?")).all()
    assert any("ix_ledger_open" in str(row) for row in plan)
