"""The seam between the client and the library that speaks HTTP, and the choice of that library.

A transport opens a pool of connections in each event loop; a pool posts bytes; a response hands out bytes. Whatever a
library raises stays inside its transport: its exceptions hold the request, and with it the key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from selfreg_sdk.errors import ConfigError, ConnectFailed, MalformedReply, ProviderTimeout

TransportName = Literal["auto", "openai", "aiohttp"]

CLOSED = "the client was closed while the call began"


@dataclass(frozen=True, kw_only=True)
class Destination:
    """Where requests go, and what every one of them carries.

    Attributes:
        url: requests are posted to ``url``/chat/completions.
        headers: secret; no name occurs twice, whatever its case.
        connect: seconds to make a connection, each for name look-up and for connecting with TLS.
    """

    url: str
    headers: Mapping[str, str] = field(repr=False)
    connect: float


class Response(Protocol):
    """An HTTP response whose headers have arrived; redirects are followed already."""

    @property
    def status(self) -> int:
        """The HTTP status."""

    @property
    def headers(self) -> Mapping[str, str]:
        """The HTTP headers; names in any case."""

    def ready(self) -> bytes | None:
        """What has arrived of the decompressed body and was not handed out; empty at its end, None to wait for more."""

    async def piece(self) -> bytes:
        """Wait for more of the body; empty at its end.

        Raises:
            Broken: the connection ended before the body did.
        """

    async def close(self) -> None:
        """Give the connection back, or close it where the body was not read to its end."""


class Pool(Protocol):
    """The connections of one event loop to one destination."""

    async def post(self, body: bytes) -> Response:
        """Send ``body`` once, whatever happens to the connection, and return the response, of any status.

        Raises:
            ConnectFailed, ProviderTimeout: there is no connection; nothing was sent.
            MalformedReply: the connection ended without a reply, or the reply is no HTTP; it may have been billed.
        """

    async def close(self) -> None:
        """Close all connections."""

    def drop(self) -> None:
        """Close what can be closed without the loop, which has stopped."""


class Transport(Protocol):
    """One library that speaks HTTP."""

    @property
    def name(self) -> str:
        """As it is asked for."""

    def open(self, to: Destination) -> Pool:
        """Connections of the running event loop; makes none yet."""


class Broken(Exception):
    """The connection ended in the middle of a body; says how."""


def choose(name: TransportName, url: str) -> Transport:
    """The transport called ``name``; "auto" is aiohttp where it is installed and can reach ``url``, else openai.

    Raises:
        ConfigError: there is no such transport, or it is not installed, or the environment asks for a proxy that it
            does not speak to.
    """
    if name not in ("auto", "openai", "aiohttp"):
        raise ConfigError(f"transport={name!r}: expected 'auto', 'openai' or 'aiohttp'")
    if name != "openai":
        try:
            from selfreg_sdk.wire.aiohttp_transport import AiohttpTransport

            return AiohttpTransport.to(url)
        except ImportError as error:
            if name == "aiohttp":
                raise ConfigError(
                    f"transport='aiohttp' is not installed ({error}): pip install 'selfreg[fast]', or use "
                    "transport='openai'"
                ) from None
        except ConfigError:
            if name == "aiohttp":
                raise
    from selfreg_sdk.wire.openai_transport import OpenAITransport

    return OpenAITransport()


def no_connection_in_time(to: Destination) -> ProviderTimeout:
    """The error for a server that does not answer the attempt to connect."""
    return ProviderTimeout(
        f"no connection to {to.url!r} within {to.connect:g} s; check base_url and the network", billed="no"
    )


def no_connection(to: Destination, why: str) -> ConnectFailed:
    """The error for a connection that could not be made, so that nothing was sent."""
    hint = ""
    if "SSL" in why or "ertificate" in why:
        hint = ", that it speaks https, and that its certificate is trusted (SSL_CERT_FILE names a CA bundle)"
    return ConnectFailed(
        f"cannot connect to {to.url!r}: {why}. Check that the server is running and base_url is right{hint}."
    )


def no_reply(to: Destination, why: str) -> MalformedReply:
    """The error for a connection that ended, or fell silent in HTTP, once the request may have been sent."""
    return MalformedReply(f"the connection to {to.url!r} broke before a reply came ({why})")


def root_cause(error: BaseException) -> str:
    """The innermost reason of a library's exception, in a few words."""
    while (deeper := error.__cause__ or error.__context__) is not None:
        error = deeper
    if isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"[:200]
