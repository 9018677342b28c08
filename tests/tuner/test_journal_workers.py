"""Several workers at one study: everything is done once, all see the same, and nobody waits for nothing."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from selfreg_sdk.calls import Retry
from selfreg_sdk.errors import ServerFailed
from selfreg_sdk.tuner.journal.workers import is_gone, new_worker
from tests.fake_provider import FakeProvider, server_error
from tests.tuner.journaled import counted, desk, opened, quickly, wish

ONCE = Retry(attempts=1)
NOBODY = 2**22 + 1
"""A process number beyond the largest there is."""


@pytest.mark.parametrize("workers", [2, 5])
async def test_workers_do_everything_once_and_see_the_same(workers: int, tmp_path: Path) -> None:
    with FakeProvider(reply=counted(), latency=0.05) as provider, opened(tmp_path / "store.db") as store:
        async with AsyncExitStack() as stack:
            desks = [await stack.enter_async_context(desk(provider.base_url, store)) for _ in range(workers)]
            for step in range(2):  # in lock-step: what they want next is the same again
                wishes = [wish(number, start=2 * step) for number in range(30)]
                results = await quickly(asyncio.gather(*[one.buy(*wishes, mark=True) for one in desks]))
                assert all(result == results[0] for result in results)
            shares = [row.owner for row in owners(store)]
            assert len(set(shares)) == workers
            assert provider.billed.usd == desks[0].spent
        assert provider.billed.calls == 60


async def test_a_worker_that_left_gets_no_share() -> None:
    with FakeProvider(reply=counted()) as provider, opened() as store:
        async with desk(provider.base_url, store) as one:
            async with desk(provider.base_url, store) as other:
                await quickly(asyncio.gather(one.buy(wish(0), wish(1)), other.buy(wish(0), wish(1))))
            claim = one.journal._worker.rows.claim
            sizes: list[int] = []

            def claimed(*given: Any, **options: Any) -> Any:
                result = claim(*given, **options)
                sizes.append(len(result.ids))
                return result

            one.journal._worker.rows.claim = claimed  # type: ignore[method-assign]
            await quickly(one.buy(*[wish(number) for number in range(2, 10)]))
            assert sizes == [8]


async def test_what_one_worker_could_not_do_another_does_at_once() -> None:
    """An outage ends the run of whoever met it; what it had claimed is free."""
    with FakeProvider(reply=counted()) as provider, opened() as store:
        async with desk(provider.base_url, store, retry=ONCE) as one, desk(provider.base_url, store) as other:
            provider.script(server_error(500))
            with pytest.raises(ServerFailed):
                await quickly(one.buy(wish()))
            assert (await quickly(other.buy(wish())))[0].fate == "bought"


async def test_a_lease_is_renewed_while_a_call_runs() -> None:
    with FakeProvider(reply=counted(), latency=1.5) as provider, opened() as store:
        async with (
            desk(provider.base_url, store, lease_seconds=0.6) as slow,
            desk(provider.base_url, store) as other,
        ):
            first = asyncio.create_task(slow.buy(wish()))
            assert await asyncio.to_thread(provider.wait_until, lambda p: len(p.payloads) == 1)
            assert await quickly(other.buy(wish())) == await quickly(first)
        assert provider.billed.calls == 1


async def test_a_run_that_is_cancelled_while_it_claims_holds_nothing() -> None:
    with FakeProvider(reply=counted()) as provider, opened() as store:
        async with desk(provider.base_url, store) as one:
            claim, claimed = one.journal._worker.rows.claim, threading.Event()

            def slow(*given: Any, **options: Any) -> Any:
                result = claim(*given, **options)
                claimed.set()
                time.sleep(0.3)
                return result

            one.journal._worker.rows.claim = slow  # type: ignore[method-assign]
            task = asyncio.create_task(one.buy(wish()))
            assert await asyncio.to_thread(claimed.wait, 10)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await quickly(task)
            assert [row.held for row in one.rows] == [False]
        assert provider.payloads == []


def owners(store: Any) -> Any:
    with store.read() as connection:
        return connection.exec_driver_sql("SELECT owner FROM draw").all()


def test_a_worker_is_gone_when_its_process_is() -> None:
    own = new_worker()
    assert own != new_worker()
    assert not is_gone(own)
    place, number, rest = own.split("/")
    assert int(number) == os.getpid()
    assert is_gone(f"{place}/{NOBODY}/{rest}")
    ended = subprocess.run(
        [sys.executable, "-c", "from selfreg_sdk.tuner.journal.workers import new_worker; print(new_worker())"],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    ).stdout.strip()
    assert is_gone(ended)


@pytest.mark.parametrize("name", ["", "w", "a/b", f"elsewhere/{NOBODY}/x", "//", "x/-1/y", f"x/{10**30}/y"])
def test_of_others_nobody_knows(name: str) -> None:
    assert not is_gone(name)
