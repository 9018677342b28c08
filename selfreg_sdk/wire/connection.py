"""Time limits of a call: what they are, and the one timer that keeps them."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass, fields
from types import TracebackType
from typing import Any, Self

from selfreg_sdk.errors import ConfigError, ProviderTimeout


@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """Seconds a call may take, phase by phase.

    Attributes:
        connect: to reach the server, TLS included.
        first_byte: from the start until the headers of the reply are complete.
        idle: between two pieces of the body.
        total: the whole call, however steadily bytes may drip.
    """

    connect: float = 5.0
    first_byte: float = 60.0
    idle: float = 30.0
    total: float = 600.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
                raise ConfigError(f"timeout {field.name}={value!r}: expected a positive number of seconds")


class Clock:
    """How long each phase of one call may still take, and what ends a wait that takes longer.

    ``with clock.waiting(seconds):`` raises TimeoutError as `asyncio.timeout` does, but all waits of a call share one
    timer: a wait that ends in time just leaves it running, and when it fires it looks whether anything is due. One
    wait at a time.

    Raises:
        ProviderTimeout: the deadline has passed already; nothing was sent.
    """

    __slots__ = ("_before", "_due", "_end", "_expired", "_fires", "_seconds", "_task", "_timer", "timeouts")

    def __init__(self, timeouts: Timeouts, deadline: float | None) -> None:
        self.timeouts = timeouts
        now = time.monotonic()
        self._end = now + timeouts.total
        if deadline is not None and deadline < self._end:
            self._end = deadline
        if self._end <= now:
            raise ProviderTimeout("the deadline had passed before the request was sent", billed="no")
        self._task: asyncio.Task[Any] | None = None  # waiting now
        self._before = 0  # cancellations of the task that are not ours
        self._seconds = self._due = self._fires = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._expired = False

    def for_headers(self) -> float:
        """Seconds until the headers of the reply must be there."""
        return min(self.timeouts.first_byte, self._left())

    def for_piece(self, limit: float | None = None) -> float:
        """Seconds the next piece of the body may take."""
        idle = self.timeouts.idle if limit is None else min(limit, self.timeouts.idle)
        return min(idle, self._left())

    @property
    def over(self) -> bool:
        """Whether the whole call has used up its time."""
        return self._left() <= 0

    def expired(self, phase: str) -> ProviderTimeout:
        """The error for a phase that took too long."""
        if self._left() <= 0.001:
            return ProviderTimeout(f"the deadline of the call has passed (Timeouts.total = {self.timeouts.total:g} s)")
        return ProviderTimeout(f"no {phase}")

    def waiting(self, seconds: float) -> Self:
        """A context that lasts ``seconds`` at most."""
        self._seconds = seconds
        return self

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None, "a coroutine that runs outside of any task cannot be timed"
        self._task, self._before = task, task.cancelling()
        self._due = time.monotonic() + self._seconds
        if self._timer is not None and self._fires > self._due:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._set(self._seconds, self._due)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        if not self._expired:
            return
        self._expired = False
        assert task is not None
        # Another cancellation may have come on top of ours: then it is the one to obey.
        if task.uncancel() <= self._before and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def stop(self) -> None:
        """Let go of the timer; the call is over."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set(self, seconds: float, fires: float) -> None:
        self._fires = fires
        self._timer = asyncio.get_running_loop().call_later(seconds, self._fire)

    def _fire(self) -> None:
        self._timer = None
        if self._task is None:
            return
        left = self._due - time.monotonic()
        if left > 0.001:
            self._set(left, self._due)
        else:
            self._expired = True
            self._task.cancel()

    def _left(self) -> float:
        return self._end - time.monotonic()
