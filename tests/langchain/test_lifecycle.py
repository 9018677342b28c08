"""Event loops, threads, cancelling, and consumers that leave: nothing is shared wrongly, nothing is left open."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from tests.fake_provider import FakeProvider, hang_before_headers, hang_between_chunks, ok
from tests.langchain.asking import ANSWER, Runs, around
from tests.sdk.regulated import PRICES, chat, planning, plans

LONG = "tell me a long story " * 20
BUDGET: dict[str, Any] = {"budget": "1 USD", "prices": PRICES, "max_tokens": 50}


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with FakeProvider(reply=planning()) as running:
        yield running


def test_one_event_loop_after_the_other(provider: FakeProvider) -> None:
    llm = chat(provider)

    async def both() -> list[str]:
        answers = await asyncio.gather(llm.ainvoke("hello"), llm.ainvoke("hello"))
        return [answer.text for answer in answers] + ["".join([c.text async for c in llm.astream("hello")])]

    for _ in range(3):
        assert asyncio.run(both()) == [ANSWER] * 3
    assert len(plans(provider)) == 1


def test_event_loops_and_threads_at_the_same_time(provider: FakeProvider, tmp_path: Path) -> None:
    llm = chat(provider, store=tmp_path / "store.db", task="triage", **BUDGET)
    texts: list[str] = []
    failed: list[BaseException] = []

    def guarded(work: Any) -> None:
        try:
            work()
        except BaseException as exc:
            failed.append(exc)

    def in_a_loop() -> None:
        async def many() -> None:
            texts.extend(answer.text for answer in await asyncio.gather(*(llm.ainvoke("hello") for _ in range(32))))

        asyncio.run(many())

    work = [in_a_loop, in_a_loop, *[lambda: texts.append(llm.invoke("hello").text)] * 64]
    threads = [threading.Thread(target=guarded, args=(one,)) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert failed == []
    assert texts == [ANSWER] * 128
    assert len(plans(provider)) == 1
    (status,) = llm.books.meter.status()
    assert (status.held, status.spent) == (0, provider.billed.usd)


@pytest.mark.parametrize("make", [chat, around])
async def test_sixty_four_at_once(provider: FakeProvider, make: Any) -> None:
    llm, runs = make(provider, task="triage", **BUDGET), Runs()
    answers = await asyncio.gather(*(llm.ainvoke(f"question {n}", {"callbacks": [runs]}) for n in range(64)))
    assert [answer.text for answer in answers] == [f"echo: question {number}" for number in range(64)]
    assert len(runs.roots) == 64
    assert len(runs.all) == 65
    assert llm.books.meter.status()[0].spent == provider.billed.usd


async def left_over() -> list[str]:
    """Tasks other than this test's, after those that are ending have ended."""
    await asyncio.sleep(0.05)
    mine = asyncio.current_task()
    return [repr(task) for task in asyncio.all_tasks() if task is not mine and "readers" not in repr(task)]


@pytest.mark.parametrize("mode", ["ainvoke", "astream", "aevents v3"])
@pytest.mark.parametrize("when", ["planning", "answering"])
async def test_cancelling_closes_the_books_and_the_connection(provider: FakeProvider, when: str, mode: str) -> None:
    llm = chat(provider, **BUDGET)
    if when == "answering":
        llm.invoke("warm up")  # another prompt, another task: its plan is not this one's
        provider.script(ok())
    provider.script(hang_before_headers())
    before = len(provider.requests)

    async def use() -> None:
        match mode:
            case "ainvoke":
                await llm.ainvoke(LONG)
            case "astream":
                async with aclosing(llm.astream(LONG)) as chunks:  # type: ignore[type-var]
                    _ = [chunk async for chunk in chunks]
            case _:
                stream = await llm.astream_events(LONG, version="v3")
                async with stream:
                    await stream.output

    task = asyncio.create_task(use())
    wanted = before + (1 if when == "planning" else 2)
    assert await asyncio.to_thread(provider.wait_until, lambda p: len(p.requests) == wanted)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 20)
    assert await asyncio.to_thread(provider.wait_until, lambda p: p.disconnects == 1)
    states = sorted(row.state for row in llm.books.meter.ledger())
    # What was sent and left counts at its worst; nothing stays reserved.
    assert states == ["settled"] * (0 if when == "planning" else 3) + ["unknown"]
    assert llm.books.meter.status()[0].held == 0


@pytest.mark.parametrize("make", [chat, around])
@pytest.mark.parametrize("side", ["sync", "async"])
async def test_a_stream_that_is_left(provider: FakeProvider, make: Any, side: str) -> None:
    llm, runs = make(provider, planner="off", **BUDGET), Runs()
    provider.script(hang_between_chunks(0.6))
    config: Any = {"callbacks": [runs]}
    if side == "sync":
        pieces = llm.stream(LONG, config)
        next(pieces)
        pieces.close()
    else:
        apieces = llm.astream(LONG, config)
        await anext(apieces)
        await apieces.aclose()
        assert await left_over() == []
    assert [row.state for row in llm.books.meter.ledger()] == ["unknown"]
    assert llm.books.meter.status()[0].held == 0
    assert await asyncio.to_thread(provider.wait_until, lambda p: p.disconnects == 1)
    assert [type(run.error) for run in runs.all.values()] == [GeneratorExit]
