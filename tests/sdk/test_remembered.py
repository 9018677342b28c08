"""Stored facts in memory: fast for those who know them, and never older than promised, also between processes."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from selfreg_sdk.store import Store, changes, remembered, schema
from selfreg_sdk.store.capabilities import LearnedCapabilities
from selfreg_sdk.store.configs import ConfigRecord, Configs
from selfreg_sdk.store.remembered import AT_MOST, LOOK_EVERY, Remembered
from tests.faults.processes import start_python, start_together

TASK, ENDPOINT, MODEL = "t|m|first", "http://127.0.0.1/v1", "m"
HANG = 20.0

ELSEWHERE = """
import sys
from selfreg_sdk.store import Store
from selfreg_sdk.store.capabilities import LearnedCapabilities
from selfreg_sdk.store.configs import Configs
path, task, version = sys.argv[1], sys.argv[2], int(sys.argv[3])
with Store.open(path) as store:
    print("ready", flush=True); sys.stdin.readline()
    if version:
        Configs(store).point(task, "production", version)
    else:
        LearnedCapabilities(store).learn("http://127.0.0.1/v1", "m", "top_k", "rejected")
    print("done", flush=True); sys.stdin.readline()
"""


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Counted(Store):
    """Counts the reads, and on which threads they happened."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.threads: list[threading.Thread] = []

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        self.threads.append(threading.current_thread())
        with super().read() as connection:
            yield connection


def version(configs: Configs, task: str = TASK, **params: Any) -> int:
    return configs.add_version(
        ConfigRecord(task_key=task, model=MODEL, aggregation="first", params=params, provenance={"kind": "tuned"})
    )


def promoted_elsewhere(path: Path, number: int) -> None:
    """Another process moves the pointer of `TASK`, or with 0 learns a field; it has when this returns."""
    worker = start_python("-c", ELSEWHERE, str(path), TASK, str(number))
    try:
        start_together([worker])
        assert worker.stdout is not None
        assert worker.stdout.readline() == "done\n"
    finally:
        worker.kill()
        worker.communicate()


# -- between processes -------------------------------------------------------------------------------------------------


def moved_and_seen(path: Path, change: Callable[[Configs, LearnedCapabilities], Any], number: int) -> float:
    """Seconds until a change that another process made is seen; `HANG` if it is not."""
    with Store.open(path) as store:
        memory = Remembered(store)
        facts = Configs(store, remembered=memory), LearnedCapabilities(store, remembered=memory)
        before = change(*facts)
        promoted_elsewhere(path, number)
        began = time.monotonic()
        while change(*facts) == before:
            if time.monotonic() - began > 4 * AT_MOST:
                return HANG
            time.sleep(0.005)
        return time.monotonic() - began


def in_use(configs: Configs, learned: LearnedCapabilities) -> int | None:
    found = configs.current(TASK)
    return None if found is None else found.id


def refused(configs: Configs, learned: LearnedCapabilities) -> dict[str, Any]:
    return dict(learned.learned(ENDPOINT, MODEL))


def two_versions(path: Path) -> tuple[int, int]:
    with Store.open(path) as store:
        configs = Configs(store)
        first, second = version(configs, temperature=0.1), version(configs, temperature=0.2)
        configs.point(TASK, "production", second)
    return first, second


