"""Chat models whose calls are read once: before the run starts where that is possible, and inside it at the latest.

LangChain's own methods make the runs, ask the cache and the rate limiter, and stream. What is added here is that a `Call`
travels with the arguments: traces then show what is sent, the cache is keyed on it, and a planning call is a run inside
the run of the answer, whichever way the model is called.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from langchain_core._api import suppress_langchain_beta_warning
from langchain_core.callbacks import (
    AsyncCallbackManager,
    AsyncCallbackManagerForLLMRun,
    CallbackManager,
    CallbackManagerForLLMRun,
    Callbacks,
)
from langchain_core.language_models import LanguageModelInput
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult, LLMResult
from langchain_core.runnables import RunnableConfig
from langchain_core.utils.uuid import uuid7

from selfreg_sdk.langchain.call import CALL, Call
from selfreg_sdk.langchain.effective import cache_identity, from_cache
from selfreg_sdk.langchain.requests import named_config, with_names
from selfreg_sdk.langchain.tracing import Parent

Stop = list[str] | None
Run = CallbackManagerForLLMRun | None
AsyncRun = AsyncCallbackManagerForLLMRun | None


if TYPE_CHECKING:
    _Model = BaseChatModel
else:
    _Model = object  # as a base it would stand before the class whose methods are extended


class Calling(_Model):
    """Put before a class of chat models: carries calls through LangChain's methods. The class says how a call is read."""

    __slots__ = ()

    @abstractmethod
    def _read(self, messages: list[BaseMessage], stop: Stop, kwargs: Mapping[str, Any]) -> Call:
        """The call behind arguments.

        Raises:
            ConfigError: an argument that cannot work.
        """

    def _configured(self, config: RunnableConfig | None) -> RunnableConfig:
        """The config of a call, in whose metadata stands whatever it names, its task for example."""
        return named_config(config)

    # -- the ways in: before the run starts ---------------------------------------------------------------------------

    def invoke(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, *, stop: Stop = None, **kwargs: Any
    ) -> AIMessage:
        """Answer one input; ``config["metadata"]["selfreg_task"]`` names its task."""
        return super().invoke(input, self._configured(config), stop=stop, **kwargs)

    async def ainvoke(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, *, stop: Stop = None, **kwargs: Any
    ) -> AIMessage:
        """`invoke` for asyncio."""
        return await super().ainvoke(input, self._configured(config), stop=stop, **kwargs)

    def generate(
        self,
        messages: list[list[BaseMessage]],
        stop: Stop = None,
        callbacks: Callbacks = None,
        *,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        run_name: str | None = None,
        run_id: UUID | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        """Answer every list of messages; ``metadata`` may name the task, as the metadata of a config does."""
        if len(messages) == 1 and (call := self._begun(messages[0], stop, metadata, kwargs)):
            call.foresee()
            kwargs[CALL] = call
        about: dict[str, Any] = {"tags": tags, "metadata": metadata, "run_name": run_name, "run_id": run_id}
        return super().generate(messages, stop, callbacks, **about, **kwargs)

    async def agenerate(
        self,
        messages: list[list[BaseMessage]],
        stop: Stop = None,
        callbacks: Callbacks = None,
        *,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        run_name: str | None = None,
        run_id: UUID | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        """`generate` for asyncio."""
        if len(messages) == 1 and (call := self._begun(messages[0], stop, metadata, kwargs)):
            await call.aforesee()
            kwargs[CALL] = call
        about: dict[str, Any] = {"tags": tags, "metadata": metadata, "run_name": run_name, "run_id": run_id}
        return await super().agenerate(messages, stop, callbacks, **about, **kwargs)

    def stream(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, *, stop: Stop = None, **kwargs: Any
    ) -> Iterator[AIMessageChunk]:
        """Answer one input in pieces. Where several samples become one answer, it arrives in one piece."""
        config, messages = self._configured(config), self._convert_input(input).to_messages()
        if call := self._begun(messages, stop, config.get("metadata"), kwargs):
            call.foresee()
            kwargs[CALL] = call
            if call.decision is None:
                config = self._nesting(call, config, CallbackManager)
        yield from super().stream(messages, config, stop=stop, **kwargs)

    async def astream(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, *, stop: Stop = None, **kwargs: Any
    ) -> AsyncIterator[AIMessageChunk]:
        """`stream` for asyncio."""
        config, messages = self._configured(config), self._convert_input(input).to_messages()
        if call := self._begun(messages, stop, config.get("metadata"), kwargs):
            await call.aforesee()
            kwargs[CALL] = call
            if call.decision is None:
                config = self._nesting(call, config, AsyncCallbackManager)
        try:
            async with aclosing(cast(Any, super().astream(messages, config, stop=stop, **kwargs))) as chunks:
                async for chunk in chunks:
                    yield chunk
        finally:
            if call:
                await call.aclose()

    def stream_events(self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """As LangChain's; for ``version="v3"`` the call is read here, for others by `stream`."""
        if kwargs.get("version") == "v3":
            config, input = self._configured(config), self._convert_input(input).to_messages()
            if call := self._begun(input, kwargs.get("stop"), config.get("metadata"), _given(kwargs)):
                call.foresee()
                kwargs[CALL] = call
        return super().stream_events(input, config, **kwargs)

    def astream_events(self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """`stream_events` for asyncio."""
        if kwargs.get("version") == "v3":
            return self._astream_v3(input, config, kwargs)
        return super().astream_events(input, config, **kwargs)

    async def _astream_v3(
        self, input: LanguageModelInput, config: RunnableConfig | None, kwargs: dict[str, Any]
    ) -> Any:
        config, messages = self._configured(config), self._convert_input(input).to_messages()
        if call := self._begun(messages, kwargs.get("stop"), config.get("metadata"), _given(kwargs)):
            await call.aforesee()
            kwargs = {**kwargs, CALL: call}
        with suppress_langchain_beta_warning():  # as where LangChain calls it itself; nothing waits in there
            return await super().astream_events(messages, config, **kwargs)

    def _begun(
        self, messages: list[BaseMessage], stop: Stop, metadata: Mapping[str, Any] | None, kwargs: Mapping[str, Any]
    ) -> Call | None:
        """The call, read before its run starts; None where that fails: inside the run it fails again, and traces see it."""
        try:
            return kwargs.get(CALL) or self._read(messages, stop, with_names(metadata, kwargs))
        except Exception:
            return None

    def _nesting(
        self, call: Call, config: RunnableConfig, kind: type[CallbackManager] | type[AsyncCallbackManager]
    ) -> RunnableConfig:
        """Let a stream's plan nest: LangChain makes streams without a manager, so one is configured here and used there too."""
        manager = kind.configure(
            config.get("callbacks"),
            self.callbacks,
            self.verbose,
            config.get("tags"),
            self.tags,
            config.get("metadata"),
            self.metadata,
        )
        run_id = config.get("run_id") or uuid7()
        call.nest(Parent.of(manager, run_id))
        return {**config, "callbacks": manager, "run_id": run_id}

    # -- inside the run: decide, then ask LangChain's cache, then answer ------------------------------------------------

    def _generate_with_cache(
        self, messages: list[BaseMessage], stop: Stop = None, run_manager: Run = None, **kwargs: Any
    ) -> ChatResult:
        call = self._call(messages, stop, run_manager, kwargs)
        call.decide()
        answer = super()._generate_with_cache(messages, stop, run_manager, **{**kwargs, CALL: call})
        return answer if call.answered else from_cache(answer, call)

    async def _agenerate_with_cache(
        self, messages: list[BaseMessage], stop: Stop = None, run_manager: AsyncRun = None, **kwargs: Any
    ) -> ChatResult:
        call = self._call(messages, stop, run_manager, kwargs)
        await call.adecide()
        try:
            answer = await super()._agenerate_with_cache(messages, stop, run_manager, **{**kwargs, CALL: call})
        finally:
            await call.aclose()
        return answer if call.answered else from_cache(answer, call)

    def _get_llm_string(self, stop: Stop = None, **kwargs: Any) -> str:
        """The key of LangChain's response cache: what is sent, see `cache_identity`."""
        call = kwargs.pop(CALL, None)
        if call is None:  # without messages nobody knows the task: all that may decide is the key
            return super()._get_llm_string(stop, **kwargs)
        return cache_identity(call, output_version=self.output_version)

    def _generate(
        self, messages: list[BaseMessage], stop: Stop = None, run_manager: Run = None, **kwargs: Any
    ) -> ChatResult:
        return self._call(messages, stop, run_manager, kwargs).complete()

    async def _agenerate(
        self, messages: list[BaseMessage], stop: Stop = None, run_manager: AsyncRun = None, **kwargs: Any
    ) -> ChatResult:
        return await self._call(messages, stop, run_manager, kwargs).acomplete()

    def _stream(
        self, messages: list[BaseMessage], stop: Stop = None, run_manager: Run = None, **kwargs: Any
    ) -> Iterator[ChatGenerationChunk]:
        yield from self._call(messages, stop, run_manager, kwargs).stream()

    def _astream(
        self, messages: list[BaseMessage], stop: Stop = None, run_manager: AsyncRun = None, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        return self._call(messages, stop, run_manager, kwargs).astream()

    def _call(
        self, messages: list[BaseMessage], stop: Stop, manager: Run | AsyncRun, kwargs: Mapping[str, Any]
    ) -> Call:
        """The call inside its run, read again only where LangChain rewrote its messages."""
        call: Call | None = kwargs.get(CALL)
        if call is None or not call.about(messages):
            arguments = {name: value for name, value in kwargs.items() if name != CALL}
            call = self._read(messages, stop, with_names(manager.metadata if manager else None, arguments))
        if manager is not None:
            call.nest(Parent.of(manager))
        return call


def _given(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a model call among those of `stream_events`."""
    return {name: value for name, value in kwargs.items() if name not in ("version", "stop")}
