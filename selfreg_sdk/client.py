"""A lean client for any OpenAI-compatible chat-completions endpoint.

It sits on the openai package's raw ``post``: the body is serialised once and the reply parsed once, whatever the number
of messages. One attempt per call; nothing here retries or spends (see calls.py for that).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import threading
import weakref
from collections.abc import AsyncGenerator, Iterator, Mapping
from types import TracebackType
from typing import Any, NoReturn, Self

import openai
from pydantic import SecretStr

from selfreg_sdk.endpoint import endpoint_id, parse_base_url
from selfreg_sdk.errors import ConfigError, MalformedReply, ProviderError
from selfreg_sdk.wire.background import background_loop
from selfreg_sdk.wire.connection import TRANSPORT, Body, Clock, Timeouts, post_error, tls_context
from selfreg_sdk.wire.http_errors import reported_error
from selfreg_sdk.wire.pools import Pools, close, close_pools, closing_with_loop
from selfreg_sdk.wire.replies import Chunk, Reply, parse_reply
from selfreg_sdk.wire.sse import ChunkReader

__all__ = ["OPENAI_URL", "Chunk", "Client", "Reply", "Timeouts"]

OPENAI_URL = "https://api.openai.com/v1"

_MOST_BODY_BYTES = 64 * 2**20
# How long to wait for the connection's end after the last chunk, so that it can be used again.
_SECONDS_AFTER_DONE = 0.1
_PLACEHOLDER_KEY = "none"


class Client:
    """Sends chat completions, synchronously and asynchronously, from any number of threads and event loops.

    The key stays in memory: it is in no repr, error, log or pickle. Connections are kept per event loop and closed
    with it; the synchronous methods share one background loop.

    Args:
        base_url: None means OpenAI.
        api_key: may be absent for servers that ask for none.
        timeouts: see :class:`Timeouts`.
        default_headers: sent with every request, for gateways; treated as secret.

    Raises:
        ConfigError: base_url is not a plain http(s) URL, or the key or a header cannot be sent.
    """

    def __init__(
        self,
        *,
        base_url: str | None = None,
        api_key: SecretStr | str | None = None,
        timeouts: Timeouts | None = None,
        default_headers: Mapping[str, str] | None = None,
    ) -> None:
        self.base_url = OPENAI_URL if base_url is None else checked_url(base_url)
        self.timeouts = timeouts or Timeouts()
        self._key = _checked_secret("api_key", api_key)
        self._headers: dict[str, Any] = {
            name: _checked_secret(f"header {name!r}", value) for name, value in (default_headers or {}).items()
        }
        self._secrets = [text for text in (self._key, *self._headers.values()) if len(text) >= 6]
        if self.base_url != OPENAI_URL:
            # The SDK takes these from the environment; they are nobody else's business.
            self._headers |= {"OpenAI-Organization": openai.Omit(), "OpenAI-Project": openai.Omit()}
        self._pools: Pools = weakref.WeakKeyDictionary()
        self._lock = threading.Lock()
        weakref.finalize(self, close_pools, self._pools).atexit = False

    @property
    def endpoint(self) -> str:
        """Where requests go, without secrets: the name of this endpoint in keys and records."""
        return endpoint_id(self.base_url)

    def revive(self, body: dict[str, Any]) -> Reply:
        """The reply a stored body stands for."""
        return parse_reply(body)

    def __repr__(self) -> str:
        return f"Client(base_url={self.base_url!r}, timeouts={self.timeouts!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Client holds an API key and open connections and is not pickled; make one per process")

    def complete(self, payload: Mapping[str, Any], *, deadline: float | None = None) -> Reply:
        """Send ``payload`` once and return the checked reply.

        Args:
            payload: the request body, sent as it is; only ``stream`` and ``stream_options`` are taken out.
            deadline: ``time.monotonic()`` value that ends the call if it comes before ``timeouts.total``.

        Raises:
            ProviderError: a subclass that says what happened, whether to retry and whether it may have been billed.
            ConfigError: the payload is not JSON, or OpenAI is addressed without a key; nothing was sent.
        """
        return background_loop().call(self.acomplete(payload, deadline=deadline))

    async def acomplete(self, payload: Mapping[str, Any], *, deadline: float | None = None) -> Reply:
        """Asynchronous form of :meth:`complete`; cancelling it closes the connection."""
        wire = {key: value for key, value in payload.items() if key not in ("stream", "stream_options")}
        try:
            body = await self._open(wire, Clock(self.timeouts, deadline), broken=_lost)
            try:
                value = await self._json(body)
            finally:
                await body.close()
            if failure := reported_error(value, payload=wire, url=self.base_url):
                raise failure
            return parse_reply(value, request_id=body.response.headers.get("x-request-id"))
        except ProviderError as error:
            self._redact(error)
            raise

    def stream(self, payload: Mapping[str, Any], *, deadline: float | None = None) -> Iterator[Chunk]:
        """Send ``payload`` once and yield the answer in pieces; closing the iterator closes the connection.

        Token counts are always asked for (``stream_options.include_usage``); pass ``stream_options=None`` for a server
        that rejects the field.

        Raises:
            TruncatedStream: the stream ended without a finish_reason for every sample; ``partial`` has the text so far.
            ProviderError: otherwise as :meth:`complete`.
        """
        background = background_loop()
        chunks = self.astream(payload, deadline=deadline)
        try:
            while (chunk := background.call(_next(chunks))) is not None:
                yield chunk
        finally:
            background.finish(close(chunks))

    async def astream(
        self, payload: Mapping[str, Any], *, deadline: float | None = None
    ) -> AsyncGenerator[Chunk, None]:
        """Asynchronous form of :meth:`stream`."""
        wire = _streaming(payload)
        wanted = payload.get("n")
        reader = ChunkReader(
            n=wanted if isinstance(wanted, int) else 1,
            reported=lambda chunk: reported_error(chunk, payload=wire, url=self.base_url),
        )
        try:
            body = await self._open(wire, Clock(self.timeouts, deadline), broken=reader.truncated)
            try:
                while (piece := await _piece(body, reader)) is not None:
                    for chunk in reader.feed(piece):
                        yield chunk
                for chunk in reader.end():
                    yield chunk
            finally:
                await body.close()
        except ProviderError as error:
            self._redact(error)
            raise

    def close(self) -> None:
        """Close all connections; a later call opens new ones."""
        closings = close_pools(self._pools)
        with contextlib.suppress(RuntimeError):  # inside a running loop: that loop goes on with its part later
            closings.pop(asyncio.get_running_loop(), None)
        for closing in closings.values():
            closing.result(timeout=5)

    async def aclose(self) -> None:
        """Asynchronous form of :meth:`close`."""
        pool = self._pools.pop(asyncio.get_running_loop(), None)
        if pool is not None:
            await close(pool[1])
        for closing in close_pools(self._pools).values():
            await asyncio.wrap_future(closing)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _open(self, wire: Mapping[str, Any], clock: Clock, *, broken: Any) -> Body:
        """Send the request and wait for the headers of a 2xx reply."""
        content = _dumps(wire)
        failure: ProviderError
        try:
            async with asyncio.timeout(clock.for_headers()):
                pool = await self._pool()
                response: Any = await pool.post(
                    "/chat/completions",
                    cast_to=TRANSPORT.Response,
                    content=content,
                    options={"timeout": openai.Timeout(None, connect=clock.timeouts.connect)},
                    stream=True,
                    stream_cls=openai.AsyncStream[Any],
                )
                return Body(response, clock, broken=broken)
        except TimeoutError:
            failure = clock.expired(
                f"reply from {self.base_url!r} in {clock.timeouts.first_byte:g} s (Timeouts.first_byte)"
            )
        except openai.APIError as error:
            failure = post_error(error, url=self.base_url, payload=wire, clock=clock)
        # Raised outside the handler: what openai raised holds the request with its key, and would hang on as context.
        raise failure

    async def _json(self, body: Body) -> dict[str, Any]:
        pieces: list[bytes] = []
        size = 0
        while (piece := await body.piece()) is not None:
            pieces.append(piece)
            size += len(piece)
            if size > _MOST_BODY_BYTES:
                raise MalformedReply(f"the reply exceeds {_MOST_BODY_BYTES} bytes", status=200)
        raw = b"".join(pieces)
        try:
            value = json.loads(raw)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict):
            return value
        kind = body.response.headers.get("content-type", "of no declared type")
        raise MalformedReply(
            f"{self.base_url!r} answered with {len(raw)} bytes ({kind}) that are no JSON object: cut off, or not an "
            "OpenAI-compatible endpoint",
            status=body.response.status_code,
            body=raw[:500].decode("utf-8", "replace"),
        )

    async def _pool(self) -> openai.AsyncOpenAI:
        loop = asyncio.get_running_loop()
        known = self._pools.get(loop)
        if known is not None:
            return known[0]
        if not self._key and self.base_url == OPENAI_URL:
            raise ConfigError(
                "no API key for OpenAI: set OPENAI_API_KEY or pass api_key=; other servers need base_url="
            )
        pool = openai.AsyncOpenAI(
            base_url=self.base_url,
            api_key=self._key or _PLACEHOLDER_KEY,
            max_retries=0,
            default_headers=self._headers,
            # The SDK's own default client closes itself from __del__ on whichever loop then runs: never on the right one.
            http_client=openai.DefaultAsyncHttpxClient(verify=tls_context()),
        )
        closing = closing_with_loop(pool)
        await anext(closing)
        with self._lock:
            for other in [other for other in self._pools if other.is_closed()]:
                del self._pools[other]
            self._pools[loop] = pool, closing
        return pool

    def _redact(self, error: ProviderError) -> None:
        """Some servers repeat the key they refuse."""
        for secret in self._secrets:
            error.args = tuple(arg.replace(secret, "***") if isinstance(arg, str) else arg for arg in error.args)
            error.body = error.body and error.body.replace(secret, "***")


def checked_url(base_url: str) -> str:
    """The URL without trailing slash.

    Raises:
        ConfigError: it is not an http(s) URL, or carries what belongs into a header.
    """
    parts = parse_base_url(base_url)
    if parts.username or parts.password or parts.query:
        raise ConfigError(
            f"base_url for {parts.hostname!r} carries credentials or a query: pass api_key= or default_headers="
        )
    if re.search(r"\s", parts.geturl()):
        raise ConfigError(f"base_url={base_url!r} holds white space")
    return parts.geturl().rstrip("/")


def _checked_secret(what: str, secret: SecretStr | str | None) -> str:
    text = secret.get_secret_value() if isinstance(secret, SecretStr) else secret or ""
    if not isinstance(text, str) or not text.isascii() or not (text.isprintable() and text == text.strip()):
        raise ConfigError(f"{what} holds characters that no HTTP header can carry, such as a line break")
    return text


def _dumps(wire: Mapping[str, Any]) -> bytes:
    try:
        text = json.dumps(wire, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode()
    except UnicodeEncodeError:  # half a surrogate pair has no UTF-8 form, but an escape
        return json.dumps(wire, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError) as error:
        raise ConfigError(f"the request cannot be written as JSON: {error}") from None


def _streaming(payload: Mapping[str, Any]) -> dict[str, Any]:
    wire = {**payload, "stream": True}
    options = wire.get("stream_options", {})
    if options is None:
        del wire["stream_options"]
    else:
        wire["stream_options"] = {**options, "include_usage": True}
    return wire


async def _piece(body: Body, reader: ChunkReader) -> bytes | None:
    try:
        return await body.piece(_SECONDS_AFTER_DONE if reader.done else None)
    except ProviderError:
        if reader.done or reader.answered:
            return None  # the answer is complete; only the connection did not end well
        raise


def _lost(why: str) -> ProviderError:
    return MalformedReply(f"the reply is incomplete: {why}", status=200)


async def _next(chunks: AsyncGenerator[Chunk, None]) -> Chunk | None:
    return await anext(chunks, None)
