"""How one attempt reaches a provider: the seam between spending (above) and transport (below).

The lean client is a channel, and so is any LangChain model; `selfreg_sdk.calls` knows neither.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from selfreg_sdk.usage import Usage


class Answer(Protocol):
    """What one attempt brings back."""

    @property
    def body(self) -> dict[str, Any]:
        """The reply as JSON, for the cache."""

    @property
    def usage(self) -> Usage | None:
        """Tokens as the provider counted them, None if it did not say."""

    @property
    def finish_reasons(self) -> tuple[str, ...]:
        """One per sample."""

    @property
    def texts(self) -> Sequence[str | None]:
        """One per sample; None where it has none."""


class Piece(Protocol):
    """One chunk of a streamed answer."""

    @property
    def usage(self) -> Usage | None:
        """Set on the chunk that carries the token counts."""

    @property
    def finished(self) -> bool:
        """Whether a sample ends with this chunk."""


A_co = TypeVar("A_co", bound=Answer, covariant=True)
P_co = TypeVar("P_co", bound=Piece, covariant=True)


class Channel(Protocol[A_co, P_co]):
    """Sends one request per call, never retries.

    ``deadline`` is a time of `time.monotonic` by which the attempt ends, with an error if need be. Failures are raised as
    `selfreg_sdk.errors.ProviderError`, which tells whether to retry and whether the provider may have billed.
    """

    @property
    def endpoint(self) -> str:
        """Where requests go, without secrets."""

    def complete(self, payload: Mapping[str, Any], *, deadline: float | None = None) -> A_co:
        """One request, one answer."""

    async def acomplete(self, payload: Mapping[str, Any], *, deadline: float | None = None) -> A_co:
        """One request, one answer."""

    def stream(self, payload: Mapping[str, Any], *, deadline: float | None = None) -> Iterator[P_co]:
        """One request, its answer in pieces."""

    def astream(self, payload: Mapping[str, Any], *, deadline: float | None = None) -> AsyncIterator[P_co]:
        """One request, its answer in pieces."""

    def revive(self, body: dict[str, Any]) -> A_co:
        """The answer a stored body stands for."""
