"""F23: a newer schema is refused, processes that open a new store at once all succeed, a killed upgrade leaves no half."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from selfreg_sdk.errors import StoreError
from selfreg_sdk.meter import Meter
from selfreg_sdk.store import Store, schema
from selfreg_sdk.store.tables import metadata
from tests.faults.processes import ROOT, start_python, start_together
from tests.faults.spending import INFO

OPEN = """
import sys
from selfreg_sdk.store import Store
from selfreg_sdk.meter import Meter
from tests.faults.spending import INFO
import alembic.command
print("ready", flush=True); sys.stdin.readline()
with Store.open(sys.argv[1]) as store:
    Meter(store).reserve(scopes=[("b", None)], worst=None, info=INFO)
print("done", flush=True)
"""

KILLED_HALF_WAY = """
import sys, time
import alembic.op
from selfreg_sdk.store import Store
create = alembic.op.create_table
def create_and_stop(name, *rest, **options):
    create(name, *rest, **options)
    if name == "ledger":
        print("half", flush=True); time.sleep(600)
alembic.op.create_table = create_and_stop
Store.open(sys.argv[1])
"""


def test_f23_the_head_and_the_tables_are_what_the_migrations_make() -> None:
    scripts = ScriptDirectory(str(Path(schema.__file__).with_name("migrations")))
    assert scripts.get_heads() == [schema.HEAD]
    with Store.open(":memory:") as store, store.read() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": schema.VERSION_TABLE})
        assert compare_metadata(context, metadata) == []


def test_f23_a_newer_schema_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with Store.open(path) as store, store.write() as connection:
        connection.execute(sa.text(f"UPDATE {schema.VERSION_TABLE} SET version_num = '9999'"))
    before = path.read_bytes()

    with pytest.raises(StoreError, match=r"'9999', newer than .* upgrade selfreg"):
        Store.open(path)
    assert path.read_bytes() == before


def test_f23_processes_that_open_a_new_store_at_once_all_succeed(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    workers = [start_python("-c", OPEN, str(path), stderr=subprocess.PIPE) for _ in range(4)]
    try:
        start_together(workers)
        said = [worker.communicate(timeout=60) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
    assert [out for out, _ in said] == ["done\n"] * 4, said
    with Store.open(path) as store:
        assert len(Meter(store).ledger()) == 4


def test_f23_threads_that_open_new_stores_at_once_all_succeed(tmp_path: Path) -> None:
    """Without turns they run into each other in what Alembic keeps for the whole process: errors, at times a crash."""
    together = threading.Barrier(8)

    def open_one(number: int) -> str | None:
        together.wait()
        with Store.open(tmp_path / f"{number}.db") as store, store.read() as connection:
            return schema.revision(connection, "it")

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(open_one, range(8))) == [schema.HEAD] * 8


def test_f23_a_killed_upgrade_leaves_nothing_half_done(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED_HALF_WAY, str(path)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "half\n"
    child.send_signal(signal.SIGKILL)
    child.communicate(timeout=30)

    with Store.open(path) as store:
        Meter(store).reserve(scopes=[], worst=None, info=INFO)
        assert len(Meter(store).ledger()) == 1
