"""A LangChain model as a channel: one attempt is one call of its ``_generate`` family.

Not of ``invoke``: that would start a second LLM run inside ours, and every usage counter would count twice.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import BaseMessage, convert_to_messages

from selfreg_sdk.adapters import Adapter
from selfreg_sdk.errors import ProviderTimeout
from selfreg_sdk.langchain.identity import inner_endpoint as inner_endpoint
from selfreg_sdk.langchain.identity import inner_model_id as inner_model_id
from selfreg_sdk.langchain.inner_answers import InnerAnswer as InnerAnswer
from selfreg_sdk.langchain.inner_answers import InnerPiece as InnerPiece
from selfreg_sdk.langchain.inner_answers import Reading, pieces_of
from selfreg_sdk.langchain.inner_errors import DECODING, typed_errors


class InnerChannel:
    """Sends one request's messages through a LangChain model.

    Args:
        model: the inner model, never changed; or its `Adapter`, which remembers what it made for earlier requests.
        messages: of this request; None takes them from the payload, as a planner's are.
        kwargs: what the caller passed along, tools for example.
        endpoint: where its requests go, if that is known already.
    """

    def __init__(
        self,
        model: BaseChatModel | Adapter,
        messages: Sequence[BaseMessage] | None = None,
        *,
        kwargs: Mapping[str, Any] | None = None,
        endpoint: str | None = None,
    ) -> None:
        self._adapter = model if isinstance(model, Adapter) else Adapter(model)
        self._messages = messages
        self._kwargs = kwargs or {}
        self._endpoint = endpoint

    @property
    def endpoint(self) -> str:
        """Where the inner model's requests go."""
        return self._endpoint or inner_endpoint(self._adapter.model)

    def complete(self, payload: Mapping[str, Any], *, deadline: float | None = None) -> InnerAnswer:
        """One call of ``_generate``."""
        with self._typed(payload):
            model, messages, kwargs = self._prepared(payload, deadline)
            return self._answer(model._generate(messages, **kwargs))

    async def acomplete(self, payload: Mapping[str, Any], *, deadline: float | None = None) -> InnerAnswer:
        """One call of ``_agenerate``."""
        with self._typed(payload):
            model, messages, kwargs = self._prepared(payload, deadline)
            return self._answer(await model._agenerate(messages, **kwargs))

    def stream(self, payload: Mapping[str, Any], *, deadline: float | None = None) -> Iterator[InnerPiece]:
        """One call of ``_stream``; of ``_generate`` where the model does not stream."""
        reading = self._reading()
        with self._typed(payload, reading):
            model, messages, kwargs = self._prepared(payload, deadline)
            if not _streams(model, kwargs):
                yield from pieces_of(self._answer(model._generate(messages, **kwargs)))
                return
            for chunk in model._stream(messages, **kwargs):
                yield reading.read(chunk)
        reading.check()

    async def astream(
        self, payload: Mapping[str, Any], *, deadline: float | None = None
    ) -> AsyncGenerator[InnerPiece, None]:
        """One call of ``_astream``; of ``_agenerate`` where the model does not stream."""
        reading = self._reading()
        with self._typed(payload, reading):
            model, messages, kwargs = self._prepared(payload, deadline)
            if not _streams(model, kwargs):
                for piece in pieces_of(self._answer(await model._agenerate(messages, **kwargs))):
                    yield piece
                return
            async for chunk in model._astream(messages, **kwargs):
                yield reading.read(chunk)
        reading.check()

    def identity(self, payload: Mapping[str, Any]) -> str:
        """What LangChain keys its response cache of the inner model with, decoding parameters in place."""
        model, _, kwargs = self._prepared(payload, None)
        return model._get_llm_string(**kwargs)

    def revive(self, body: dict[str, Any]) -> InnerAnswer:
        """The answer a stored body stands for."""
        return InnerAnswer.of_body(body)

    def _prepared(
        self, payload: Mapping[str, Any], deadline: float | None
    ) -> tuple[BaseChatModel, list[BaseMessage], dict[str, Any]]:
        if deadline is not None and time.monotonic() >= deadline:
            raise ProviderTimeout("the deadline had passed before the request was sent", billed="no")
        params = {name: value for name, value in payload.items() if name in DECODING}
        model, kwargs = self._adapter.fit(params, self._kwargs)
        messages = convert_to_messages(payload["messages"]) if self._messages is None else list(self._messages)
        return model, messages, kwargs

    def _answer(self, result: Any) -> InnerAnswer:
        return InnerAnswer.of_result(result, tells_end=self._adapter.tells_end)

    def _reading(self) -> Reading:
        return Reading(tells_end=self._adapter.tells_end, adds_up=self._adapter.usage_adds_up)

    def _typed(self, payload: Mapping[str, Any], reading: Reading | None = None) -> AbstractContextManager[None]:
        return typed_errors(payload, self._adapter.names, reading)


def _streams(model: BaseChatModel, kwargs: Mapping[str, Any]) -> bool:
    """Whether a call can be streamed: the integration has to have it, and its owner may have switched it off."""
    if getattr(type(model), "_stream", None) is BaseChatModel._stream and (
        getattr(type(model), "_astream", None) is BaseChatModel._astream
    ):
        return False
    off = getattr(model, "disable_streaming", False)
    return not (off is True or (off == "tool_calling" and kwargs.get("tools")))
