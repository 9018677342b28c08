"""A lean client for any OpenAI-compatible chat-completions endpoint.

The body is written once and the reply read once, whatever the number of messages; which library speaks HTTP is a choice
(`selfreg_sdk.wire.transport`). One attempt per call; nothing here retries or spends (see calls.py for that).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import re
import weakref
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, NoReturn, Self

from pydantic import SecretStr

from selfreg_sdk.endpoint import endpoint_id, parse_base_url
from selfreg_sdk.errors import ConfigError, MalformedReply, ProviderError
from selfreg_sdk.payload import encode, replaced
from selfreg_sdk.wire.background import background_loop
from selfreg_sdk.wire.connection import Clock, Timeouts
from selfreg_sdk.wire.exchange import Exchange
from selfreg_sdk.wire.http_errors import reported_error
from selfreg_sdk.wire.json_text import json_object
from selfreg_sdk.wire.pools import Pools, close
from selfreg_sdk.wire.replies import Chunk, Reply, parse_reply
from selfreg_sdk.wire.sse import ChunkReader
from selfreg_sdk.wire.transport import Destination, TransportName, choose

__all__ = ["OPENAI_URL", "Chunk", "Client", "Reply", "Timeouts", "TransportName"]

OPENAI_URL = "https://api.openai.com/v1"

# How long to wait for the connection's end after the last chunk, so that it can be used again.
_SECONDS_AFTER_DONE = 0.1
_PLACEHOLDER_KEY = "none"
_STREAM_FIELDS = ("stream", "stream_options")


class Client:
    """Sends chat completions, synchronously and asynchronously, from any number of threads and event loops.

    The key stays in memory: it is in no repr, error, log or pickle. Connections are kept per event loop and closed
    with it; the synchronous methods share one background loop.

    Args:
        base_url: None means OpenAI.
        api_key: may be absent for servers that ask for none.
        timeouts: see :class:`Timeouts`.
        default_headers: sent with every request, for gateways, in place of those of the same name; treated as secret.
        transport: the library that speaks HTTP: "aiohttp" (fast; ``pip install 'selfreg[fast]'``), "openai" (always
            there), or "auto" for the fastest that is installed.

    Raises:
        ConfigError: base_url is not a plain http(s) URL, the key or a header cannot be sent, or there is no such transport.
    """

    def __init__(
        self,
        *,
        base_url: str | None = None,
        api_key: SecretStr | str | None = None,
        timeouts: Timeouts | None = None,
        default_headers: Mapping[str, str] | None = None,
        transport: TransportName = "auto",
    ) -> None:
        self.base_url = OPENAI_URL if base_url is None else checked_url(base_url)
        self.timeouts = timeouts or Timeouts()
        self._key = _checked_secret("api_key", api_key)
        given = {name: _checked_secret(f"header {name!r}", value) for name, value in (default_headers or {}).items()}
        self._secrets = [text for text in (self._key, *given.values()) if len(text) >= 6]
        self._transport = choose(transport, self.base_url)
        to = Destination(url=self.base_url, headers=self._headers(given), connect=self.timeouts.connect)
        self._pools = Pools(functools.partial(self._transport.open, to))
        weakref.finalize(self, self._pools.close).atexit = False

    @property
    def endpoint(self) -> str:
        """Where requests go, without secrets: the name of this endpoint in keys and records."""
        return endpoint_id(self.base_url)

    @property
    def transport(self) -> str:
        """The library that speaks HTTP: "aiohttp" or "openai"."""
        return self._transport.name

    def revive(self, body: dict[str, Any]) -> Reply:
        """The reply a stored body stands for."""
        return parse_reply(body)

    def __repr__(self) -> str:
        return f"Client(base_url={self.base_url!r}, timeouts={self.timeouts!r}, transport={self.transport!r})"

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
        if "stream" in payload or "stream_options" in payload:
            payload = replaced(payload, {}, without=_STREAM_FIELDS)
        clock = Clock(self.timeouts, deadline)
        try:
            exchange = await self._send(payload, clock, broken=_lost)
            try:
                raw = await exchange.whole()
            finally:
                await exchange.close()
            headers = exchange.response.headers
            value = json_object(raw)
            if value is None:
                raise self._no_json(raw, headers, exchange.response.status)
            if failure := reported_error(value, payload=payload, url=self.base_url):
                raise failure
            return parse_reply(value, request_id=headers.get("x-request-id"))
        except ProviderError as error:
            self._redact(error)
            raise
        finally:
            clock.stop()

    def stream(self, payload: Mapping[str, Any], *, deadline: float | None = None) -> Iterator[Chunk]:
        """Send ``payload`` once and yield the answer in pieces; closing the iterator closes the connection.

        Token counts are always asked for (``stream_options.include_usage``); pass ``stream_options=None`` for a server
        that rejects the field.

        Raises:
            TruncatedStream: the stream ended without a finish_reason for every sample; ``partial`` has the text so far.
            ProviderError: otherwise as :meth:`complete`.
        """
        background = background_loop()
        batches = self._batches(payload, deadline)
        try:
            # A change of thread costs more than a chunk does: all that came in one piece come over together.
            while (batch := background.call(_next(batches))) is not None:
                yield from batch
        finally:
            background.finish(close(batches))

    async def astream(
        self, payload: Mapping[str, Any], *, deadline: float | None = None
    ) -> AsyncGenerator[Chunk, None]:
        """Asynchronous form of :meth:`stream`."""
        batches = self._batches(payload, deadline)
        try:
            async for batch in batches:
                for chunk in batch:
                    yield chunk
        finally:
            await batches.aclose()

    async def _batches(self, payload: Mapping[str, Any], deadline: float | None) -> AsyncGenerator[list[Chunk], None]:
        """The chunks of a stream, those that arrived together in one list."""
        wire = _streaming(payload)
        wanted = payload.get("n")
        reader = ChunkReader(
            n=wanted if isinstance(wanted, int) else 1,
            reported=lambda chunk: reported_error(chunk, payload=wire, url=self.base_url),
        )
        clock = Clock(self.timeouts, deadline)
        try:
            exchange = await self._send(wire, clock, broken=reader.truncated)
            try:
                while piece := await _piece(exchange, reader):
                    for batch in _whole_batches(reader.feed(piece)):
                        yield batch
                for batch in _whole_batches(reader.end()):
                    yield batch
            finally:
                await exchange.close()
        except ProviderError as error:
            self._redact(error)
            raise
        finally:
            clock.stop()

    def close(self) -> None:
        """Close all connections; a later call opens new ones."""
        closings = self._pools.close()
        with contextlib.suppress(RuntimeError):  # inside a running loop: that loop goes on with its part later
            closings.pop(asyncio.get_running_loop(), None)
        for closing in closings.values():
            closing.result(timeout=5)

    async def aclose(self) -> None:
        """Asynchronous form of :meth:`close`."""
        await self._pools.close_here()
        for closing in self._pools.close().values():
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

    async def _send(
        self, payload: Mapping[str, Any], clock: Clock, *, broken: Callable[[str], ProviderError]
    ) -> Exchange:
        if not self._key and self.base_url == OPENAI_URL:
            raise ConfigError(
                "no API key for OpenAI: set OPENAI_API_KEY or pass api_key=; other servers need base_url="
            )
        body = encode(payload)
        pool = await self._pools.here()
        return await Exchange.start(pool, body, clock, payload=payload, url=self.base_url, broken=broken)

    def _no_json(self, raw: bytes, headers: Mapping[str, str], status: int) -> MalformedReply:
        kind = headers.get("content-type", "of no declared type")
        return MalformedReply(
            f"{self.base_url!r} answered with {len(raw)} bytes ({kind}) that are no JSON object: cut off, or not an "
            "OpenAI-compatible endpoint",
            status=status,
            body=raw[:500].decode("utf-8", "replace"),
        )

    def _headers(self, given: dict[str, str]) -> dict[str, str]:
        headers = {"Authorization": f"Bearer {self._key or _PLACEHOLDER_KEY}"}
        if self.base_url == OPENAI_URL:  # nobody else's business
            for name, variable in (("OpenAI-Organization", "OPENAI_ORG_ID"), ("OpenAI-Project", "OPENAI_PROJECT_ID")):
                if value := _checked_secret(variable, os.environ.get(variable)):
                    headers[name] = value
        overridden = {name.lower() for name in given}
        return {name: value for name, value in headers.items() if name.lower() not in overridden} | given

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


def _streaming(payload: Mapping[str, Any]) -> Mapping[str, Any]:
    options = payload.get("stream_options", {})
    if options is None:
        return replaced(payload, {"stream": True}, without=("stream_options",))
    return replaced(payload, {"stream": True, "stream_options": {**options, "include_usage": True}})


async def _piece(exchange: Exchange, reader: ChunkReader) -> bytes:
    try:
        return await exchange.piece(_SECONDS_AFTER_DONE if reader.done else None)
    except ProviderError:
        if reader.done or reader.answered:
            return b""  # the answer is complete; only the connection did not end well
        raise


def _whole_batches(chunks: Iterator[Chunk]) -> Iterator[list[Chunk]]:
    """All chunks in one list, also where an error follows them: then it is raised after they were handed out."""
    batch: list[Chunk] = []
    try:
        for chunk in chunks:
            batch.append(chunk)
    except ProviderError as error:
        failure = error
    else:
        if batch:
            yield batch
        return
    if batch:
        yield batch
    raise failure


def _lost(why: str) -> ProviderError:
    return MalformedReply(f"the reply is incomplete: {why}", status=200)


async def _next(batches: AsyncGenerator[list[Chunk], None]) -> list[Chunk] | None:
    return await anext(batches, None)