def test_a_promotion_a_rollback_and_a_lesson_of_another_process_are_seen_in_time(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    first, second = two_versions(path)

    assert moved_and_seen(path, in_use, first) <= 2 * AT_MOST  # twice: this machine may be busy
    assert moved_and_seen(path, in_use, second) <= 2 * AT_MOST
    assert moved_and_seen(path, refused, 0) <= 2 * AT_MOST


def test_a_memory_that_never_asks_the_store_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "store.db"
    first, _ = two_versions(path)
    monkeypatch.setattr(Remembered, "_look", lambda self: None)

    assert moved_and_seen(path, in_use, first) == HANG


def test_a_pointer_moved_without_its_number_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What every writer owes: the same move by plain SQL stays unseen."""
    path = tmp_path / "store.db"
    first, _ = two_versions(path)
    with Store.open(path) as store, Store.open(path) as other:
        clock = Clock()
        configs = Configs(store, remembered=Remembered(store, clock=clock))
        before = configs.current(TASK)
        with other.write() as connection:
            connection.execute(sa.text("UPDATE config_pointer SET version_id = :v"), {"v": first})
        clock.now += 10

        assert configs.current(TASK) is before
        Configs(other).point(TASK, "production", first)
        clock.now += 10
        now = configs.current(TASK)
        assert now is not None
        assert now.id == first


# -- how old, and who asks ---------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Counted]:
    with Counted.open(tmp_path / "store.db") as opened:
        assert isinstance(opened, Counted)
        yield opened


def test_known_facts_are_read_once_also_those_that_are_absent(store: Counted) -> None:
    configs = Configs(store, remembered=(memory := Remembered(store, clock=Clock())))
    learned = LearnedCapabilities(store, remembered=memory)
    configs.current(TASK), configs.current("other"), learned.learned(ENDPOINT, MODEL)
    read = len(store.threads)

    assert [configs.current(TASK), configs.current("other")] == [None, None]
    assert learned.learned(ENDPOINT, MODEL) is learned.learned(ENDPOINT, MODEL)
    assert len(store.threads) == read


def test_own_changes_are_seen_at_once(store: Counted) -> None:
    configs = Configs(store, remembered=(memory := Remembered(store, clock=Clock())))
    learned = LearnedCapabilities(store, remembered=memory)
    assert (configs.current(TASK), dict(learned.learned(ENDPOINT, MODEL))) == (None, {})
    first = version(configs)
    configs.point(TASK, "production", first)
    learned.learn(ENDPOINT, MODEL, "top_k", "rejected")

    assert configs.current(TASK) == configs.get(first)
    assert learned.learned(ENDPOINT, MODEL) == {"top_k": "rejected"}


def test_only_what_changed_is_read_again(store: Counted) -> None:
    clock = Clock()
    configs, other = Configs(store, remembered=Remembered(store, clock=clock)), Configs(store)
    mine, its = version(configs), version(configs, "its")
    configs.point(TASK, "production", mine)
    configs.point("its", "production", its)
    kept, moved = configs.current(TASK), configs.current("its")
    other.point("its", "production", version(other, "its"))
    clock.now += AT_MOST

    assert configs.current(TASK) is kept
    assert configs.current("its") != moved


async def test_what_is_known_and_fresh_uses_no_thread(store: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    configs = Configs(store, remembered=Remembered(store, clock=clock))
    await configs.acurrent(TASK)
    clock.now += LOOK_EVERY * 0.9

    async def hop(*given: Any) -> None:
        raise AssertionError("a thread was used")

    monkeypatch.setattr(asyncio, "to_thread", hop)
    assert await configs.acurrent(TASK) is None
    clock.now += LOOK_EVERY * 0.2
    with pytest.raises(AssertionError, match="a thread"):  # the check of this test: due, so a thread asks
        await configs.acurrent(TASK)


async def test_the_store_is_never_read_on_the_event_loop(store: Counted) -> None:
    clock = Clock()
    configs = Configs(store, remembered=Remembered(store, clock=clock))
    store.threads.clear()
    for _ in range(5):
        await asyncio.gather(*(configs.acurrent(f"task {n % 3}") for n in range(16)))
        clock.now += AT_MOST

    assert store.threads
    assert threading.main_thread() not in store.threads


async def test_one_of_many_asks_and_the_others_go_on(store: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the two limits; beyond the later one everybody waits for the answer."""
    clock, gate = Clock(), threading.Event()
    configs = Configs(store, remembered=Remembered(store, clock=clock))
    await configs.acurrent(TASK)
    asked = remembered.since

    def slowly(*given: Any) -> Any:
        assert gate.wait(HANG)
        return asked(*given)

    monkeypatch.setattr(remembered, "since", slowly)
    clock.now += LOOK_EVERY * 1.1
    asking = asyncio.create_task(configs.acurrent(TASK))
    await asyncio.sleep(0)
    for _ in range(10):
        assert await asyncio.wait_for(configs.acurrent(TASK), HANG) is None
    assert not asking.done()
    clock.now += AT_MOST
    late = asyncio.create_task(configs.acurrent(TASK))
    await asyncio.sleep(0.05)
    assert not late.done()
    gate.set()
    await asyncio.wait_for(asyncio.gather(asking, late), HANG)


def test_a_fact_that_changed_while_it_was_read_is_not_kept(store: Counted) -> None:
    configs = Configs(store, remembered=(memory := Remembered(store, clock=Clock())))
    key = changes.pointer_key(TASK, "production")

    def load(connection: sa.Connection) -> str:
        memory.forget(key)  # what a move does that is committed after this read began
        return "old"

    assert memory.read(key, load) == "old"
    assert configs.current(TASK) is None


def test_all_readers_of_a_store_share_one_memory_and_a_forked_child_has_its_own(tmp_path: Path) -> None:
    with Counted.open(tmp_path / "store.db") as store:
        assert isinstance(store, Counted)
        configs, others = Configs(store), Configs(store)
        assert configs.current(TASK) is None
        others.point(TASK, "production", version(others))
        assert configs.current(TASK) == configs.latest(TASK) is not None
        mine = store.service(Remembered)
        with mine._lock:  # as a thread of the parent may hold it at the moment of the fork
            child = os.fork()
            if child == 0:
                os._exit(0 if configs.current(TASK) is not None and store.service(Remembered) is not mine else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_the_least_recently_used_facts_go_first(store: Counted) -> None:
    memory = Remembered(store, most=2, clock=Clock())
    loads: list[str] = []

    def read(name: str) -> None:
        memory.read((name,), lambda connection: loads.append(name))

    for name in ("a", "b", "a", "c", "a", "b"):
        read(name)

    assert loads == ["a", "b", "c", "b"]


# -- stores of the first schema ----------------------------------------------------------------------------------------


def test_a_store_of_the_first_schema_is_upgraded_with_its_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from alembic import command

    path, upgrade = tmp_path / "store.db", command.upgrade
    with monkeypatch.context() as patched:
        patched.setattr(command, "upgrade", lambda config, head: upgrade(config, "0001"))
        with Store.open(path) as old, old.write() as connection:
            assert schema.revision(connection, "") == "0001"
            stamp = "2026-01-01 00:00:00"
            connection.execute(
                sa.text(
                    "INSERT INTO config_version (task_key, model, aggregation, params, provenance, created_at) "
                    "VALUES (:t, 'm', 'first', '{\"temperature\": 0.5}', '{\"kind\": \"tuned\"}', :s)"
                ),
                {"t": TASK, "s": stamp},
            )
            connection.execute(
                sa.text("INSERT INTO config_pointer VALUES (:t, 'production', 1, :s)"), {"t": TASK, "s": stamp}
            )
            connection.execute(
                sa.text("INSERT INTO learned_capability VALUES (:e, 'm', 'top_k', 'rejected', '', :s)"),
                {"e": ENDPOINT, "s": stamp},
            )
    with Store.open(path) as store:
        configs, learned = Configs(store), LearnedCapabilities(store)
        found = configs.current(TASK)
        assert found is not None
        assert (found.id, found.params) == (1, {"temperature": 0.5})
        assert learned.learned(ENDPOINT, MODEL) == {"top_k": "rejected"}
        configs.point(TASK, "production", version(configs))
        found = configs.current(TASK)
        assert found is not None
        assert found.id == 2
