"""A LangChain model as a channel: one attempt is one call of its ``_generate`` family.

Not of ``invoke``: that would start a second LLM run inside ours, and every usage counter would count twice.
"""

from __future__ import annotations

import re
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    convert_to_messages,
    message_to_dict,
    messages_from_dict,
)
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

from policies import FIELDS
from selfreg_sdk.adapters import with_params
from selfreg_sdk.errors import (
    ConnectFailed,
    MalformedReply,
    ParameterRejected,
    ProviderError,
    ProviderTimeout,
    SelfregError,
    TruncatedStream,
)
from selfreg_sdk.usage import Usage
from selfreg_sdk.wire.http_errors import status_error

_DECODING = frozenset(FIELDS) | {"max_completion_tokens"}

_UNEXPECTED = re.compile(r"unexpected keyword argument '(\w+)'")
_NOT_CONNECTED = frozenset(
    {"ConnectError", "ConnectTimeout", "ProxyError", "NewConnectionError", "ConnectionRefusedError"}
)
_BROKEN_OFF = frozenset(
    {"RemoteProtocolError", "ReadError", "ProtocolError", "ServerDisconnectedError", "JSONDecodeError"}
)


@dataclass(frozen=True, kw_only=True)
class InnerAnswer:
    """What an inner model's `_generate` brought back."""

    result: ChatResult

    @property
    def usage(self) -> Usage | None:
        """Tokens over all samples: integrations put the total on the first message, ChatOpenAI on each."""
        return next((usage for item in self.result.generations if (usage := message_usage(item.message))), None)

    @property
    def finish_reasons(self) -> tuple[str, ...]:
        """As the integration names them; "stop" where it says nothing and the answer came in one piece."""
        return tuple(_finish_reason(item) or "stop" for item in self.result.generations)

    @property
    def texts(self) -> tuple[str | None, ...]:
        """Text of every sample."""
        return tuple(str(item.message.text) or None for item in self.result.generations)

    @property
    def body(self) -> dict[str, Any]:
        """JSON form: each message as LangChain writes it."""
        return {
            "choices": [
                {"finish_reason": reason, "message": message_to_dict(item.message)}
                for item, reason in zip(self.result.generations, self.finish_reasons, strict=True)
            ]
        }


@dataclass(frozen=True, kw_only=True)
class InnerPiece:
    """One chunk of an inner model's stream."""

    chunk: ChatGenerationChunk

    @property
    def usage(self) -> Usage | None:
        """Token counts, on the chunk that carries them."""
        return message_usage(self.chunk.message)

    @property
    def finished(self) -> bool:
        """Whether the integration says that the answer ends here."""
        return _finish_reason(self.chunk) is not None


