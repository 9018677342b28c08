"""One request and its reply, under the clock: every way it can end before the last byte is one typed error."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from selfreg_sdk.errors import MalformedReply, ProviderError
from selfreg_sdk.wire.connection import Clock
from selfreg_sdk.wire.http_errors import status_error
from selfreg_sdk.wire.transport import Broken, Pool, Response

_MOST_BODY_BYTES = 64 * 2**20


class Exchange:
    """A reply of status 2xx whose headers have arrived.

    Args:
        response: what arrived.
        clock: of this call.
        broken: makes the error for a connection that ends in the middle.
    """

    __slots__ = ("_broken", "_clock", "response")

    def __init__(self, response: Response, clock: Clock, *, broken: Callable[[str], ProviderError]) -> None:
        self.response = response
        self._clock = clock
        self._broken = broken

    @classmethod
    async def start(
        cls, pool: Pool, body: bytes, clock: Clock, *, payload: Mapping[str, Any], url: str,
        broken: Callable[[str], ProviderError],
    ) -> Exchange:  # fmt: skip
        """Send ``body``, which is ``payload`` as JSON, and wait for the headers of the reply.

        Raises:
            ProviderError: there is no connection, or no reply, or one with an error status.
        """
        failure: ProviderError
        try:
            with clock.waiting(clock.for_headers()):
                response = await pool.post(body)
                if 200 <= response.status < 300:
                    return cls(response, clock, broken=broken)
                text = (await _all_there_is(response)).decode("utf-8", "replace")
                failure = status_error(response.status, response.headers, text, payload=payload, url=url)
        except TimeoutError:
            failure = clock.expired(f"reply from {url!r} in {clock.timeouts.first_byte:g} s (Timeouts.first_byte)")
        # Raised outside the handler, so that no library's exception hangs on as context: it may hold the key.
        raise failure

    async def piece(self, limit: float | None = None) -> bytes:
        """The next piece of the body, empty at the end.

        Raises:
            ProviderTimeout: no piece within the idle time (or ``limit`` seconds), or the total time is over.
            ProviderError: the connection broke; made by ``broken``.
        """
        if (there := self.response.ready()) is not None and not self._clock.over:
            return there
        failure: ProviderError
        try:
            # Around one read only: a limit held across a yield would cancel the consumer.
            with self._clock.waiting(self._clock.for_piece(limit)):
                return await self.response.piece()
        except TimeoutError:
            failure = self._clock.expired(f"further data within {self._clock.timeouts.idle:g} s (Timeouts.idle)")
        except Broken as error:
            failure = self._broken(f"the connection broke in the body ({error})")
        raise failure

    async def whole(self) -> bytes:
        """The whole body.

        Raises:
            ProviderError: as `piece`; or the body is endless.
        """
        piece = await self.piece()
        if not (after := await self.piece()):
            return piece
        pieces, size = [piece], len(piece)
        while after:
            pieces.append(after)
            size += len(after)
            if size > _MOST_BODY_BYTES:
                raise MalformedReply(f"the reply exceeds {_MOST_BODY_BYTES} bytes", status=200)
            after = await self.piece()
        return b"".join(pieces)

    async def close(self) -> None:
        """Release the connection, or close it when the body was not read to its end."""
        await self.response.close()


async def _all_there_is(response: Response) -> bytes:
    """The body of an error: what came of it, where the connection broke; its status is known in any case."""
    body = b""
    try:
        while len(body) <= _MOST_BODY_BYTES and (piece := response.ready() or await response.piece()):
            body += piece
    except Broken:
        pass
    finally:
        await response.close()
    return body
