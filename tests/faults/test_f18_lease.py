"""F18: a worker dies or hangs, its lease runs out and another takes over; what the first brings late is merged once or rejected."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from selfreg_sdk.store import Store
from selfreg_sdk.store.draw_row import DrawEnd, DrawId, DrawRow
from selfreg_sdk.store.draws import DrawRows
from selfreg_sdk.tuner.journal import claims
from tests.fake_provider import FakeProvider, read_bills, wait_for
from tests.faults.journal_worker import seen, start_worker
from tests.faults.processes import start_together
from tests.postgres import cluster, programs
from tests.provider_process import provider_process
from tests.tuner.journaled import Desk, counted, desk, quickly, wish

WISHES = 12
CAP = "0.01"


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    with cluster() as url:
        yield url


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param(
            "postgres", marks=pytest.mark.skipif(programs() is None, reason="PostgreSQL's programs are not installed")
        ),
    ]
)
def place(request: Any, tmp_path: Path) -> str:
    """Where a new, empty store is."""
    if request.param == "sqlite":
        return str(tmp_path / "store.db")
    url: str = request.getfixturevalue("database")
    with Store.open(url) as store, store.write() as connection:
        connection.execute(sa.text("DROP SCHEMA public CASCADE"))
        connection.execute(sa.text("CREATE SCHEMA public"))
    return url


async def test_f18_what_a_killed_worker_held_is_taken_over(place: str, tmp_path: Path) -> None:
    """Of a process of this machine it is known that it is dead; of any other, that its lease ran out."""
    bills = tmp_path / "bills"
    owner = "another machine" if "://" in place else None
    with provider_process(bills, "--latency", "0.3") as url:
        options = {} if owner is None else {"owner": owner, "lease_seconds": 1.5}
        victim = start_worker(url=url, store=place, wishes=WISHES, cap=CAP, parallel=2, **options)
        try:
            start_together([victim])
            await asyncio.to_thread(wait_for_bills, bills, 7)
            victim.send_signal(signal.SIGKILL)
        finally:
            victim.kill()
            victim.communicate()
        with Store.open(place) as store:
            async with desk(url, store, cap=CAP) as heir:
                done = {row.id: row for row in heir.rows if row.state == "bought"}
                assert done
                assert len(done) < len(heir.rows)
                bought = await quickly(heir.buy(*[wish(number) for number in range(WISHES)], mark=True))
                assert [one.fate for one in bought] == ["bought"] * WISHES
                assert len({text for one in seen(bought) for text in one[1]}) == WISHES  # by `echo`, one for each
                assert await quickly(heir.buy(*[wish(number) for number in range(WISHES)], mark=True)) == bought
                check_money(heir, read_bills(bills).usd)
                assert sum(one.cost for one in bought) == heir.spent
                assert read_bills(bills).calls <= WISHES + 2  # twice is paid at most what was in flight
                assert done.items() <= {row.id: row for row in heir.rows}.items()


async def test_f18_the_living_lose_nothing(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Renewals, claims and results of several workers come between one another, and nothing is done twice."""
    monkeypatch.setattr(claims, "_RENEWALS", 100)
    with FakeProvider(reply=counted(), latency=0.2) as provider:
        async with AsyncExitStack() as stack:
            desks = []
            for _ in range(3):
                store = stack.enter_context(Store.open(place))
                worker = desk(provider.base_url, store, cap=CAP, lease_seconds=5)
                desks.append(await stack.enter_async_context(worker))
            wishes = [wish(number) for number in range(36)]
            results = await quickly(asyncio.gather(*[one.buy(*wishes, mark=True) for one in desks]))
            assert results[0] == results[1] == results[2]
            check_money(desks[0], provider.billed.usd)
            assert sum(one.cost for one in results[0]) == desks[0].spent
        assert provider.billed.calls == 36


