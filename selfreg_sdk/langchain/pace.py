"""LangChain's rate limiters, for calls that LangChain does not see."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing
from typing import Any, Generic, TypeVar, cast

from langchain_core.rate_limiters import BaseRateLimiter

from selfreg_sdk.channel import Answer, Channel, Piece

A = TypeVar("A", bound=Answer)
P = TypeVar("P", bound=Piece)


class Paced(Generic[A, P]):
    """A channel whose every request waits for a rate limiter first.

    Args:
        channel: what sends.
        limiter: says when.
    """

    def __init__(self, channel: Channel[A, P], limiter: BaseRateLimiter) -> None:
        self._channel = channel
        self._limiter = limiter

    @property
    def endpoint(self) -> str:
        """Where requests go."""
        return self._channel.endpoint

    def complete(self, payload: Mapping[str, Any], *, deadline: float | None = None) -> A:
        """One request, one answer."""
        self._limiter.acquire(blocking=True)
        return self._channel.complete(payload, deadline=deadline)

    async def acomplete(self, payload: Mapping[str, Any], *, deadline: float | None = None) -> A:
        """One request, one answer."""
        await self._limiter.aacquire(blocking=True)
        return await self._channel.acomplete(payload, deadline=deadline)

    def stream(self, payload: Mapping[str, Any], *, deadline: float | None = None) -> Iterator[P]:
        """One request, its answer in pieces."""
        self._limiter.acquire(blocking=True)
        yield from self._channel.stream(payload, deadline=deadline)

    async def astream(self, payload: Mapping[str, Any], *, deadline: float | None = None) -> AsyncGenerator[P, None]:
        """One request, its answer in pieces."""
        await self._limiter.aacquire(blocking=True)
        async with aclosing(cast(Any, self._channel.astream(payload, deadline=deadline))) as pieces:
            async for piece in pieces:
                yield piece

    def revive(self, body: dict[str, Any]) -> A:
        """The answer a stored body stands for."""
        return self._channel.revive(body)
