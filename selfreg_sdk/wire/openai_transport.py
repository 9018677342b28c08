"""HTTP through the openai package's raw ``post``, whichever of httpx and httpx2 it brings."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any

import openai

from selfreg_sdk.errors import ConfigError, ProviderError
from selfreg_sdk.wire.tls import http_library, tls_context
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

# As the SDK spells them: it would send a second one beside any other spelling.
_OWN_NAMES = ("Accept", "Authorization", "Content-Type", "OpenAI-Organization", "OpenAI-Project", "User-Agent")


class OpenAITransport:
    """Always installed; the slower one."""

    name = "openai"

    def open(self, to: Destination) -> Pool:
        """A pool of the running event loop."""
        return _Pool(to)


class _Pool:
    def __init__(self, to: Destination) -> None:
        own = {name.lower(): name for name in _OWN_NAMES}
        headers: dict[str, Any] = {own.get(name.lower(), name): value for name, value in to.headers.items()}
        for name in ("OpenAI-Organization", "OpenAI-Project"):
            # The SDK takes these from the environment, and they are nobody else's business.
            headers.setdefault(name, openai.Omit())
        self._to = to
        self._library: Any = http_library()
        self._timeout = openai.Timeout(None, connect=to.connect)
        self._sdk = openai.AsyncOpenAI(
            base_url=to.url,
            api_key="none",  # the headers hold the real one
            max_retries=0,
            default_headers=headers,
            http_client=_http_client(),
        )

    async def post(self, body: bytes) -> Response:
        """See `selfreg_sdk.wire.transport.Pool`."""
        if self._sdk.is_closed():
            raise no_connection(self._to, CLOSED)
        failure: ProviderError
        try:
            return _Open(
                await self._sdk.post(
                    "/chat/completions",
                    cast_to=self._library.Response,
                    content=body,
                    options={"timeout": self._timeout},
                    stream=True,
                    stream_cls=openai.AsyncStream[Any],
                )
            )
        except openai.APIStatusError as error:
            return _Refusal(error.response)
        except openai.APIError as error:
            failure = self._failure(error)
        # Raised outside the handler: what openai raised holds the request with its key, and would hang on as context.
        raise failure

    def _failure(self, error: openai.APIError) -> ProviderError:
        kind = type(error.__cause__).__name__
        if kind == "ConnectTimeout":
            return no_connection_in_time(self._to)
        if kind in ("ConnectError", "ProxyError", "UnsupportedProtocol"):
            return no_connection(self._to, root_cause(error))
        return no_reply(self._to, root_cause(error))

    async def close(self) -> None:
        """See `selfreg_sdk.wire.transport.Pool`."""
        await self._sdk.close()

    def drop(self) -> None:
        """See `selfreg_sdk.wire.transport.Pool`; the sockets close when they are collected."""


def _http_client() -> Any:
    try:
        # The SDK's own default client closes itself from __del__ on whichever loop then runs: never on the right one.
        return openai.DefaultAsyncHttpxClient(verify=tls_context())
    except (ImportError, ValueError) as error:
        raise ConfigError(f"the proxy that the environment names cannot be used: {error}") from None


class _Open:
    """A streaming response of openai's transport."""

    def __init__(self, response: Any) -> None:
        self._response = response
        self._pieces: AsyncGenerator[bytes, None] = response.aiter_bytes()
        self._library: Any = http_library()
        self.status: int = response.status_code
        self.headers: Mapping[str, str] = response.headers

    def ready(self) -> bytes | None:
        return None

    async def piece(self) -> bytes:
        why: str
        try:
            return await anext(self._pieces, b"")
        except self._library.RequestError as error:
            why = root_cause(error)
        raise Broken(why)

    async def close(self) -> None:
        # First the iterators, from the outside in: an abandoned one is finalised at a bad moment.
        await self._pieces.aclose()
        await self._response.aclose()


class _Refusal:
    """The response to an error status, which the SDK has read already."""

    def __init__(self, response: Any) -> None:
        self._body: bytes = response.content
        self.status: int = response.status_code
        self.headers: Mapping[str, str] = response.headers

    def ready(self) -> bytes | None:
        body, self._body = self._body, b""
        return body

    async def piece(self) -> bytes:
        return b""

    async def close(self) -> None:
        pass
