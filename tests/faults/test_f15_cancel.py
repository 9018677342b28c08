"""F15: whoever stops waiting stops the call: its books are closed, its connection too, and nothing goes on in secret."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from selfreg_sdk.booking import CallSpec, Receipt
from selfreg_sdk.calls import Calls
from selfreg_sdk.meter import Meter
from selfreg_sdk.store import Store
from selfreg_sdk.store.writer import Writer
from selfreg_sdk.wire.background import background_loop
from tests.fake_provider import FakeProvider, hang_before_headers, hang_between_chunks
from tests.stack import HANG, Stack, call, chat, request, stack

LONG = "a text that is long enough to be stopped in the middle"


def closed_at_the_worst_case(on: Stack, reason: str, *, wait: float = HANG) -> None:
    """The one attempt is closed, and the provider saw its connection close."""
    assert on.provider.wait_until(lambda p: p.disconnects == 1, wait)
    (row,) = on.ledger
    assert (row.state, row.cost, row.reason) == ("unknown", row.worst, reason)
    assert all(status.held == 0 for status in on.shared.meter.status())


async def arrived(provider: FakeProvider) -> None:
    assert await asyncio.to_thread(provider.wait_until, lambda p: len(p.requests) == 1)


async def stopped(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await asyncio.wait_for(task, HANG)
    assert task.cancelled()


def left_over() -> list[str]:
    """Tasks that go on after everybody has stopped waiting."""
    here = asyncio.all_tasks() - {asyncio.current_task()}
    return [str(task) for task in (*here, *asyncio.all_tasks(background_loop().loop)) if not task.done()]


async def drain(pieces: AsyncIterator[Any]) -> None:
    async for _ in pieces:
        pass


@pytest.mark.parametrize("streaming", [False, True])
async def test_f15_a_cancelled_task_closes_books_and_connection(provider: FakeProvider, streaming: bool) -> None:
    provider.script(hang_between_chunks() if streaming else hang_before_headers())
    with stack(provider, cap="1 USD") as on:
        work = (
            drain(on.calls.astream(call(LONG), on.client, Receipt()))
            if streaming
            else on.calls.acomplete(call(LONG), on.client)
        )
        task = asyncio.create_task(work)
        await arrived(provider)
        await stopped(task)

        await asyncio.to_thread(closed_at_the_worst_case, on, "CancelledError")
        assert left_over() == []
        assert len(provider.requests) == 1


async def test_f15_a_timeout_around_the_call_is_a_cancellation(provider: FakeProvider) -> None:
    provider.script(hang_before_headers())
    with stack(provider, cap="1 USD") as on:
        answering = on.answering()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await answering.acomplete(request(), on.client)

        await asyncio.to_thread(closed_at_the_worst_case, on, "CancelledError")
        assert left_over() == []


async def test_f15_a_chat_model_that_is_cancelled(provider: FakeProvider, tmp_path: Path) -> None:
    provider.script(hang_before_headers())
    model = chat(provider, store=tmp_path / "store.db", budget="1 USD", max_tokens=50)
    task = asyncio.create_task(model.ainvoke("hi"))
    await arrived(provider)
    await stopped(task)

    assert await asyncio.to_thread(provider.wait_until, lambda p: p.disconnects == 1)
    assert [row.state for row in model.books.meter.ledger()] == ["unknown"]
    assert left_over() == []


@contextmanager
def store_is_busy(on: Stack) -> Iterator[None]:
    """Inside the block another thread holds the write lock, and everything handed in waits."""
    held, let_go = threading.Event(), threading.Event()

    def hold() -> None:
        with on.shared.store.write():
            held.set()
            let_go.wait(HANG)

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        assert held.wait(HANG)
        yield
    finally:
        let_go.set()
        holder.join()


async def nothing_held(on: Stack) -> None:
    """What was reserved for a call that was never sent is free again, without anybody's help."""
    async with asyncio.timeout(HANG):
        while not on.ledger or on.ledger[0].state == "reserved":
            await asyncio.sleep(0.01)
    assert [(row.state, row.cost) for row in on.ledger] == [("released", None)]
    assert on.shared.meter.status()[0].held == 0


@pytest.mark.parametrize("calls_off", [1, 2])
async def test_f15_cancelled_while_it_reserves_costs_nothing(provider: FakeProvider, calls_off: int) -> None:
    with stack(provider, cap="1 USD", store=":memory:") as on:
        with store_is_busy(on):
            task = asyncio.create_task(on.calls.acomplete(call(), on.client))
            await asyncio.sleep(0.05)  # the writer has taken the reservation, and waits
            for _ in range(calls_off):
                task.cancel()
                await asyncio.sleep(0)
            await stopped(task)

        await nothing_held(on)
        assert provider.requests == []
        assert left_over() == []


class ForgetfulWriter(Writer):
    """Broken on purpose: a reservation that nobody waits for any more is left to its lease."""

    def _leave(self, waiting: Any) -> None:
        pass


