"""The connections of each event loop, and how they come to an end."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future
from typing import Any

from selfreg_sdk.wire.transport import Pool

_Entry = tuple[Pool, AsyncGenerator[None, None]]
"""A loop's connections, and the generator whose end closes them."""


class Pools:
    """One pool of connections per event loop, closed with the loop.

    A forked child starts without any: it shares its parent's sockets, but must not touch them.

    Args:
        make: opens a pool of the running loop.
    """

    def __init__(self, make: Callable[[], Pool]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._entries: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Entry] = weakref.WeakKeyDictionary()
        _all.add(self)

    def __len__(self) -> int:
        return len(self._entries)

    async def here(self) -> Pool:
        """The pool of the running loop, opened at its first use."""
        loop = asyncio.get_running_loop()
        entry = self._entries.get(loop)
        if entry is not None:
            return entry[0]
        pool = self._make()
        closing = _closing_with_loop(pool)
        await anext(closing)  # does not suspend: no other task of this loop comes in between
        with self._lock:
            gone = [other for other in self._entries if other.is_closed()]
            ended = [self._entries.pop(other) for other in gone]
            self._entries[loop] = pool, closing
        for dead, _ in ended:
            dead.drop()
        return pool

    async def close_here(self) -> None:
        """Close the connections of the running loop."""
        entry = self._entries.pop(asyncio.get_running_loop(), None)
        if entry is not None:
            await close(entry[1])

    def close(self) -> dict[asyncio.AbstractEventLoop, Future[None]]:
        """Close the connections of all loops that still run, each on its own loop; drop the others."""
        closings = {}
        for loop, (pool, closing) in list(self._entries.items()):
            self._entries.pop(loop, None)
            if loop.is_running():
                closings[loop] = asyncio.run_coroutine_threadsafe(close(closing), loop)
            else:
                pool.drop()
        return closings

    def _leave_to_parent(self) -> None:
        # Kept, not collected: closing a connection here would take it out of the poll that parent and child share.
        _of_parent.append(self._entries)
        self._entries, self._lock = weakref.WeakKeyDictionary(), threading.Lock()


async def close(generator: AsyncGenerator[Any, None]) -> None:
    """The end of a generator, as a coroutine."""
    await generator.aclose()


async def _closing_with_loop(pool: Pool) -> AsyncGenerator[None, None]:
    """Close the pool when closed itself: by us, or by the loop, which ends its generators at its own end."""
    try:
        yield
    finally:
        await pool.close()


_all: weakref.WeakSet[Pools] = weakref.WeakSet()
_of_parent: list[Any] = []


def _leave_all_to_parent() -> None:
    for pools in list(_all):
        pools._leave_to_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_all_to_parent)
