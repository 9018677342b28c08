"""Connections, threads, event loops, cancellation."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import multiprocessing
import pickle
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from selfreg_sdk.client import Client, Timeouts
from selfreg_sdk.errors import ConnectFailed, ProviderError
from selfreg_sdk.wire.background import background_loop
from tests import fake_provider as fake
from tests.fake_provider import FakeProvider

pytestmark = pytest.mark.usefixtures("transport")

ASK: dict[str, Any] = {"model": "fake-model", "messages": [{"role": "user", "content": "hello"}]}
ANSWER = ("echo: hello",)


def gone(provider: FakeProvider) -> bool:
    return provider.wait_until(lambda p: p.disconnects == 1)


def test_a_consumer_that_stops_closes_the_connection(provider: FakeProvider) -> None:
    provider.script(fake.hang_between_chunks(0.9))
    with Client(base_url=provider.base_url) as client:
        chunks = client.stream(ASK)
        next(chunks)
        chunks.close()
        assert gone(provider)
        assert client.complete(ASK).texts == ANSWER


def test_a_consumer_that_fails_closes_the_connection(provider: FakeProvider) -> None:
    provider.script(fake.hang_between_chunks(0.9))
    with Client(base_url=provider.base_url) as client:
        with pytest.raises(ZeroDivisionError):
            max(client.stream(ASK), key=lambda chunk: 1 / 0)
        gc.collect()
        assert gone(provider)


def test_a_dropped_iterator_closes_the_connection(provider: FakeProvider) -> None:
    provider.script(fake.hang_between_chunks(0.9))
    with Client(base_url=provider.base_url) as client:
        next(client.stream(ASK))
        gc.collect()
        assert gone(provider)


async def test_an_async_consumer_that_stops_closes_the_connection(provider: FakeProvider) -> None:
    provider.script(fake.hang_between_chunks(0.9))
    async with Client(base_url=provider.base_url) as client:
        chunks = client.astream(ASK)
        await anext(chunks)
        await chunks.aclose()
        assert await asyncio.to_thread(gone, provider)


@pytest.mark.parametrize("fault", [fake.hang_before_headers(), fake.hang_between_chunks()])
async def test_cancelling_closes_the_connection(provider: FakeProvider, fault: fake.Fault) -> None:
    provider.script(fault)
    async with Client(base_url=provider.base_url) as client:
        task = asyncio.create_task(client.acomplete(ASK))
        await asyncio.to_thread(provider.wait_until, lambda p: p.billed.calls == 1)
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(gone, provider)
        assert (await client.acomplete(ASK)).texts == ANSWER


async def test_cancelling_a_stream_closes_the_connection(provider: FakeProvider) -> None:
    provider.script(fake.hang_between_chunks(0.9))

    async def consume() -> None:
        async for _ in client.astream(ASK):
            started.set()

    started = asyncio.Event()
    async with Client(base_url=provider.base_url) as client:
        task = asyncio.create_task(consume())
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(gone, provider)


async def test_a_timeout_of_the_client_never_cancels_its_consumer(provider: FakeProvider) -> None:
    async with Client(base_url=provider.base_url, timeouts=Timeouts(idle=0.5)) as client:
        chunks = client.astream(ASK)
        await anext(chunks)
        await asyncio.sleep(0.7)
        assert [chunk async for chunk in chunks]


@pytest.mark.usefixtures("ctrl_c_interrupts")
def test_ctrl_c_in_a_synchronous_call_closes_the_connection(provider: FakeProvider) -> None:
    provider.script(fake.hang_before_headers())

    def interrupt() -> None:
        provider.wait_until(lambda p: p.billed.calls == 1)
        time.sleep(0.05)
        signal.pthread_kill(main, signal.SIGINT)

    assert threading.current_thread() is threading.main_thread()
    main = threading.main_thread().ident
    assert main is not None
    threading.Thread(target=interrupt).start()
    with Client(base_url=provider.base_url) as client:
        with pytest.raises(KeyboardInterrupt):
            client.complete(ASK)
        assert gone(provider)


def test_connections_are_used_again(provider: FakeProvider) -> None:
    with Client(base_url=provider.base_url) as client:
        for _ in range(5):
            client.complete(ASK)
            list(client.stream(ASK))
    assert provider.connections_made == 1


def test_many_threads_share_a_client(provider: FakeProvider) -> None:
    def ask(number: int) -> str | None:
        return client.complete({**ASK, "messages": [{"role": "user", "content": f"call {number}"}]}).texts[0]

    with Client(base_url=provider.base_url) as client, ThreadPoolExecutor(16) as pool:
        assert list(pool.map(ask, range(100))) == [f"echo: call {number}" for number in range(100)]
    assert provider.billed.calls == 100


def test_one_client_serves_event_loop_after_event_loop(provider: FakeProvider) -> None:
    client = Client(base_url=provider.base_url)

    async def ask() -> Any:
        try:
            return (await client.acomplete(ASK)).texts
        finally:
            await client.aclose()

    assert [asyncio.run(ask()) for _ in range(3)] == [ANSWER] * 3
    assert client.complete(ASK).texts == ANSWER
    client.close()


def test_a_loop_that_ended_without_closing_is_forgotten(provider: FakeProvider) -> None:
    with Client(base_url=provider.base_url) as client:
        for _ in range(3):
            assert asyncio.run(client.acomplete(ASK)).texts == ANSWER
        assert client.complete(ASK).texts == ANSWER
        assert len(client._pools) == 1
    gc.collect()


async def test_two_loops_at_once(provider: FakeProvider) -> None:
    async def ask() -> Any:
        async with Client(base_url=provider.base_url) as own:
            await own.acomplete(ASK)
            return (await client.acomplete(ASK)).texts

    async with Client(base_url=provider.base_url) as client:
        there = asyncio.to_thread(lambda: asyncio.run(ask()))
        here = client.acomplete(ASK)
        assert (await here).texts == await there == ANSWER


async def test_the_synchronous_face_works_inside_a_running_loop(provider: FakeProvider) -> None:
    with Client(base_url=provider.base_url) as client:
        assert client.complete(ASK).texts == ANSWER
        assert (await client.acomplete(ASK)).texts == ANSWER
        await client.aclose()


def test_closing_is_not_the_end(provider: FakeProvider) -> None:
    client = Client(base_url=provider.base_url)
    assert client.complete(ASK).texts == ANSWER
    client.close()
    client.close()
    assert client.complete(ASK).texts == ANSWER
    client.close()


async def test_a_call_whose_client_is_closed_under_it_ends_with_a_typed_error(provider: FakeProvider) -> None:
    provider.script(fake.hang_before_headers())
    client = Client(base_url=provider.base_url)
    call = asyncio.create_task(client.acomplete(ASK))
    await asyncio.to_thread(provider.wait_until, lambda p: p.billed.calls == 1)
    await client.aclose()
    with pytest.raises(ProviderError) as info:
        await asyncio.wait_for(call, timeout=15)
    assert info.value.billed == "unknown"

    pool = await client._pools.here()
    await client.aclose()
    with pytest.raises(ConnectFailed) as refused:
        await pool.post(b"{}")
    assert refused.value.billed == "no"


def test_a_dropped_client_closes_its_connections(provider: FakeProvider) -> None:
    client = Client(base_url=provider.base_url)
    client.complete(ASK)
    assert provider.connections_open == 1
    del client
    gc.collect()
    assert provider.wait_until(lambda p: p.connections_open == 0)


def test_context_variables_reach_the_background_loop() -> None:
    name: contextvars.ContextVar[str] = contextvars.ContextVar("name", default="unset")

    async def read() -> str:
        return name.get()

    name.set("caller")
    assert background_loop().call(read()) == "caller"


def _ask_in_child(base_url: str, answers: Any) -> None:
    answers.put(Client(base_url=base_url).complete(ASK).texts)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_gets_a_loop_of_its_own(provider: FakeProvider) -> None:
    with Client(base_url=provider.base_url) as client:
        client.complete(ASK)
        fork = multiprocessing.get_context("fork")
        answers = fork.Queue()
        child = fork.Process(target=_ask_in_child, args=(provider.base_url, answers))
        child.start()
        assert answers.get(timeout=20) == ANSWER
        child.join(timeout=20)


def _ask_again_in_child(client: Client, answers: Any) -> None:
    answers.put(client.complete(ASK).texts)
    client.close()
    answers.put("closed")


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_may_use_the_same_client_and_leaves_its_parents_connection_alone(provider: FakeProvider) -> None:
    with Client(base_url=provider.base_url) as client:
        client.complete(ASK)
        fork = multiprocessing.get_context("fork")
        answers = fork.Queue()
        child = fork.Process(target=_ask_again_in_child, args=(client, answers))
        child.start()
        assert answers.get(timeout=20) == ANSWER
        assert answers.get(timeout=4) == "closed"  # sooner than a wait for a loop that is not there
        child.join(timeout=20)
        assert client.complete(ASK).texts == ANSWER
    assert provider.connections_made == 2


def test_a_client_is_not_pickled(provider: FakeProvider) -> None:
    with pytest.raises(TypeError, match="one per process"):
        pickle.dumps(Client(base_url=provider.base_url, api_key="sk-canary-7788"))
