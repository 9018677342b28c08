"""One call, one attempt: switches off the retries that provider SDKs make on their own.

Hidden retries are attempts that no ledger sees, and a stream without usage is charged at its worst case.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Iterable
from typing import Any

from langchain_core.language_models.chat_models import BaseChatModel

_CACHED = ("_serialized", "_client_params")


def single_attempt(model: BaseChatModel) -> BaseChatModel:
    """A copy whose SDK does not retry on its own and reports usage in streams, unless its owner said not to.

    A client that was built with the model keeps its own retry count, so the copy gets one without; both share connections.
    """
    updates: dict[str, Any] = {}
    for name in ("max_retries", "retries"):
        if name in type(model).model_fields:
            updates[name] = 0
    if "stream_usage" in type(model).model_fields and "stream_usage" not in model.model_fields_set:
        updates["stream_usage"] = True
    updates |= _clients(model)
    if not updates:
        return model
    made = model.model_copy(update=updates)
    for name in _CACHED:
        made.__dict__.pop(name, None)
    for name in ("_client", "_async_client"):  # Anthropic's, built on first use; copies of the copy are to share them
        if (client := _patient(getattr(type(model), name, None) and getattr(model, name))) is not None:
            made.__dict__[name] = client
    return made


def _clients(model: Any) -> dict[str, Any]:
    """The clients of the SDKs, each without its retries, under the fields that hold them."""
    found: dict[str, Any] = {}
    for root, leaf in (("root_client", "client"), ("root_async_client", "async_client")):
        if (client := _patient(getattr(model, root, None))) is not None:  # OpenAI's
            found |= {root: client, leaf: client.chat.completions}
        # Google's async client is built on first use, which a field would hide.
        held = None if isinstance(getattr(type(model), leaf, None), property) else getattr(model, leaf, None)
        if leaf not in found and (client := _patient(getattr(held, "_client", None))) is not None:  # Groq's
            found[leaf] = client.chat.completions
    client = getattr(model, "client", None)
    if type(client).__module__.startswith("google.ai.generativelanguage"):
        found |= {"client": _GoogleOnce(client), "async_client_running": _GoogleAsyncOnce(model)}
    if type(client).__module__.startswith("botocore."):
        found["client"] = _boto_once(client)
    return found


def _patient(client: Any) -> Any:
    """A client of the SDKs that OpenAI, Anthropic and Groq share the generator of, without retries; None for others."""
    return client.with_options(max_retries=0) if hasattr(client, "with_options") else None


class _GoogleOnce:
    """Google's client retries 503 below the integration's own retries, unless each call says not to."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def generate_content(self, **given: Any) -> Any:
        return self._client.generate_content(**given, retry=None)

    def stream_generate_content(self, **given: Any) -> Any:
        return self._client.stream_generate_content(**given, retry=None)


class _GoogleAsyncOnce:
    """The same for the async client, which the model builds inside an event loop; over REST it has none that works."""

    def __init__(self, model: Any) -> None:
        self._model = model

    async def generate_content(self, **given: Any) -> Any:
        if self._model.transport == "rest":
            return await asyncio.to_thread(self._model.client.generate_content, **given, retry=None)
        return await self._model.async_client.generate_content(**given, retry=None)

    async def stream_generate_content(self, **given: Any) -> Any:
        if self._model.transport == "rest":
            return _threaded(await asyncio.to_thread(self._model.client.stream_generate_content, **given, retry=None))
        return await self._model.async_client.stream_generate_content(**given, retry=None)


async def _threaded(parts: Iterable[Any]) -> AsyncIterator[Any]:
    """What an iterator that blocks gives, without blocking the event loop."""
    end, source = object(), iter(parts)
    while (part := await asyncio.to_thread(next, source, end)) is not end:
        yield part


def _boto_once(client: Any) -> Any:
    """A copy of an AWS client whose endpoint asks nobody whether to retry; the original keeps its handlers."""
    made = object.__new__(type(client))  # copy.copy asks for attributes that the client looks up in itself
    made.__dict__.update(client.__dict__)
    endpoint = copy.copy(client._endpoint)
    endpoint._event_emitter = copy.copy(endpoint._event_emitter)
    service = client.meta.service_model.service_id.hyphenize()
    endpoint._event_emitter.unregister(f"needs-retry.{service}", unique_id=f"retry-config-{service}")
    made._endpoint = endpoint
    return made
