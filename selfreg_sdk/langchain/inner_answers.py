"""What a LangChain model brings back, read as an answer: usage, how it ended, and whether it ended at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, message_to_dict, messages_from_dict
from langchain_core.messages.ai import UsageMetadata, add_usage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

from selfreg_sdk.errors import MalformedReply, TruncatedStream
from selfreg_sdk.usage import Usage

_REASONS = ("finish_reason", "stop_reason", "done_reason", "stopReason")
_STATUSES = frozenset({"completed", "incomplete"})


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
        return tuple(finish_reason(item) or "stop" for item in self.result.generations)

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

    @classmethod
    def of_body(cls, body: Mapping[str, Any]) -> InnerAnswer:
        """The answer that a stored `body` stands for."""
        messages = messages_from_dict([choice["message"] for choice in body["choices"]])
        generations = [
            ChatGeneration(message=message, generation_info={"finish_reason": choice["finish_reason"]})
            for message, choice in zip(messages, body["choices"], strict=True)
        ]
        return cls(result=ChatResult(generations=generations))

    @classmethod
    def of_result(cls, result: ChatResult, *, tells_end: bool) -> InnerAnswer:
        """What `_generate` returned, if it is a whole answer.

        Args:
            result: what the integration says about a single answer as a whole is put on its message, as LangChain does.
            tells_end: the integration always says how an answer ended. Some read a stream even where one answer is asked
                for, and pass over its early end in silence.

        Raises:
            MalformedReply: there is nothing in it.
            TruncatedStream: it has no end.
        """
        if not result.generations:
            raise MalformedReply("the inner model returned no generation")
        if len(result.generations) == 1 and result.llm_output:
            item = result.generations[0]
            about = {**result.llm_output, **item.message.response_metadata}
            message = item.message.model_copy(update={"response_metadata": about})
            item = ChatGeneration(message=message, generation_info=item.generation_info)
            result = ChatResult(generations=[item], llm_output=result.llm_output)
        answer = cls(result=result)
        if tells_end and not all(map(finish_reason, result.generations)):
            raise TruncatedStream("the inner model's answer has no finish_reason", partial=answer.texts[0] or "")
        return answer


@dataclass(frozen=True, kw_only=True)
class InnerPiece:
    """One chunk of an inner model's stream.

    Attributes:
        chunk: in LangChain's form.
        usage: of the whole answer, from the end of the answer on.
        finished: the integration says that the answer ends here.
    """

    chunk: ChatGenerationChunk
    usage: Usage | None = None
    finished: bool = False


class Reading:
    """Reads a stream: counts its tokens, and tells one that ended from one that was cut.

    Provider SDKs pass over an early close in silence, so the end is what the provider says, not where the chunks stop.

    Args:
        tells_end: the integration always says how an answer ended; for others usage counts as the end, since whoever
            sends it sends it last.
        adds_up: every chunk counts only its own tokens.
    """

    def __init__(self, *, tells_end: bool, adds_up: bool) -> None:
        self._tells_end = tells_end
        self._adds_up = adds_up
        self._text: list[str] = []
        self._counted: UsageMetadata | None = None
        self._finished = False

    def read(self, chunk: ChatGenerationChunk) -> InnerPiece:
        """The piece for a chunk."""
        message = chunk.message
        self._text.append(str(message.text))
        last = isinstance(message, AIMessageChunk) and message.chunk_position == "last"
        counted = message.usage_metadata if isinstance(message, AIMessage) else None
        if counted is not None:
            self._counted = add_usage(self._counted, counted) if self._adds_up else counted
        ends = last or finish_reason(chunk) is not None or (counted is not None and not self._tells_end)
        self._finished = self._finished or ends
        if self._adds_up and counted is not None:
            chunk = _with_usage(chunk, self._counted if self._finished else None)
        usage = _usage(self._counted) if self._finished and counted is not None else None
        return InnerPiece(chunk=chunk, usage=usage, finished=ends)

    def check(self) -> None:
        """Called when no chunk is left.

        Raises:
            TruncatedStream: the answer did not end.
        """
        if not self._finished:
            raise self.truncated("ended without a finish_reason")

    def truncated(self, how: str) -> TruncatedStream:
        """The error for a stream that was cut, with what came before."""
        return TruncatedStream(f"the inner model's stream {how}", partial="".join(self._text))


def pieces_of(answer: InnerAnswer) -> Iterator[InnerPiece]:
    """A complete answer as a stream, for models that do not stream."""
    item = answer.result.generations[0]
    message = AIMessageChunk(**item.message.model_dump(exclude={"type"}), chunk_position="last")
    chunk = ChatGenerationChunk(message=message, generation_info=item.generation_info)
    yield InnerPiece(chunk=chunk, usage=answer.usage, finished=True)


def message_usage(message: BaseMessage) -> Usage | None:
    """The token counts LangChain keeps on a message, None if there are none."""
    return _usage(message.usage_metadata if isinstance(message, AIMessage) else None)


def finish_reason(item: ChatGeneration) -> str | None:
    """How an answer ended, None where nothing says so."""
    return _named(item.generation_info or {}) or _named(item.message.response_metadata)


def _named(place: Mapping[str, Any]) -> str | None:
    """Each API has its own word for it; the Responses API has a status instead."""
    for name in _REASONS:
        if isinstance(reason := place.get(name), str) and reason:
            return reason
    status = place.get("status")
    return status if status in _STATUSES else None


def _usage(found: UsageMetadata | None) -> Usage | None:
    if not found:
        return None
    return Usage(
        prompt_tokens=found["input_tokens"],
        completion_tokens=found["output_tokens"],
        reasoning_tokens=found.get("output_token_details", {}).get("reasoning", 0) or 0,
        cached_tokens=found.get("input_token_details", {}).get("cache_read", 0) or 0,
    )


def _with_usage(chunk: ChatGenerationChunk, usage: UsageMetadata | None) -> ChatGenerationChunk:
    """Usage belongs on one chunk, the last: it is what readers add up."""
    message = chunk.message.model_copy(update={"usage_metadata": usage})
    return ChatGenerationChunk(message=message, generation_info=chunk.generation_info)
