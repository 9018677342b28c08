"""From an answered request to what LangChain hands out."""

from __future__ import annotations

from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.ai import UsageMetadata, add_usage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

from selfreg_sdk.aggregate import Scorer, ranking, voted
from selfreg_sdk.answering import Outcome
from selfreg_sdk.langchain.inner import InnerAnswer, InnerPiece
from selfreg_sdk.langchain.messages import generations, piece_of
from selfreg_sdk.wire.replies import Chunk, Reply


def result(outcome: Outcome[Any], *, scorer: Scorer | None) -> ChatResult:
    """All samples as generations, the chosen answer first; it carries the usage of all of them and the record."""
    samples: list[ChatGeneration] = []
    total: UsageMetadata | None = None
    for answer in outcome.answers:
        made = _generations(answer)
        # Each answer counts once: what stands on its messages is the total of all of them.
        counts = [_take_usage(item) for item in made]
        if (count := next(filter(None, counts), None)) is not None:
            total = add_usage(total, count)
        samples += made
    if outcome.tally is not None:
        order = voted(outcome.ballots)
    else:
        texts = [str(item.message.text) or None for item in samples]
        order = ranking(texts, outcome.decision.aggregation, scorer=scorer)
    ranked = [samples[index] for index in order]
    chosen = ranked[0].message
    if isinstance(chosen, AIMessage):
        chosen.usage_metadata = total
    model = outcome.decision.request.body["model"]
    # Of several samples LangChain leaves out the model's name, by which usage is counted, where it stands on the result.
    record = outcome.record() | {"samples": len(samples)}
    chosen.response_metadata = {"model_name": model, **chosen.response_metadata, "selfreg": record}
    return ChatResult(generations=ranked, llm_output={"model_name": model, "token_usage": total})


class Chunks:
    """Streamed pieces in LangChain's form. The usage of all of them stands on the last chunk, and there alone."""

    def __init__(self, *, blocks: bool) -> None:
        """Nothing is read yet.

        Args:
            blocks: LangChain will turn the content of chunks into content blocks, as ``output_version="v1"`` asks.
        """
        self._usage: UsageMetadata | None = None
        self._blocks = blocks

    def of(self, piece: Chunk | InnerPiece) -> ChatGenerationChunk | None:
        """A piece as a chunk, None where it carries nothing for a reader."""
        made = piece_of(piece) if isinstance(piece, Chunk) else piece.chunk
        message = None if made is None else made.message
        if made is None or not isinstance(message, AIMessageChunk):
            return made
        if message.usage_metadata is not None or message.chunk_position is not None:
            self._usage = add_usage(self._usage, message.usage_metadata) if message.usage_metadata else self._usage
            # A copy: an inner model may hand out the same chunk again.
            message = message.model_copy(update={"usage_metadata": None, "chunk_position": None})
            parts = (message.content, message.additional_kwargs, message.tool_call_chunks, message.response_metadata)
            if not any(parts) and not made.generation_info:
                return None
            made = ChatGenerationChunk(message=message, generation_info=made.generation_info)
        if self._blocks and message.tool_call_chunks and not message.content:
            made = ChatGenerationChunk(message=_placed(message), generation_info=made.generation_info)
        return made

    def last(self, outcome: Outcome[Any]) -> ChatGenerationChunk:
        """The end of a stream: what was decided, used and paid."""
        message = AIMessageChunk(
            content="",
            usage_metadata=self._usage,
            response_metadata={"selfreg": outcome.record()},
            chunk_position="last",
        )
        return ChatGenerationChunk(message=message)


def _placed(message: AIMessageChunk) -> AIMessageChunk:
    """Pieces of calls as blocks that each have a place of their own.

    The protocol counts calls from 0, LangChain counts text and reasoning from 0 as well, and joins blocks of one place.
    """
    blocks = [
        {**block, "index": f"lc_tc_{block['index']}"}
        if block["type"] == "tool_call_chunk" and "index" in block
        else block
        for block in message.content_blocks
    ]
    metadata = {**message.response_metadata, "output_version": "v1"}
    return message.model_copy(update={"content": blocks, "response_metadata": metadata})


def with_record(answer: ChatResult, record: dict[str, Any]) -> ChatResult:
    """A copy with another record on its first answer; what a cache holds stays as it is."""
    first, *others = answer.generations
    message = first.message.model_copy(
        update={"response_metadata": {**first.message.response_metadata, "selfreg": record}}
    )
    chosen = ChatGeneration(message=message, generation_info=first.generation_info)
    return ChatResult(generations=[chosen, *others], llm_output=answer.llm_output)


def whole(complete: ChatResult) -> ChatGenerationChunk:
    """A complete answer as the only chunk of a stream."""
    fields = complete.generations[0].message.model_dump(exclude={"type"})
    return ChatGenerationChunk(message=AIMessageChunk(**fields, chunk_position="last"))


def _take_usage(item: ChatGeneration) -> UsageMetadata | None:
    """The usage on a message, which then no longer carries it."""
    if not isinstance(item.message, AIMessage):
        return None
    usage, item.message.usage_metadata = item.message.usage_metadata, None
    return usage


def _generations(answer: Reply | InnerAnswer) -> list[ChatGeneration]:
    if isinstance(answer, Reply):
        return generations(answer)
    # Copies: an inner model may hand out the same message again.
    return [
        ChatGeneration(message=item.message.model_copy(), generation_info=item.generation_info)
        for item in answer.result.generations
    ]
