"""The paid-call path: reserve, attempt, settle, record. The only code that spends money.

Every request goes through `Calls`, whoever makes it: an answer, a plan, a trial. Each attempt is one ledger row. Before an
attempt its worst case is reserved under every budget that applies; after it the reservation is settled with what the
provider reports, released when the provider certainly did not bill, or marked unknown and charged at the worst case. The
libraries below never retry; retries happen here, with a limit on attempts, waits and total time.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, closing
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, cast

from selfreg_sdk.booking import Booking, Books, CallSpec, Receipt
from selfreg_sdk.cache import cache_key
from selfreg_sdk.channel import Answer, Channel, Piece
from selfreg_sdk.errors import ConfigError, ProviderError
from selfreg_sdk.usage import Usage

A = TypeVar("A", bound=Answer)
P = TypeVar("P", bound=Piece)


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
        receipt, course = Receipt(), _Course(self.retry)
        while True:
            booking = self._open(spec, channel, receipt)
            try:
                answer = channel.complete(spec.payload, deadline=course.deadline)
            except BaseException as exc:
                booking.fail(receipt, exc)
                if not course.goes_on(exc):
                    raise
            else:
                booking.settle(receipt, answer.usage, answer)
                return answer, receipt
            time.sleep(course.pause)

    async def acomplete(self, spec: CallSpec, channel: Channel[A, Any]) -> tuple[A, Receipt]:
        """`complete` for asyncio: no store work on the loop, and a cancelled call still closes its books."""
        if spec.cached and (hit := await asyncio.to_thread(self._recall, spec, channel)) is not None:
            return hit, Receipt(flags=("cache",))
        receipt, course = Receipt(), _Course(self.retry)
        while True:
            booking = await self._aopen(spec, channel, receipt)
            try:
                answer = await channel.acomplete(spec.payload, deadline=course.deadline)
            except GeneratorExit as exc:
                # The loop is gone and this coroutine is being collected: it can await nothing any more.
                booking.fail(receipt, exc)
                raise
            except BaseException as exc:
                await booking.afail(receipt, exc)
                if not course.goes_on(exc):
                    raise
            else:
                await booking.asettle(receipt, answer.usage, answer)
                return answer, receipt
            await asyncio.sleep(course.pause)

    def stream(self, spec: CallSpec, channel: Channel[Any, P], receipt: Receipt) -> Iterator[P]:
        """Make a call and hand out its answer in pieces; repeated only while no piece was handed out.

        Pieces that end a sample are held back until the books are closed, so whoever has seen the end can rely on the
        ledger. A consumer that stops early closes the connection, and the call counts at its worst case.

        Args:
            spec: the call; its answer is not cached.
            channel: how it is sent.
            receipt: filled in; complete once the iterator is exhausted or closed.
        """
        course = _Course(self.retry)
        while True:
            booking, tail = self._open(spec, channel, receipt), _Tail[P]()
            try:
                pieces = channel.stream(spec.payload, deadline=course.deadline)
                with closing(cast(Any, pieces)):
                    for piece in pieces:
                        if not tail.holds(piece):
                            receipt.started = True
                            yield piece
            except BaseException as exc:
                booking.fail(receipt, exc)
                if receipt.started or not course.goes_on(exc):
                    raise
            else:
                booking.settle(receipt, tail.usage)
                break
            time.sleep(course.pause)
        yield from tail.held

    async def astream(self, spec: CallSpec, channel: Channel[Any, P], receipt: Receipt) -> AsyncGenerator[P, None]:
        """`stream` for asyncio."""
        course = _Course(self.retry)
        while True:
            booking, tail = await self._aopen(spec, channel, receipt), _Tail[P]()
            try:
                pieces = channel.astream(spec.payload, deadline=course.deadline)
                async with aclosing(cast(Any, pieces)):
                    async for piece in pieces:
                        if not tail.holds(piece):
                            receipt.started = True
                            yield piece
            except BaseException as exc:
                await booking.afail(receipt, exc)
                if receipt.started or not course.goes_on(exc):
                    raise
            else:
                await booking.asettle(receipt, tail.usage)
                break
            await asyncio.sleep(course.pause)
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
        booking = await self.books.areserve(spec, channel.endpoint, receipt.attempts + 1)
        receipt.attempts += 1
        return booking


class _Course:
    """The attempts of one call: when they end, and how long to wait before the next.

    Attributes:
        deadline: monotonic time at which the call ends, with an error if need be.
        pause: seconds to wait now.
    """

    def __init__(self, retry: Retry) -> None:
        self._retry = retry
        self._failed = 0
        self.deadline = time.monotonic() + retry.total
        self.pause = 0.0

    def goes_on(self, exc: BaseException) -> bool:
        """Whether the attempt that failed is to be repeated, after ``pause``."""
        retry, self._failed = self._retry, self._failed + 1
        if not isinstance(exc, ProviderError) or not exc.retryable or self._failed >= retry.attempts:
            return False
        asked = exc.retry_after or 0.0
        backoff = min(retry.first_wait * 2 ** min(self._failed - 1, 30), retry.longest_wait)
        self.pause = max(backoff + random.uniform(0, retry.first_wait), asked)
        return asked <= retry.longest_retry_after and time.monotonic() + self.pause < self.deadline


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
