"""One background event loop for synchronous callers.

Blocking reads cannot keep a total deadline against a server that drips bytes, and cannot be cancelled from another
thread; an event loop can do both. So the synchronous methods run the asynchronous ones here.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import CancelledError
from typing import Any, TypeVar

T = TypeVar("T")

_SECONDS_TO_UNWIND = 5.0


class BackgroundLoop:
    """An event loop in a daemon thread. Use :func:`background_loop` to get the one of this process."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="selfreg-io", daemon=True)
        self._thread.start()

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run ``work`` on the loop and wait for it, with the caller's context variables.

        An exception in the waiting thread (Ctrl-C) cancels the work and lets it close its connection first.
        """
        # A bare lock and a coroutine that opens it: a Future and its callbacks cost as much again as the change of thread.
        ended = threading.Lock()
        ended.acquire()
        context = contextvars.copy_context()
        task: asyncio.Task[None] | None = None
        result: T
        failure: BaseException | None = None
        over = False

        async def run() -> None:
            nonlocal result, failure, over
            try:
                result = await work
            except BaseException as error:  # not even SystemExit may end the loop, which others use
                failure = error
            finally:
                over = True
                ended.release()

        def start() -> None:
            nonlocal task
            task = self.loop.create_task(run(), context=context)

        def cancel() -> None:
            if task is None:  # interrupted before it was handed over
                work.close()
                ended.release()
            else:  # after its first step, since a task that never began would not say that it ended
                self.loop.call_soon(task.cancel)

        try:
            self.loop.call_soon_threadsafe(start)
            ended.acquire()
        except BaseException:
            if not over:
                self.loop.call_soon_threadsafe(cancel)
                ended.acquire(timeout=_SECONDS_TO_UNWIND)
            raise
        try:
            if failure is None:
                return result
            if isinstance(failure, asyncio.CancelledError):
                raise CancelledError
            raise failure
        finally:
            failure = None  # or it would hold its own traceback for ever

    def finish(self, work: Coroutine[Any, Any, None]) -> None:
        """Run clean-up ``work``, waiting for it wherever that is possible."""
        if threading.current_thread() is self._thread:
            # The garbage collector finalises an abandoned iterator in any thread; waiting in this one would never end.
            self.loop.call_soon(lambda: self.loop.create_task(work))
        else:
            self.call(work)

    def _serve(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()


_current: BackgroundLoop | None = None
_lock = threading.Lock()


def background_loop() -> BackgroundLoop:
    """The background loop of this process, started at the first use."""
    global _current
    if _current is None:
        with _lock:
            if _current is None:
                _current = BackgroundLoop()
    return _current


def _forget_after_fork() -> None:
    # The thread does not live on in a forked child, and the lock may have been held.
    global _current, _lock
    _current, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)
