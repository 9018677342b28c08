"""The writer's thread on SQLite: how it commits, how it ends, what a fork and a garbage collector do to it."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from selfreg_sdk.errors import ConfigError
from selfreg_sdk.meter import Meter, Reservation
from selfreg_sdk.store import Store
from selfreg_sdk.store.writer import Writer
from tests.contracts.store_contract import INFO, USAGE
from tests.faults.processes import ROOT

HANG = 20.0
NORMAL, FULL = 1, 2


class Probed(Store):
    """Asks SQLite, inside every group, how it is going to commit."""

    asked: list[int]
    syncs = 0

    @contextmanager
    def group(self, *, durable: bool) -> Iterator[Any]:
        with super().group(durable=durable) as cursor:
            self.asked.append(cursor.execute("PRAGMA synchronous").fetchone()[0])
            yield cursor

    def sync(self) -> None:
        super().sync()
        self.syncs += 1


def probed(tmp_path: Path, durability: Any) -> Probed:
    Store.open(tmp_path / "store.db").close()
    with Store.open(tmp_path / "store.db") as located:
        store = Probed(located._location, durability)
    store.asked = []
    return store


def reserve(meter: Meter, **changes: Any) -> Reservation:
    return meter.reserve(**{"scopes": [("b", Decimal(9))], "worst": Decimal("0.5"), "info": INFO, **changes})


def writer_threads() -> int:
    return sum(thread.name == "selfreg-writer" for thread in threading.enumerate())


def wait_for(condition: Any) -> None:
    for _ in range(int(HANG / 0.01)):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it never came true")


@pytest.mark.parametrize(("durability", "asked"), [("normal", [NORMAL, FULL, NORMAL]), ("strict", [FULL] * 3)])
def test_how_sqlite_commits_reservations_and_settlements(tmp_path: Path, durability: str, asked: list[int]) -> None:
    with probed(tmp_path, durability) as store:
        meter = Meter(store)
        meter.settle(reserve(meter), cost=Decimal("0.5"), usage=USAGE)
        reserve(meter)
        assert store.asked == asked
        with store.write() as connection:
            assert connection.exec_driver_sql("PRAGMA synchronous").scalar_one() == FULL


def test_the_disk_catches_up_when_the_writer_is_idle(tmp_path: Path) -> None:
    with probed(tmp_path, "normal") as store:
        meter = Meter(store)
        one = reserve(meter)
        wait_for(lambda: store.syncs == 1)
        assert not store.behind
        meter.settle(one, cost=Decimal("0.5"), usage=USAGE)
        assert not store.behind, "a durable commit has nothing to catch up with"


def test_the_variable_makes_it_strict_and_a_wrong_word_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFREG_DURABILITY", "strict")
    with Store.open(tmp_path / "store.db") as store:
        reserve(Meter(store))
        assert not store.behind
    monkeypatch.setenv("SELFREG_DURABILITY", "eventual")
    with pytest.raises(ConfigError, match="'eventual' is not one of normal, strict"):
        Store.open(tmp_path / "store.db")


def test_all_meters_of_a_store_share_one_thread_and_closing_ends_it(tmp_path: Path) -> None:
    before = writer_threads()
    with Store.open(tmp_path / "store.db") as store:
        for _ in range(3):
            reserve(Meter(store))
        assert writer_threads() == before + 1
    assert writer_threads() == before


def test_an_idle_thread_ends_lets_go_of_its_store_and_another_takes_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("selfreg_sdk.store.writer._IDLE", 0.02)
    before = writer_threads()
    store = Store.open(":memory:")
    for number in range(1, 4):
        reserve(Meter(store))
        wait_for(lambda: writer_threads() == before)
        assert len(Meter(store).ledger()) == number
    gone = weakref.ref(store)
    del store
    gc.collect()
    assert gone() is None


async def test_calls_that_are_busy_together_share_transactions(tmp_path: Path) -> None:
    with probed(tmp_path, "normal") as store:
        meter = Meter(store)

        async def pay() -> None:
            one = await meter.areserve(scopes=[("b", Decimal(90))], worst=Decimal("0.5"), info=INFO)
            await meter.asettle(one, cost=Decimal("0.5"), usage=USAGE)

        with store.write():  # all of them are there when the first group begins
            tasks = [asyncio.create_task(pay()) for _ in range(64)]
            await asyncio.sleep(0.05)
        await asyncio.gather(*tasks)
        assert len(store.asked) < 64, "128 changes"
        assert meter.status()[0].spent == 32


async def test_a_loop_that_is_closed_leaves_no_reservation_behind(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store.db") as store:
        meter = Meter(store)

        def abandon() -> None:
            loop = asyncio.new_event_loop()
            task = loop.create_task(meter.areserve(scopes=[("b", None)], worst=Decimal(1), info=INFO))
            loop.call_later(0.02, loop.stop)
            loop.run_forever()
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            loop.close()

        with store.write():
            await asyncio.to_thread(abandon)
        await asyncio.to_thread(wait_for, lambda: [row.state for row in meter.ledger()] == ["released"])


def test_what_the_garbage_collector_closes_on_the_writers_thread_does_not_stop_it(tmp_path: Path) -> None:
    """A dropped stream closes its books wherever it is collected; the writer cannot wait for itself."""
    with Store.open(tmp_path / "store.db") as store:
        meter = Meter(store)
        dropped = reserve(meter)
        journal = store.service(Writer).journal
        post = journal.post

        def collecting(operations: Any) -> Any:
            journal.post = post  # type: ignore[method-assign]
            meter.mark_unknown(dropped, "GeneratorExit")
            return post(operations)

        journal.post = collecting  # type: ignore[method-assign]
        asking = threading.Thread(target=lambda: reserve(meter), daemon=True)
        asking.start()
        asking.join(HANG)
        assert not asking.is_alive()
        wait_for(lambda: [row.state for row in meter.ledger()] == ["reserved", "unknown"])


# A task that is still waiting, a reservation that nobody waits for, and no close: the process ends all the same.
UNFINISHED = """
import asyncio, sys, threading
from decimal import Decimal
from selfreg_sdk.meter import Meter
from selfreg_sdk.store import Store
from tests.contracts.store_contract import INFO
store = Store.open(sys.argv[1])
meter = Meter(store)
async def main():
    task = asyncio.create_task(meter.areserve(scopes=[("b", None)], worst=Decimal(1), info=INFO))
    await asyncio.sleep(0)
