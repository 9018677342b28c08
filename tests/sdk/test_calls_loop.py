"""On an event loop a paid call never touches the database and never waits for somebody who does."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from selfreg_sdk.booking import Booking, CallSpec, Receipt
from selfreg_sdk.calls import Calls
from selfreg_sdk.store.writer import Writer
from tests.fake_provider import FakeProvider, closed_before_headers, hang_before_headers, server_error
from tests.stack import HANG, Stack, call, stack


class Watch:
    """Which threads ran statements, and which waited for the writer."""

    def __init__(self) -> None:
        self.statements: dict[int, list[str]] = {}
        self.waits: list[int] = []

    def sql(self, text: str) -> None:
        self.statements.setdefault(threading.get_ident(), []).append(text)


@contextmanager
def watched(on: Stack, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    """Everything SQLite runs, as SQLite itself tells it: driver, Core and ORM alike."""
    watch, engine, run = Watch(), on.shared.store._process.engine, Writer.run
    engine.dispose()
    sa.event.listen(engine, "connect", lambda connection, record: connection.set_trace_callback(watch.sql))

    def noted(writer: Writer, *operations: Any) -> Any:
        watch.waits.append(threading.get_ident())
        return run(writer, *operations)

    monkeypatch.setattr(Writer, "run", noted)
    yield watch


async def many_calls(calls: Calls, on: Stack) -> None:
    """Whole and streamed, good and bad, cached and cancelled."""

    async def whole(number: int, **changes: Any) -> None:
        await calls.acomplete(call(f"whole {number}", **changes), on.client)

    async def streamed(number: int) -> None:
        async for _ in calls.astream(call(f"streamed {number}"), on.client, Receipt()):
            pass

    on.provider.script(server_error(500), closed_before_headers())
    await asyncio.gather(*(whole(number) for number in range(10)), *(streamed(number) for number in range(10)))
    await whole(1, cached=True)
    await whole(1, cached=True)
    on.provider.script(hang_before_headers())
    before = len(on.provider.requests)
    task = asyncio.create_task(whole(99))
    await asyncio.to_thread(on.provider.wait_until, lambda p: len(p.requests) > before)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    await on.client.aclose()


async def on_the_loop(on: Stack, calls: Calls, monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], int]:
    """Statements run by the loop's thread, and how often it waited for the writer."""
    with watched(on, monkeypatch) as watch:
        await asyncio.wait_for(many_calls(calls, on), HANG)
    assert sum(map(len, watch.statements.values())) > 20, "the watch is blind"
    here = threading.get_ident()
    return watch.statements.get(here, []), watch.waits.count(here)


async def test_no_statement_runs_on_the_loop(
    provider: FakeProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stack(provider, cap="1 USD", store=tmp_path / "store.db") as on:
        assert await on_the_loop(on, on.calls, monkeypatch) == ([], 0)

        states = [row.state for row in on.ledger]
        assert states.count("settled") == 21
        assert states.count("unknown") == 2, "the broken connection and the cancelled call"
        assert all(status.held == 0 for status in on.shared.meter.status())


class AskingCalls(Calls):
    """Broken on purpose: asks the database what is left before it reserves."""

    async def _aopen(self, spec: CallSpec, channel: Any, receipt: Receipt) -> Booking:
        self.books.affordable_tokens(model=spec.model, prompt_tokens=spec.prompt_tokens)
        return await super()._aopen(spec, channel, receipt)


class WaitingCalls(Calls):
    """Broken on purpose: reserves as if it were on a thread of its own."""

    async def _aopen(self, spec: CallSpec, channel: Any, receipt: Receipt) -> Booking:
        return self._open(spec, channel, receipt)


@pytest.mark.parametrize("broken", [AskingCalls, WaitingCalls])
async def test_the_check_catches_calls_that_read_or_wait_on_the_loop(
    provider: FakeProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: type[Calls]
) -> None:
    with stack(provider, cap="1 USD", store=tmp_path / "store.db") as on:
        statements, waits = await on_the_loop(on, broken(on.calls.books, retry=on.retry), monkeypatch)

    assert any("budget" in text for text in statements) == (broken is AskingCalls)
    assert (waits > 20) == (broken is WaitingCalls)


async def test_a_busy_store_does_not_stop_the_loop(provider: FakeProvider, tmp_path: Path) -> None:
    """While somebody else writes, calls wait and everything else on the loop goes on."""
    with stack(provider, cap="1 USD", store=tmp_path / "store.db") as on:
        with on.shared.store.write():
            tasks = [asyncio.create_task(on.calls.acomplete(call(), on.client)) for _ in range(3)]
            for _ in range(20):
                await asyncio.sleep(0.005)
            assert not any(task.done() for task in tasks)
            assert provider.requests == []
        await asyncio.gather(*tasks)
        assert [row.state for row in on.ledger] == ["settled"] * 3
        await on.client.aclose()
