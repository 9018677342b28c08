"""HTTP/1.1 through aiohttp, several times cheaper per request than through the openai package.

Everything a user can notice is set to what openai's transport does: trusted certificates, proxies of the environment,
redirects, no cookies.
"""

from __future__ import annotations

import asyncio
import io
import socket
import time
from collections.abc import Mapping
from typing import Self
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from aiohttp.abc import ResolveResult
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from selfreg_sdk import __version__
from selfreg_sdk.errors import ConfigError, ProviderError
from selfreg_sdk.wire.tls import tls_context
from selfreg_sdk.wire.transport import (
    CLOSED,
    Broken,
    Destination,
    Pool,
    Response,
    no_connection,
    no_connection_in_time,
    no_reply,
    root_cause,
)

if not hasattr(aiohttp, "ConnectionTimeoutError"):
    raise ImportError(f"aiohttp {aiohttp.__version__} is too old, 3.10 is the oldest that works")

_MOST_CONNECTIONS = 1000
_MOST_REDIRECTS = 20
_MOST_HEADER_BYTES = 65_536
# Less than the five seconds after which common servers close: then a request never meets a connection that is going away.
_SECONDS_KEPT = 4.0
# An event loop that was blocked for longer may not have noticed yet that the server closed a connection.
_SECONDS_UNSEEN = 0.05
# Above this size aiohttp wants to take the body in pieces, so that sending it does not hold up the event loop.
_WHOLE_BYTES = 2**20 - 1


class AiohttpTransport:
    """The fast one; an optional package."""

    name = "aiohttp"

    def __init__(self, *, proxy: str | None) -> None:
        self._proxy = proxy

    @classmethod
    def to(cls, url: str) -> Self:
        """The transport for requests to ``url``.

        Raises:
            ConfigError: the environment asks for a proxy that aiohttp does not speak to.
        """
        proxy = environment_proxy(url)
        if proxy is not None and urlsplit(proxy).scheme not in ("http", "https"):
            raise ConfigError(
                f"the environment asks for a {urlsplit(proxy).scheme!r} proxy, which transport='aiohttp' does not "
                "know: use transport='openai', or set NO_PROXY"
            )
        return cls(proxy=proxy)

    def open(self, to: Destination) -> Pool:
        """A pool of the running event loop."""
        return _Pool(to, proxy=self._proxy)


def environment_proxy(url: str) -> str | None:
    """The proxy that the environment names for ``url``, which may hold a password; None for none."""
    parts = urlsplit(url)
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or proxy_bypass(parts.netloc):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


class _Resolver(aiohttp.ThreadedResolver):
    """The system's names, within the time to connect."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        async with asyncio.timeout(self._seconds):
            return await super().resolve(host, port, family)


class _Pool:
    def __init__(self, to: Destination, *, proxy: str | None) -> None:
        self._to = to
        self._proxy = proxy
        self._url = URL(f"{to.url}/chat/completions")
        self._looked = time.monotonic()  # when the loop last looked at its sockets, as far as we know
        usual = {
            "Accept": "application/json",
            "Content-Type": "application/json",
            "User-Agent": f"selfreg/{__version__}",
        }
        given = {name.lower() for name in to.headers}
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=_MOST_CONNECTIONS,
                ssl=tls_context(),
                keepalive_timeout=_SECONDS_KEPT,
                resolver=_Resolver(to.connect),
            ),
            headers={**{name: value for name, value in usual.items() if name.lower() not in given}, **to.headers},
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=to.connect, ceil_threshold=float("inf")),
            max_line_size=_MOST_HEADER_BYTES,
            max_field_size=_MOST_HEADER_BYTES,
        )

    async def post(self, body: bytes) -> Response:
        """See `selfreg_sdk.wire.transport.Pool`."""
        if time.monotonic() - self._looked > _SECONDS_UNSEEN:
            # In the first turn the loop looks at its sockets, in the second it hears which of them were closed.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        if self._session.closed:
            raise no_connection(self._to, CLOSED)
        failure: ProviderError
        try:
            # aiohttp repeats no POST by itself, and a proxy is given here since trust_env=True would read a file each time.
            reply = await self._session.post(
                self._url,
                # Ready-made: aiohttp would search its list of kinds of bodies.
                data=aiohttp.BytesPayload(body) if len(body) <= _WHOLE_BYTES else io.BytesIO(body),
                proxy=self._proxy,
                max_redirects=_MOST_REDIRECTS,
            )
            self._looked = time.monotonic()
            return _Response(reply)
        except aiohttp.ConnectionTimeoutError:
            failure = no_connection_in_time(self._to)
        except aiohttp.ClientHttpProxyError as error:
            failure = no_connection(self._to, f"the proxy answered with status {error.status}")
        except aiohttp.ClientConnectorError as error:
            failure = no_connection(self._to, root_cause(error))
        except (aiohttp.ClientError, HttpProcessingError, OSError) as error:
            failure = no_reply(self._to, root_cause(error))
        # Raised outside the handler: what aiohttp raised may hold the request with its key, and would hang on as context.
        raise failure

    async def close(self) -> None:
        """See `selfreg_sdk.wire.transport.Pool`."""
        await self._session.close()

    def drop(self) -> None:
        """See `selfreg_sdk.wire.transport.Pool`."""
        closing = self._session.close()
        try:
            closing.send(None)
        except (StopIteration, RuntimeError):
            return
        closing.close()  # it wants to wait for the end of TLS, and nobody would


class _Response:
    __slots__ = ("_content", "_reply", "headers", "status")

    def __init__(self, reply: aiohttp.ClientResponse) -> None:
        self._reply = reply
        self._content = reply.content
        self.status = reply.status
        self.headers: Mapping[str, str] = reply.headers

    def ready(self) -> bytes | None:
        content = self._content
        if content.exception() is not None:
            return self._arrived()
        piece = content.read_nowait()
        return piece if piece or content.at_eof() else None

    async def piece(self) -> bytes:
        why: str
        try:
            return await self._content.readany()
        except (aiohttp.ClientError, HttpProcessingError, OSError) as error:
            why = root_cause(error)
        raise Broken(why)

    async def close(self) -> None:
        if not self._content.at_eof():  # else the connection is back in the pool
            self._reply.close()

    def _arrived(self) -> bytes | None:
        """What came before the connection broke: aiohttp keeps it, but hands out only the error."""
        buffer = getattr(self._content, "_buffer", None)
        if not buffer:
            return None
        rest = b"".join(buffer)
        buffer.clear()
        return rest
