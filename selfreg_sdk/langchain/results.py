"""From an answered request to what LangChain hands out."""

from __future__ import annotations

from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.ai import UsageMetadata, add_usage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

from selfreg_sdk.aggregate import Scorer, VoteKey, ranking
from selfreg_sdk.answering import Outcome
from selfreg_sdk.langchain.inner import InnerAnswer, InnerPiece
from selfreg_sdk.langchain.messages import generations, piece_of
from selfreg_sdk.wire.replies import Chunk, Reply


def result(outcome: Outcome[Any], *, scorer: Scorer | None, vote_key: VoteKey) -> ChatResult:
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
    order = ranking(
        [str(item.message.text) or None for item in samples],
        outcome.decision.request.aggregation,
        scorer=scorer,
        vote_key=vote_key,
    )
    ranked = [samples[index] for index in order]
    chosen = ranked[0].message
    if isinstance(chosen, AIMessage):
        chosen.usage_metadata = total
    chosen.response_metadata = {**chosen.response_metadata, "selfreg": outcome.record() | {"samples": len(samples)}}
    asked = outcome.decision.request
    return ChatResult(generations=ranked, llm_output={"model_name": asked.body["model"], "token_usage": total})


def chunk_of(piece: Chunk | InnerPiece) -> ChatGenerationChunk | None:
    """A streamed piece in LangChain's form, None where it carries nothing for a reader."""
    return piece_of(piece) if isinstance(piece, Chunk) else piece.chunk


def last(outcome: Outcome[Any]) -> ChatGenerationChunk:
    """The end of a stream: what was decided and paid."""
    message = AIMessageChunk(content="", response_metadata={"selfreg": outcome.record()}, chunk_position="last")
    return ChatGenerationChunk(message=message)


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
