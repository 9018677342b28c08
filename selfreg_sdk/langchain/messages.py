"""Between LangChain's messages and the chat completions protocol."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, convert_to_openai_messages
from langchain_core.messages.ai import InputTokenDetails, OutputTokenDetails, UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk

from selfreg_sdk.usage import Usage
from selfreg_sdk.wire.replies import Chunk, Reply, content_text

_ROLES = {"human": "user", "ai": "assistant", "system": "system", "developer": "system"}


def to_wire(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """Messages as the protocol spells them."""
    converted = convert_to_openai_messages(list(messages))
    return converted if isinstance(converted, list) else [converted]


def turns(messages: Sequence[BaseMessage]) -> tuple[tuple[str, str], ...]:
    """(role, text) of every message, with the protocol's role names."""
    return tuple((_ROLES.get(message.type, message.type), str(message.text)) for message in messages)


def usage_metadata(usage: Usage) -> UsageMetadata:
    """LangChain's form of the token counts."""
    metadata = UsageMetadata(
        input_tokens=usage.prompt_tokens, output_tokens=usage.completion_tokens, total_tokens=usage.total_tokens
    )
    if usage.cached_tokens:
        metadata["input_token_details"] = InputTokenDetails(cache_read=usage.cached_tokens)
    if usage.reasoning_tokens:
        metadata["output_token_details"] = OutputTokenDetails(reasoning=usage.reasoning_tokens)
    return metadata


def generations(reply: Reply) -> list[ChatGeneration]:
    """One generation per choice; the usage of the whole reply stands on the first."""
    made = []
    for index, (choice, text) in enumerate(zip(_sorted_choices(reply.body), reply.texts, strict=True)):
        message = choice["message"]
        extra = {name: message[name] for name in ("refusal", "reasoning_content") if message.get(name)}
        made.append(
            ChatGeneration(
                message=AIMessage(
                    content=text or "",
                    additional_kwargs=extra,
                    usage_metadata=usage_metadata(reply.usage) if reply.usage and index == 0 else None,
                    response_metadata=_response_metadata(reply.body, choice),
                ),
                generation_info={"finish_reason": choice["finish_reason"]},
            )
        )
    return made


def piece_of(chunk: Chunk) -> ChatGenerationChunk | None:
    """A streamed chunk of the first choice, None where it carries nothing for a reader."""
    choice = next((one for one in chunk.body.get("choices") or () if one.get("index", 0) == 0), None)
    delta = (choice or {}).get("delta") or {}
    text = content_text(delta.get("content")) or ""
    reason = (choice or {}).get("finish_reason")
    reasoning = delta.get("reasoning_content")
    if not text and not reason and not reasoning and chunk.usage is None:
        return None
    message = AIMessageChunk(
        content=text,
        additional_kwargs={"reasoning_content": reasoning} if reasoning else {},
        usage_metadata=usage_metadata(chunk.usage) if chunk.usage else None,
    )
    info = {"finish_reason": reason, "model_name": chunk.body.get("model")} if reason else None
    return ChatGenerationChunk(message=message, generation_info=info)


def _sorted_choices(body: dict[str, Any]) -> list[dict[str, Any]]:
    """In the order of their index, as `Reply.texts` is."""
    numbered = [(choice.get("index", position), position, choice) for position, choice in enumerate(body["choices"])]
    return [choice for _, _, choice in sorted(numbered, key=lambda item: item[:2])]


def _response_metadata(body: dict[str, Any], choice: dict[str, Any]) -> dict[str, Any]:
    found = {"model_name": body.get("model"), "finish_reason": choice["finish_reason"], "id": body.get("id")}
    if fingerprint := body.get("system_fingerprint"):
        found["system_fingerprint"] = fingerprint
    return {"model_provider": "selfreg", **found}
