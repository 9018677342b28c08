"""The paid-call path: reserve, attempt, settle, record. The only code that spends money.

Every request goes through `Calls`, whoever makes it: an answer, a plan, a trial. Each attempt is one ledger row. Before an
attempt its worst case is reserved under every budget that applies; after it the reservation is settled with what the
provider reports, released when the provider certainly did not bill, or marked unknown and charged at the worst case. The
libraries below never retry; retries happen here, with a limit on attempts, waits and total time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Iterator
from contextlib import aclosing, closing
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, cast

from tenacity import AsyncRetrying, RetryCallState, Retrying, retry_if_exception, wait_exponential, wait_random

from selfreg_sdk.booking import Booking, Books, CallSpec, Receipt
from selfreg_sdk.cache import cache_key
from selfreg_sdk.channel import Answer, Channel, Piece
from selfreg_sdk.errors import ConfigError, ProviderError
from selfreg_sdk.usage import Usage

A = TypeVar("A", bound=Answer)
P = TypeVar("P", bound=Piece)
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Retry:
    """When a failed attempt is repeated.

    Attributes:
        attempts: most attempts of one call, the first included.
        first_wait, longest_wait: seconds of the exponential back-off, with jitter.
        longest_retry_after: a provider that asks to wait longer than this is not waited for.
        total: seconds for all attempts and waits together.
    """

    attempts: int = 3
    first_wait: float = 0.5
    longest_wait: float = 8.0
    longest_retry_after: float = 60.0
    total: float = 600.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ConfigError(f"retry: attempts={self.attempts!r} must be at least 1")
        if not self.total > 0:
            raise ConfigError(f"retry: total={self.total!r} must be more than 0 seconds")


class Calls:
    """Makes paid calls under budgets.

    Args:
        books: prices, budgets and ledger.
        retry: when to repeat.
    """

    def __init__(self, books: Books, *, retry: Retry = Retry()) -> None:
        self.books = books
        self.retry = retry

    def complete(self, spec: CallSpec, channel: Channel[A, Any]) -> tuple[A, Receipt]:
        """Make a call and wait for its answer.

        Raises:
            BudgetExceeded: the worst case does not fit; nothing was sent.
            ProviderError: the last attempt's error.
        """
        if spec.cached and (hit := self._recall(spec, channel)) is not None:
            return hit, Receipt(flags=("cache",))
        receipt, deadline = Receipt(), time.monotonic() + self.retry.total
        for attempt in Retrying(**self._policy(deadline, receipt)):
            with attempt:
                booking = self._open(spec, channel, receipt)
                try:
                    answer = channel.complete(spec.payload, deadline=deadline)
                except BaseException as exc:
                    booking.fail(receipt, exc)
                    raise
                booking.settle(receipt, answer.usage, answer)
        return answer, receipt

    async def acomplete(self, spec: CallSpec, channel: Channel[A, Any]) -> tuple[A, Receipt]:
        """`complete` for asyncio: store work runs in threads, a cancelled call still closes its books."""
        if spec.cached and (hit := await asyncio.to_thread(self._recall, spec, channel)) is not None:
            return hit, Receipt(flags=("cache",))
        receipt, deadline = Receipt(), time.monotonic() + self.retry.total
        async for attempt in AsyncRetrying(**self._policy(deadline, receipt)):
            with attempt:
                booking = await self._aopen(spec, channel, receipt)
                try:
                    answer = await channel.acomplete(spec.payload, deadline=deadline)
                except BaseException as exc:
                    booking.fail(receipt, exc)
                    raise
                await _to_the_end(asyncio.to_thread(booking.settle, receipt, answer.usage, answer))
        return answer, receipt

    def stream(self, spec: CallSpec, channel: Channel[Any, P], receipt: Receipt) -> Iterator[P]:
        """Make a call and hand out its answer in pieces; repeated only while no piece was handed out.

        Pieces that end a sample are held back until the books are closed, so whoever has seen the end can rely on the
        ledger. A consumer that stops early closes the connection, and the call counts at its worst case.

        Args:
            spec: the call; its answer is not cached.
            channel: how it is sent.
            receipt: filled in; complete once the iterator is exhausted or closed.
        """
        deadline = time.monotonic() + self.retry.total
        for attempt in Retrying(**self._policy(deadline, receipt)):
            with attempt:
                booking, tail = self._open(spec, channel, receipt), _Tail[P]()
                try:
                    pieces = channel.stream(spec.payload, deadline=deadline)
                    with closing(cast(Any, pieces)):
                        for piece in pieces:
                            if not tail.holds(piece):
                                receipt.started = True
                                yield piece
                except BaseException as exc:
                    booking.fail(receipt, exc)
                    raise
                booking.settle(receipt, tail.usage)
        yield from tail.held

    async def astream(self, spec: CallSpec, channel: Channel[Any, P], receipt: Receipt) -> AsyncGenerator[P, None]:
        """`stream` for asyncio."""
        deadline = time.monotonic() + self.retry.total
        async for attempt in AsyncRetrying(**self._policy(deadline, receipt)):
            with attempt:
                booking, tail = await self._aopen(spec, channel, receipt), _Tail[P]()
                try:
                    pieces = channel.astream(spec.payload, deadline=deadline)
                    async with aclosing(cast(Any, pieces)):
                        async for piece in pieces:
                            if not tail.holds(piece):
                                receipt.started = True
                                yield piece
                except BaseException as exc:
                    booking.fail(receipt, exc)
                    raise
                await _to_the_end(asyncio.to_thread(booking.settle, receipt, tail.usage))
        for piece in tail.held:
            yield piece

    def _recall(self, spec: CallSpec, channel: Channel[A, Any]) -> A | None:
        """A stored answer costs nothing and holds nothing."""
        key = cache_key(spec.payload, endpoint=channel.endpoint)
        body = self.books.cache.get(key, spec.sample_index)
        return None if body is None else channel.revive(body)

    def _open(self, spec: CallSpec, channel: Channel[Any, Any], receipt: Receipt) -> Booking:
        booking = self.books.reserve(spec, channel.endpoint, receipt.attempts + 1)
        receipt.attempts += 1
        return booking

    async def _aopen(self, spec: CallSpec, channel: Channel[Any, Any], receipt: Receipt) -> Booking:
        """Reserve in a thread. If the task is cancelled meanwhile, the reservation is undone: nothing was sent."""
        opening = asyncio.ensure_future(asyncio.to_thread(self._open, spec, channel, receipt))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError as exc:
            booking = await opening
            self.books.meter.release(booking.reservation, reason=type(exc).__name__)
            raise

    def _policy(self, deadline: float, receipt: Receipt) -> dict[str, Any]:
        """The retry policy as tenacity takes it. Every limit is stated: its defaults retry for ever without waiting."""
        first, longest = self.retry.first_wait, self.retry.longest_wait
        backoff = wait_exponential(multiplier=first, max=longest) + wait_random(0, first)

        def wait(state: RetryCallState) -> float:
            return max(backoff(state), _retry_after(state) or 0.0)

        def stop(state: RetryCallState) -> bool:
            asked = _retry_after(state)
            return (
                state.attempt_number >= self.retry.attempts
                or (asked is not None and asked > self.retry.longest_retry_after)
                or time.monotonic() + state.upcoming_sleep >= deadline
            )

        def worth_repeating(exc: BaseException) -> bool:
            return isinstance(exc, ProviderError) and exc.retryable and not receipt.started

        return {"stop": stop, "wait": wait, "retry": retry_if_exception(worth_repeating), "reraise": True}


@dataclass
class _Tail(Generic[P]):
    """Holds back the pieces from the first one that ends a sample on, and remembers the usage among them."""

    held: list[P] = field(default_factory=list)
    usage: Usage | None = None

    def holds(self, piece: P) -> bool:
        self.usage = piece.usage or self.usage
        if self.held or piece.finished or piece.usage is not None:
            self.held.append(piece)
            return True
        return False


def _retry_after(state: RetryCallState) -> float | None:
    exc = state.outcome.exception() if state.outcome is not None else None
    return exc.retry_after if isinstance(exc, ProviderError) else None


async def _to_the_end(work: Awaitable[T]) -> T:
    """Finish ``work`` even if the task is cancelled meanwhile, then be cancelled: paid answers are always booked."""
    future = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await future
        raise
