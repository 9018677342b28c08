"""Ctrl-C at any moment of a synchronous call: what runs beside it is cancelled and has ended before the caller goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from selfreg_sdk.wire.background import BackgroundLoop


@pytest.fixture
def background() -> Iterator[BackgroundLoop]:
    running = BackgroundLoop()
    yield running
    running.loop.call_soon_threadsafe(running.loop.stop)
    running._thread.join(10)
    running.loop.close()


@pytest.mark.parametrize("handed_over", [True, False])
def test_an_interrupt_while_work_is_handed_over(
    background: BackgroundLoop, monkeypatch: pytest.MonkeyPatch, handed_over: bool
) -> None:
    said: list[str] = []
    hand_over = background.loop.call_soon_threadsafe

    async def work() -> None:
        said.append("began")
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)  # closing a connection takes a step too
            said.append("ended")

    def interrupted(callback: Callable[[], Any]) -> None:
        monkeypatch.setattr(background.loop, "call_soon_threadsafe", hand_over)
        if handed_over:
            hand_over(callback)
        raise KeyboardInterrupt

    monkeypatch.setattr(background.loop, "call_soon_threadsafe", interrupted)
    with pytest.raises(KeyboardInterrupt):
        background.call(work())
    assert said == (["began", "ended"] if handed_over else [])
    assert background.call(asyncio.sleep(0, "goes on")) == "goes on"