async def test_f15_the_check_catches_a_reservation_left_to_its_lease(
    provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("selfreg_sdk.meter.Writer", ForgetfulWriter)
    monkeypatch.setattr(f"{__name__}.HANG", 0.5)
    with pytest.raises(TimeoutError):
        await test_f15_cancelled_while_it_reserves_costs_nothing(provider, 1)


async def test_f15_cancelled_while_it_settles_is_booked_all_the_same(provider: FakeProvider) -> None:
    with stack(provider, cap="1 USD") as on:
        reserved = await on.calls.books.areserve(call(), on.client.endpoint, 1)
        answer = await on.client.acomplete(call().payload)
        with store_is_busy(on):
            task = asyncio.create_task(reserved.asettle(Receipt(), answer.usage, answer))
            for _ in range(2):
                await asyncio.sleep(0.02)
                task.cancel()
            assert not task.done(), "it waits for the books"
        await stopped(task)

        assert [(row.state, row.cost) for row in on.ledger] == [("settled", provider.billed.usd)]
        await on.client.aclose()


def take_one(pieces: Iterator[Any]) -> None:
    for _ in pieces:
        break


def test_f15_a_consumer_that_stops_closes_books_and_connection(provider: FakeProvider) -> None:
    provider.script(hang_between_chunks())
    with stack(provider, cap="1 USD") as on:
        take_one(on.calls.stream(call(LONG), on.client, Receipt()))

        closed_at_the_worst_case(on, "GeneratorExit")
        assert not asyncio.all_tasks(background_loop().loop)


async def test_f15_an_async_consumer_that_stops_closes_books_and_connection(provider: FakeProvider) -> None:
    provider.script(hang_between_chunks())
    with stack(provider, cap="1 USD") as on:
        pieces = on.calls.astream(call(LONG), on.client, Receipt())
        await anext(pieces)
        await pieces.aclose()

        await asyncio.to_thread(closed_at_the_worst_case, on, "GeneratorExit")
        assert left_over() == []


def test_f15_a_chat_stream_that_is_left(provider: FakeProvider, tmp_path: Path) -> None:
    provider.script(hang_between_chunks(0.6))
    model = chat(provider, store=tmp_path / "store.db", budget="1 USD", max_tokens=50)
    for _ in model.stream(LONG):
        break

    assert provider.wait_until(lambda p: p.disconnects == 1)
    assert [row.state for row in model.books.meter.ledger()] == ["unknown"]


async def test_f15_an_async_chat_stream_that_is_left(provider: FakeProvider, tmp_path: Path) -> None:
    provider.script(hang_between_chunks(0.6))
    model = chat(provider, store=tmp_path / "store.db", budget="1 USD", max_tokens=50)
    pieces = model.astream(LONG)
    await anext(pieces)
    await pieces.aclose()  # type: ignore[attr-defined]

    assert await asyncio.to_thread(provider.wait_until, lambda p: p.disconnects == 1)
    assert [row.state for row in model.books.meter.ledger()] == ["unknown"]
    assert left_over() == []


INTERRUPTED = """
import signal, sys
from tests.stack import PRICES, ChatSelfReg
signal.signal(signal.SIGINT, signal.default_int_handler)
model = ChatSelfReg(model="fake-model", base_url=sys.argv[1], store=sys.argv[2], prices=PRICES, budget="1 USD",
                    max_tokens=50, planner="off")
for work in (lambda: model.invoke("hi"), lambda: list(model.stream("hi"))):
    try:
        work()
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


def test_f15_ctrl_c_closes_books_and_connection(provider: FakeProvider, tmp_path: Path) -> None:
    provider.script(hang_before_headers(), hang_before_headers())
    store = tmp_path / "store.db"
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, provider.base_url, str(store)],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        for number in (1, 2):
            assert provider.wait_until(lambda p, number=number: len(p.requests) == number, 60)
            process.send_signal(signal.SIGINT)
            assert process.stdout.readline() == "interrupted\n"
        process.communicate(timeout=30)
    finally:
        process.kill()
        process.communicate()

    assert process.returncode == 0
    assert provider.wait_until(lambda p: p.disconnects == 2)
    with Store.open(store) as opened:
        rows = Meter(opened).ledger()
    assert [(row.state, row.reason) for row in rows] == [("unknown", "KeyboardInterrupt")] * 2


# -- tests of the tests ------------------------------------------------------------------------------------------------


class CarelessCalls(Calls):
    """Broken on purpose: thinks that only errors end a call."""

    async def acomplete(self, spec: CallSpec, channel: Any) -> tuple[Any, Receipt]:
        receipt = Receipt()
        booking = self._open(spec, channel, receipt)
        try:
            answer = await channel.acomplete(spec.payload)
        except Exception as exc:
            booking.fail(receipt, exc)
            raise
        booking.settle(receipt, answer.usage, answer)
        return answer, receipt


class SecretCalls(Calls):
    """Broken on purpose: the call goes on in a task that nobody waits for."""

    async def acomplete(self, spec: CallSpec, channel: Any) -> tuple[Any, Receipt]:
        return await asyncio.shield(asyncio.ensure_future(super().acomplete(spec, channel)))


@pytest.mark.parametrize("broken", [CarelessCalls, SecretCalls])
async def test_f15_the_check_catches_calls_that_survive_their_caller(
    provider: FakeProvider, broken: Callable[..., Calls]
) -> None:
    provider.script(hang_before_headers())
    with stack(provider, cap="1 USD") as on:
        task = asyncio.create_task(broken(on.calls.books).acomplete(call(), on.client))
        await arrived(provider)
        await stopped(task)

        with pytest.raises(AssertionError):
            await asyncio.to_thread(closed_at_the_worst_case, on, "CancelledError", wait=0.5)
        for other in asyncio.all_tasks() - {asyncio.current_task()}:
            other.cancel()
            with suppress(asyncio.CancelledError):
                await other


def test_f15_the_check_catches_a_stream_that_is_kept_open(provider: FakeProvider) -> None:
    provider.script(hang_between_chunks())
    with stack(provider, cap="1 USD") as on:
        kept = on.calls.stream(call(LONG), on.client, Receipt())
        next(kept)

        with pytest.raises(AssertionError):
            closed_at_the_worst_case(on, "GeneratorExit", wait=0.5)
        kept.close()  # type: ignore[attr-defined]
