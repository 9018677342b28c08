"""One thread that writes what all callers of a process hand in, many changes in one transaction.

Whoever waits for a change is told after its group was committed. While a group is being committed the next one gathers, so
the busier a process is, the more calls share the cost of a transaction and of its way to the disk. Callers on an event loop
await and callers on threads wait; neither touches the database.

The thread starts at the first use, ends when it has been idle for a while or the store is closed, and does not keep a
process alive. A forked child has a writer of its own.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import threading
import weakref
from collections.abc import Iterable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any

from selfreg_sdk.errors import StoreError
from selfreg_sdk.store.engine import Store
from selfreg_sdk.store.journal import Attempt, End, Ending, Hold, Journal, Operation

_log = logging.getLogger(__name__)

# The disk is given so long to catch up by itself before an idle writer sees to it.
_CATCH_UP = 0.004
# So long an idle thread stays.
_IDLE = 10.0
# So long a process that ends waits for what was handed in.
_LAST_WAIT = 5.0


class _Waiting:
    """One operation on its way, and whoever waits for it.

    Attributes:
        done: ``outcome`` is final; set after it, so whoever sees this may read that.
        left: nobody waits any more. Of ``done`` and ``left``, the side that comes second sees the other.
    """

    __slots__ = ("done", "future", "gate", "left", "loop", "operation", "outcome")

    def __init__(self, operation: Operation, loop: asyncio.AbstractEventLoop | None) -> None:
        self.operation = operation
        self.loop = loop
        self.outcome: Any = None
        self.done = self.left = False
        if loop is not None:
            self.future: asyncio.Future[None] = loop.create_future()
        else:
            # A lock is the cheapest thing that one thread can wait for and another can open.
            self.gate = threading.Lock()
            self.gate.acquire()

    def result(self) -> Any:
        """The outcome, raised if it is an error."""
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome


class Writer:
    """Hands operations to the journal of a store. Get it with ``store.service(Writer)``."""

    def __init__(self, store: Store) -> None:
        self.journal = Journal(store)
        self._store = store
        self._queue: SimpleQueue[_Waiting | None] = SimpleQueue()
        # Reentrant: garbage may be collected, and a call closed by that, anywhere.
        self._guard = threading.RLock()
        self._thread: threading.Thread | None = None
        self._ending = self._closed = False
        self._again: list[_Waiting] = []
        self.pid = os.getpid()

    def run(self, *operations: Operation) -> list[Any]:
        """Make changes and wait until they are committed; their outcomes.

        A thread that is interrupted while it waits gives back what it would have held; ends are booked all the same. The
        writer's own thread cannot wait for itself: there, where a generator that somebody dropped may happen to be
        collected, ends are handed in and no outcomes come back.

        Raises:
            StoreError: nothing was recorded.
            BudgetExceeded, ConfigError: as an operation says.
        """
        waiting = [_Waiting(operation, None) for operation in operations]
        try:
            self._submit(waiting)
            if threading.current_thread() is self._thread:
                return []
            for one in waiting:
                one.gate.acquire()
        except BaseException:
            for one in waiting:
                self._leave(one)
            raise
        return [one.result() for one in waiting]

    async def arun(self, operation: Operation) -> Any:
        """``run`` for one operation on an event loop.

        A task that is cancelled meanwhile leaves at once if the operation is a hold, and what was held is given back by the
        writer. An end is waited for, then the task is cancelled.
        """
        loop = asyncio.get_running_loop()
        waiting = _Waiting(operation, loop)
        self._submit([waiting])
        cancelled: asyncio.CancelledError | None = None
        while not waiting.done:
            try:
                await waiting.future
            except BaseException as error:
                if isinstance(operation, Hold) or not isinstance(error, asyncio.CancelledError):
                    self._leave(waiting)
                    raise
                cancelled, waiting.future = error, loop.create_future()
        if cancelled is not None:
            raise cancelled
        return waiting.result()

    def close(self) -> None:
        """Commit what was handed in and end the thread; what comes later is refused."""
        with self._guard:
            self._closed = True
        self.finish(None)

    def finish(self, timeout: float | None) -> None:
        """Wait until what was handed in is committed, at most ``timeout`` seconds."""
        with self._guard:
            thread = self._thread
            if thread is not None:
                self._queue.put(None)
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    def _submit(self, waiting: Sequence[_Waiting]) -> None:
        with self._guard:
            if self._closed:
                raise StoreError(f"store {self._store.url!r} is closed; open it again with Store.open")
            for one in waiting:
                self._queue.put(one)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="selfreg-writer", daemon=True)
                self._thread.start()
                _writers.add(self)

    def _leave(self, waiting: _Waiting) -> None:
        """Nobody waits for it any more: what it held is given back, by the writer or here, whoever comes second."""
        waiting.left = True
        if waiting.done and (back := _given_back(waiting)):
            with suppress(StoreError):  # closed: it is charged at its worst case when its lease ends
                self._submit([back])

    # -- on the thread ------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while self._turn():
            pass

    def _turn(self) -> bool:
        """Commit the next group; False when the thread is to end."""
        group, self._again = self._again, []
        if not group:
            wait = 0.0 if self._ending else _CATCH_UP if self._store.behind else _IDLE
            try:
                first = self._queue.get(timeout=wait)
                while True:
                    if first is None:
                        self._ending = True
                    else:
                        group.append(first)
                    first = self._queue.get_nowait()
            except Empty:
                pass
        if group:
            self._commit(group)
        elif self._store.behind:
            self._catch_up()
        elif self._ending or wait == _IDLE:
            with self._guard:
                if self._queue.empty():
                    self._thread, self._ending = None, False
                    return False
        return True

    def _commit(self, group: Sequence[_Waiting]) -> None:
        live = [one for one in group if not (one.left and isinstance(one.operation, Hold))]
        loops: dict[asyncio.AbstractEventLoop, list[_Waiting]] = {}
        for one, outcome in zip(live, self._post([one.operation for one in live]), strict=True):
            one.outcome = outcome
            one.done = True
            if one.loop is None:
                one.gate.release()
            else:
                loops.setdefault(one.loop, []).append(one)
        for loop, waiting in loops.items():
            try:
                loop.call_soon_threadsafe(_wake, waiting)
            except RuntimeError:  # the loop is closed, and its tasks are gone
                for one in waiting:
                    one.left = True
        self._again.extend(back for one in live if one.left and (back := _given_back(one)))

    def _post(self, operations: Sequence[Operation]) -> list[Any]:
        """Outcomes, one for each operation."""
        if not operations:
            return []
        try:
            return self.journal.post(operations)
        except StoreError as error:
            # An error of its own for everybody: raising one adds to its traceback.
            return [_caused(StoreError(str(error)), error) for _ in operations]
        except Exception as error:
            # One of them cannot be written down, which undid all of them: each alone, then.
            if len(operations) > 1:
                return [outcome for operation in operations for outcome in self._post([operation])]
            shown = f"store {self._store.url!r}: {error}; the change was refused and nothing was recorded"
            return [_caused(StoreError(shown), error)]

    def _catch_up(self) -> None:
        try:
            self._store.sync()
        except (OSError, StoreError):
            _log.exception("the log of store %r could not be synced; the next settlement tries again", self._store.url)


# Writers whose thread may be running; those who hold them decide how long they live.
_writers: weakref.WeakSet[Writer] = weakref.WeakSet()


@atexit.register
def _finish_all() -> None:
    for writer in list(_writers):
        if writer.pid == os.getpid():
            writer.finish(_LAST_WAIT)


def _wake(waiting: Iterable[_Waiting]) -> None:
    for one in waiting:
        if not one.future.done():
            one.future.set_result(None)


def _given_back(waiting: _Waiting) -> _Waiting | None:
    """What undoes a hold that was granted to somebody who had left; nothing was sent."""
    hold, outcome = waiting.operation, waiting.outcome
    if not isinstance(hold, Hold) or not isinstance(outcome, int):
        return None

    def release(attempt: Attempt) -> Ending | None:
        if attempt.state in ("settled", "released"):
            return None
        return Ending(state="released", cost=None, now=hold.now, reason="the caller left before it was sent")

    return _Waiting(End(id=outcome, scopes=tuple(hold.caps), decide=release, durable=False), None)


def _caused(error: StoreError, cause: Exception) -> StoreError:
    error.__cause__ = cause
    return error
