"""Small things done together: for the store many rows in one transaction, for a batch all calls to their end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Grouped(Generic[K, V]):
    """Blocking work on many things at once, in a thread: what is handed in while it runs goes into the next round.

    For one event loop. Work that was handed in is done, even if nobody waits for it any more.

    Args:
        work: things to their results, in the same order.
    """

    def __init__(self, work: Callable[[Sequence[K]], Sequence[V]]) -> None:
        self._work = work
        self._waiting: list[tuple[K, asyncio.Future[V]]] = []
        self._round: asyncio.Task[None] | None = None

    async def __call__(self, thing: K) -> V:
        """The result of one thing, raised if the round failed."""
        future: asyncio.Future[V] = asyncio.get_running_loop().create_future()
        self._waiting.append((thing, future))
        if self._round is None or self._round.done():
            self._round = asyncio.create_task(self._rounds())
        return await future

    async def _rounds(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting, []
            try:
                results = await asyncio.to_thread(self._work, [thing for thing, _ in group])
            except BaseException as error:
                for _, future in group:
                    if not future.done():
                        future.set_exception(error if isinstance(error, Exception) else asyncio.CancelledError())
                        future.exception()  # whoever waits is told; nobody else need be
                if not isinstance(error, Exception):
                    raise
            else:
                for (_, future), result in zip(group, results, strict=True):
                    if not future.done():
                        future.set_result(result)

    async def drain(self) -> None:
        """Wait until all that was handed in is done."""
        if self._round is not None:
            await asyncio.gather(self._round, return_exceptions=True)


class Gathered(Generic[K, V]):
    """Asynchronous work on all things that are asked for in one turn of the event loop.

    Args:
        work: things to their results, in the same order.
    """

    def __init__(self, work: Callable[[Sequence[K]], Awaitable[Sequence[V]]]) -> None:
        self._work = work
        self._turn: _Turn[K, V] | None = None

    async def __call__(self, thing: K) -> V:
        """The result of one thing; an error is raised to all that asked in the same turn.

        The work is cancelled when all that asked for it have been.
        """
        if self._turn is None:
            self._turn = _Turn()
            self._turn.task = asyncio.create_task(self._begin(self._turn))
        turn, place = self._turn, len(self._turn.asked)
        turn.asked.append(thing)
        turn.waiting += 1
        try:
            return (await asyncio.shield(turn.task))[place]
        finally:
            turn.waiting -= 1
            if not turn.waiting and not turn.task.done():
                turn.task.cancel()
                await asyncio.gather(turn.task, return_exceptions=True)

    async def _begin(self, turn: _Turn[K, V]) -> Sequence[V]:
        await asyncio.sleep(0)
        self._turn = None
        return await self._work(turn.asked)


class _Turn(Generic[K, V]):
    """What was asked for in one turn of the event loop, and by how many that still wait."""

    task: asyncio.Task[Sequence[V]]

    def __init__(self) -> None:
        self.asked: list[K] = []
        self.waiting = 0


class Slots:
    """So many at a time: ``async with slots``.

    Args:
        check: called by whoever gets a slot; it raises when nothing may be begun any more.
    """

    def __init__(self, number: int, check: Callable[[], None]) -> None:
        self._free = asyncio.Semaphore(number)
        self._check = check

    async def __aenter__(self) -> None:
        await self._free.acquire()
        try:
            self._check()
        except BaseException:
            self._free.release()
            raise

    async def __aexit__(self, *error: object) -> None:
        self._free.release()


async def together(work: Iterable[Coroutine[Any, Any, V]]) -> list[V | BaseException]:
    """Results or errors of all, once all have ended; a cancellation is passed on to all, and their ends are waited for."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return await asyncio.gather(*tasks, return_exceptions=True)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