class InnerChannel:
    """Sends one request's messages through a LangChain model.

    Args:
        model: the inner model; never changed.
        messages: of this request; None takes them from the payload, as a planner's are.
        kwargs: what the caller passed along, tools for example.
    """

    def __init__(
        self,
        model: BaseChatModel,
        messages: Sequence[BaseMessage] | None = None,
        *,
        kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self._model = model
        self._messages = messages
        self._kwargs = dict(kwargs or {})

    @property
    def endpoint(self) -> str:
        """Class and base URL of the inner model."""
        return inner_endpoint(self._model)

    def complete(self, payload: Mapping[str, Any], *, deadline: float | None = None) -> InnerAnswer:
        """One call of ``_generate``."""
        model, messages, kwargs = self._prepared(payload, deadline)
        with _typed_errors(payload):
            return _checked(model._generate(messages, **kwargs))

    async def acomplete(self, payload: Mapping[str, Any], *, deadline: float | None = None) -> InnerAnswer:
        """One call of ``_agenerate``."""
        model, messages, kwargs = self._prepared(payload, deadline)
        with _typed_errors(payload):
            return _checked(await model._agenerate(messages, **kwargs))

    def stream(self, payload: Mapping[str, Any], *, deadline: float | None = None) -> Iterator[InnerPiece]:
        """One call of ``_stream``."""
        model, messages, kwargs = self._prepared(payload, deadline)
        complete = _Completeness()
        with _typed_errors(payload, complete):
            for chunk in model._stream(messages, **kwargs):
                complete.see(chunk)
                yield InnerPiece(chunk=chunk)
        complete.check()

    async def astream(
        self, payload: Mapping[str, Any], *, deadline: float | None = None
    ) -> AsyncGenerator[InnerPiece, None]:
        """One call of ``_astream``."""
        model, messages, kwargs = self._prepared(payload, deadline)
        complete = _Completeness()
        with _typed_errors(payload, complete):
            async for chunk in model._astream(messages, **kwargs):
                complete.see(chunk)
                yield InnerPiece(chunk=chunk)
        complete.check()

    def revive(self, body: dict[str, Any]) -> InnerAnswer:
        """The answer a stored body stands for."""
        messages = messages_from_dict([choice["message"] for choice in body["choices"]])
        generations = [
            ChatGeneration(message=message, generation_info={"finish_reason": choice["finish_reason"]})
            for message, choice in zip(messages, body["choices"], strict=True)
        ]
        return InnerAnswer(result=ChatResult(generations=generations))

    def _prepared(
        self, payload: Mapping[str, Any], deadline: float | None
    ) -> tuple[BaseChatModel, list[BaseMessage], dict[str, Any]]:
        if deadline is not None and time.monotonic() >= deadline:
            raise ProviderTimeout("the deadline had passed before the request was sent", billed="no")
        params = {name: value for name, value in payload.items() if name in _DECODING}
        stop = params.pop("stop", None)  # the one parameter every model takes as an argument
        model, kwargs = with_params(self._model, params)
        messages = convert_to_messages(payload["messages"]) if self._messages is None else list(self._messages)
        if beside := kwargs.pop("extra_body", None):
            # As an argument it replaces the model's own, so that and the caller's are kept beside ours.
            theirs = self._kwargs.get("extra_body") or getattr(model, "extra_body", None) or {}
            kwargs["extra_body"] = {**theirs, **beside}
        return model, messages, {**self._kwargs, **kwargs, "stop": stop}


class _Completeness:
    """Tells a stream that ended from one that was cut: openai and LangChain pass over an early close in silence."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._finished = False

    def see(self, chunk: ChatGenerationChunk) -> None:
        self._text.append(str(chunk.message.text))
        last = isinstance(chunk.message, AIMessageChunk) and chunk.message.chunk_position == "last"
        counted = message_usage(chunk.message) is not None  # sent last by every provider that sends it
        self._finished = self._finished or last or counted or _finish_reason(chunk) is not None

    def check(self) -> None:
        if not self._finished:
            raise self.truncated("ended without a finish_reason")

    def truncated(self, how: str) -> TruncatedStream:
        return TruncatedStream(f"the inner model's stream {how}", partial="".join(self._text))


def message_usage(message: BaseMessage) -> Usage | None:
    """The token counts LangChain keeps on a message, None if there are none."""
    found = message.usage_metadata if isinstance(message, AIMessage) else None
    if not found:
        return None
    return Usage(
        prompt_tokens=found["input_tokens"],
        completion_tokens=found["output_tokens"],
        reasoning_tokens=found.get("output_token_details", {}).get("reasoning", 0),
        cached_tokens=found.get("input_token_details", {}).get("cache_read", 0),
    )


def inner_model_id(model: BaseChatModel) -> str:
    """The id of an inner model, under whichever field its integration keeps it."""
    names = ("model_name", "model", "model_id", "deployment_name")
    return next((found for name in names if isinstance(found := getattr(model, name, None), str)), type(model).__name__)


def inner_endpoint(model: BaseChatModel) -> str:
    """A name for where an inner model's requests go: learned capabilities belong to it."""
    base = next(
        (url for name in ("openai_api_base", "base_url") if isinstance(url := getattr(model, name, None), str)), ""
    )
    return base if "://" in base else type(model).__name__


def _finish_reason(item: ChatGeneration) -> str | None:
    """Where the integrations put it; Anthropic calls it stop_reason."""
    places = (item.generation_info or {}, item.message.response_metadata)
    for place in places:
        for name in ("finish_reason", "stop_reason", "done_reason"):
            if isinstance(reason := place.get(name), str) and reason:
                return reason
    return None


def _checked(result: ChatResult) -> InnerAnswer:
    if not result.generations:
        raise MalformedReply("the inner model returned no generation")
    return InnerAnswer(result=result)


@contextmanager
def _typed_errors(payload: Mapping[str, Any], stream: _Completeness | None = None) -> Iterator[None]:
    """Turn the provider SDKs' exceptions into ours; they agree on carrying a status and a response."""
    try:
        yield
    except SelfregError:
        raise
    except Exception as exc:
        raise _typed(exc, payload, stream) from exc


def _typed(exc: Exception, payload: Mapping[str, Any], stream: _Completeness | None) -> Exception:
    response = getattr(exc, "response", None)
    status = getattr(exc, "status_code", None) or getattr(response, "status_code", None)
    if isinstance(status, int) and status >= 400:
        headers = getattr(response, "headers", None) or {}
        text = getattr(response, "text", None)
        return status_error(
            status, headers, text if isinstance(text, str) else str(exc), payload=payload, url="the model"
        )
    refused = _UNEXPECTED.search(str(exc)) if isinstance(exc, TypeError) else None
    if refused is not None and refused[1] in payload:
        return ParameterRejected(f"the inner model takes no argument {refused[1]!r}", param=refused[1], status=None)
    kinds, why = set(_kinds(exc)), f"{type(exc).__name__}: {exc}"[:300]
    if kinds & _NOT_CONNECTED:
        return ConnectFailed(f"the inner model cannot connect: {why}")
    if any("Timeout" in kind for kind in kinds):
        return ProviderTimeout(f"the inner model gave no answer in time ({why})")
    if kinds & _BROKEN_OFF:
        return (
            MalformedReply(f"the inner model's reply broke off: {why}")
            if stream is None
            else stream.truncated(f"broke off: {why}")
        )
    if isinstance(exc, TypeError | ValueError | AttributeError | KeyError):
        return exc  # a mistake in arguments or code is not the provider's, and nothing tells that it was sent
    return ProviderError(f"the inner model failed: {why}", billed="unknown")


def _kinds(exc: BaseException | None) -> Iterator[str]:
    """Class names from the exception down to its cause: what the SDKs, each with a tree of its own, have in common."""
    while exc is not None:
        yield from (kind.__name__ for kind in type(exc).__mro__)
        exc = exc.__cause__
