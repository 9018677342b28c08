"""The connections of each event loop, and how they come to an end."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncGenerator, Coroutine
from concurrent.futures import Future
from typing import Any

import openai

Pool = tuple[openai.AsyncOpenAI, AsyncGenerator[None, None]]
"""A loop's connections, and the generator whose end closes them."""

Pools = weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Pool]


async def closing_with_loop(connections: openai.AsyncOpenAI) -> AsyncGenerator[None, None]:
    """Close the connections when it is closed itself: by us, or by the loop, which ends its generators at its own end."""
    try:
        yield
    finally:
        await connections.close()


async def close(generator: AsyncGenerator[Any, None]) -> None:
    """The end of a generator, as a coroutine."""
    await generator.aclose()


def close_pools(pools: Pools) -> dict[asyncio.AbstractEventLoop, Future[None]]:
    """Close the connections of all loops that still run, each on its own loop; forget the others."""
    closings = {}
    for loop, (_, closing) in list(pools.items()):
        pools.pop(loop, None)
        if loop.is_running():
            work: Coroutine[Any, Any, None] = close(closing)
            closings[loop] = asyncio.run_coroutine_threadsafe(work, loop)
    return closings
