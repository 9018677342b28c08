"""Time limits and broken connections: what can go wrong between the request and the last byte of the reply."""

from __future__ import annotations

import asyncio
import functools
import math
import sys
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import openai

from selfreg_sdk.errors import ConfigError, ConnectFailed, MalformedReply, ProviderError, ProviderTimeout
from selfreg_sdk.wire.http_errors import status_error

# openai 2.x speaks through httpx, 3.x through httpx2; this is whichever it brought.
TRANSPORT = sys.modules[
    next(
        root
        for root in (base.__module__.partition(".")[0] for base in openai.DefaultAsyncHttpxClient.__mro__)
        if root in ("httpx", "httpx2")
    )
]


@functools.cache
def tls_context() -> Any:
    """The trust settings of openai's transport, loaded once: reading the CA store takes tens of milliseconds."""
    return TRANSPORT.create_ssl_context()


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
    """How long each phase of one call may still take.

    Raises:
        ProviderTimeout: the deadline has passed already; nothing was sent.
    """

    def __init__(self, timeouts: Timeouts, deadline: float | None) -> None:
        self.timeouts = timeouts
        self._end = time.monotonic() + timeouts.total
        if deadline is not None:
            self._end = min(self._end, deadline)
        if self._left() <= 0:
            raise ProviderTimeout("the deadline had passed before the request was sent", billed="no")

    def for_headers(self) -> float:
        """Seconds until the headers of the reply must be there."""
        return min(self.timeouts.first_byte, self._left())

    def for_piece(self, limit: float | None = None) -> float:
        """Seconds the next piece of the body may take."""
        idle = self.timeouts.idle if limit is None else min(limit, self.timeouts.idle)
        return min(idle, self._left())

    def expired(self, phase: str) -> ProviderTimeout:
        """The error for a phase that took too long."""
        if self._left() <= 0.001:
            return ProviderTimeout(f"the deadline of the call has passed (Timeouts.total = {self.timeouts.total:g} s)")
        return ProviderTimeout(f"no {phase}")

    def _left(self) -> float:
        return self._end - time.monotonic()


class Body:
    """The body of an open response, piece by piece, under the clock.

    Args:
        response: a streaming response of openai's transport.
        clock: of this call.
        broken: makes the error for a connection that ends in the middle.
    """

    def __init__(self, response: Any, clock: Clock, *, broken: Callable[[str], ProviderError]) -> None:
        self.response = response
        self._pieces: AsyncGenerator[bytes, None] = response.aiter_bytes()
        self._clock = clock
        self._broken = broken

    async def piece(self, limit: float | None = None) -> bytes | None:
        """The next piece, or None at the end.

        Raises:
            ProviderTimeout: no piece within the idle time (or ``limit`` seconds), or the total time is over.
            ProviderError: the connection broke; made by ``broken``.
        """
        failure: ProviderError
        try:
            # Around one read only: a timeout held open across a yield would cancel the consumer.
            async with asyncio.timeout(self._clock.for_piece(limit)):
                return await anext(self._pieces, None)
        except TimeoutError:
            failure = self._clock.expired(f"further data within {self._clock.timeouts.idle:g} s (Timeouts.idle)")
        except TRANSPORT.RequestError as error:
            failure = self._broken(f"the connection broke in the body ({_root_cause(error)})")
        raise failure

    async def close(self) -> None:
        """Release the connection, or close it when the body was not read to its end."""
        # First the iterators, from the outside in: an abandoned one is finalised at a bad moment.
        await self._pieces.aclose()
        await self.response.aclose()


def post_error(error: openai.APIError, *, url: str, payload: Mapping[str, Any], clock: Clock) -> ProviderError:
    """The typed error for what openai raised when no usable reply began."""
    if isinstance(error, openai.APIStatusError):
        response = error.response
        return status_error(response.status_code, response.headers, response.text, payload=payload, url=url)
    cause = error.__cause__
    kind = type(cause).__name__
    if kind in ("ConnectTimeout", "PoolTimeout"):
        return ProviderTimeout(
            f"no connection to {url!r} within {clock.timeouts.connect:g} s; check base_url and the network", billed="no"
        )
    if isinstance(error, openai.APITimeoutError):
        return clock.expired(f"reply from {url!r} in time")
    if kind in ("ConnectError", "ProxyError", "UnsupportedProtocol"):
        return ConnectFailed(
            f"cannot connect to {url!r}: {_root_cause(error)}. Check that the server is running and base_url is right"
            f"{_tls_hint(error)}."
        )
    return MalformedReply(f"the connection to {url!r} broke before a reply came ({_root_cause(error)})")


def _root_cause(error: BaseException) -> str:
    while (deeper := error.__cause__ or error.__context__) is not None:
        error = deeper
    if isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"[:200]


def _tls_hint(error: BaseException) -> str:
    if "SSL" not in _root_cause(error):
        return ""
    return ", that it speaks https, and that its certificate is trusted (SSL_CERT_FILE names a CA bundle)"