async def slow_and_heir(place: str, *, first_is_last: bool) -> tuple[list[Any], list[Any], list[Any], FakeProvider]:
    """A worker that shows no sign of life while its call hangs, and one that takes over; what both and a third one see."""
    gates = threading.Event(), threading.Event()
    with FakeProvider(reply=counted()) as provider, Store.open(place) as store:
        provider.script(*map(wait_for, gates))
        async with (
            desk(provider.base_url, store, cap=CAP, lease_seconds=0.3) as slow,
            desk(provider.base_url, store, cap=CAP) as heir,
        ):
            slow.journal._worker.rows.renew = lambda owner, seconds: None  # type: ignore[method-assign]
            late = asyncio.create_task(slow.buy(wish(), mark=True))
            await arrived(provider, 1)
            prompt = asyncio.create_task(heir.buy(wish(), mark=True))
            await arrived(provider, 2)
            first, last = (prompt, late) if first_is_last else (late, prompt)
            gates[first_is_last].set()
            if first_is_last:
                await quickly(first)
            else:
                await settled(slow, 1)
            gates[not first_is_last].set()
            got = seen(await quickly(late)), seen(await quickly(prompt))
            await quickly(last)
            check_money(heir, provider.billed.usd)
            assert provider.billed.calls == 2
            with store.read() as connection:
                assert connection.execute(sa.text("SELECT count(*) FROM response")).scalar_one() == 1
            return *got, seen(await quickly(heir.buy(wish(), mark=True))), provider


@pytest.mark.parametrize("first_is_last", [True, False])
async def test_f18_a_late_result_is_merged_once_or_rejected(place: str, first_is_last: bool) -> None:
    slow, heir, third, _ = await slow_and_heir(place, first_is_last=first_is_last)
    assert slow == heir == third
    # The reply that was received first is the one that counts, whoever asked for it.
    assert slow[0][1] == (["sample 2", "sample 3"] if first_is_last else ["sample 0", "sample 1"])


async def test_f18_that_test_fails_where_whoever_comes_last_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A journal that does not ask whose lease it is: what was seen once changes afterwards."""

    def finish(self: DrawRows, owner: str, ends: Sequence[DrawEnd]) -> dict[DrawId, DrawRow]:
        with self._store.write() as connection:
            connection.execute(
                sa.text("UPDATE draw SET owner = :owner, lease_until = '2999-01-01 00:00:00.000000'"), {"owner": owner}
            )
        return real(self, owner, ends)

    real = DrawRows.finish
    monkeypatch.setattr(DrawRows, "finish", finish)
    slow, heir, third, _ = await slow_and_heir(str(tmp_path / "store.db"), first_is_last=True)
    assert heir != third
    assert slow == third


async def test_f18_that_test_fails_where_nobody_asks_who_is_at_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Claims that do not look at leases: two workers pay for the same."""
    monkeypatch.setattr(DrawRows, "_is_held", lambda self, row, now: False)
    with FakeProvider(latency=0.3) as provider, Store.open(tmp_path / "store.db") as store:
        async with desk(provider.base_url, store) as one, desk(provider.base_url, store) as other:
            await quickly(asyncio.gather(one.buy(wish()), other.buy(wish())))
        assert provider.billed.calls == 2


def check_money(one: Desk, billed: Decimal) -> None:
    """P1."""
    assert billed <= one.spent <= Decimal(CAP)


async def arrived(provider: FakeProvider, calls: int) -> None:
    assert await asyncio.to_thread(provider.wait_until, lambda p: len(p.payloads) == calls)


async def settled(one: Desk, replies: int) -> None:
    """Wait until so many replies are in the books."""
    for _ in range(500):
        if len(await asyncio.to_thread(one.shared.meter.ledger, state="settled")) == replies:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the reply was never settled")


def wait_for_bills(bills: Path, calls: int) -> None:
    end = time.monotonic() + 30
    while read_bills(bills).calls < calls:
        assert time.monotonic() < end
        time.sleep(0.02)