with store.write():  # the writer is stuck while the task is cancelled
    asyncio.run(main())
print("ends", flush=True)
"""


def test_a_process_that_just_ends_neither_hangs_nor_leaves_anything_held(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", UNFINISHED, str(path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
    )
    assert (run.stdout, run.returncode, run.stderr) == ("ends\n", 0, "")
    with Store.open(path) as store:
        assert [row.state for row in Meter(store).ledger()] in ([], ["released"])


FORK = """
import os, sys, threading
from decimal import Decimal
from selfreg_sdk.meter import Meter
from selfreg_sdk.store import Store
from tests.contracts.store_contract import INFO, USAGE
store = Store.open(sys.argv[1])
meter, done = Meter(store), threading.Event()
def pay():
    one = meter.reserve(scopes=[("b", None)], worst=Decimal(1), info=INFO)
    meter.settle(one, cost=Decimal(1), usage=USAGE)
def keep_paying():
    while not done.is_set():
        pay()
busy = threading.Thread(target=keep_paying); busy.start()
status = 0
for _ in range(5):
    child = os.fork()
    if child == 0:
        pay()
        store.close()
        os._exit(0)
    status += os.waitpid(child, 0)[1]
done.set(); busy.join(20)
pay()
rows = meter.ledger()
print(status, {row.state for row in rows}, meter.status()[0].spent == len(rows))
"""


def test_a_child_forked_while_the_writer_works_has_a_writer_of_its_own(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", FORK, str(tmp_path / "store.db")], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    assert run.stdout == "0 {'settled'} True\n", run.stderr
