"""Between LangChain's messages and the chat completions protocol."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.exceptions import OutputParserException
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    HumanMessage,
    InvalidToolCall,
    SystemMessage,
    ToolCall,
    ToolMessage,
    convert_to_openai_messages,
)
from langchain_core.messages.ai import InputTokenDetails, OutputTokenDetails, UsageMetadata
from langchain_core.messages.tool import ToolCallChunk, tool_call_chunk
from langchain_core.output_parsers.openai_tools import make_invalid_tool_call, parse_tool_call
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk

from selfreg_sdk.usage import Usage
from selfreg_sdk.wire.replies import Chunk, Reply, content_text

_KEPT = ("refusal", "reasoning_content", "function_call")
"""Parts of an answer for which a message has no place of its own."""
_ROLES: dict[type[BaseMessage], str] = {
    HumanMessage: "user",
    AIMessage: "assistant",
    AIMessageChunk: "assistant",
    SystemMessage: "system",
    ToolMessage: "tool",
}
_WITH_MORE = ("refusal", "__openai_role__")
"""Additional arguments of a message that change its form on the wire."""


def to_wire(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """Messages as the protocol spells them, as `convert_to_openai_messages` does.

    Text, with or without tool calls, takes a path of its own, ten times as fast; all else goes through LangChain.
    """
    wire: list[dict[str, Any]] = []
    for message in messages:
        if (plain := _plain(message)) is not None:
            wire.append(plain)
            continue
        converted = convert_to_openai_messages([message])
        if isinstance(message, AIMessage):
            converted = [_assistant(message, one) for one in converted]
        wire += converted
    return wire


def _plain(message: BaseMessage) -> dict[str, Any] | None:
    """A message whose content is text, None if it needs more than a renaming of its parts."""
    role, content, more = _ROLES.get(type(message)), message.content, message.additional_kwargs
    if role is None or type(content) is not str or (more and any(name in more for name in _WITH_MORE)):
        return None
    wire: dict[str, Any] = {"role": role, "content": content}
    if message.name:
        wire["name"] = message.name
    if isinstance(message, AIMessage):
        if message.invalid_tool_calls:
            return None
        if message.tool_calls:
            wire["tool_calls"] = [_call(call) for call in message.tool_calls]
    elif isinstance(message, ToolMessage):
        wire["tool_call_id"] = message.tool_call_id
    return wire


def _call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call["name"], "arguments": json.dumps(call["args"], ensure_ascii=False)}
    return {"type": "function", "id": call["id"], "function": function}


def _assistant(message: AIMessage, wire: dict[str, Any]) -> dict[str, Any]:
    """An answer as part of a conversation: text and tool calls, the broken ones too, because a tool's word on them follows.

    Reasoning and other vendors' blocks are no input of the protocol, and tool calls are not repeated as content.
    """
    content = wire.get("content")
    if isinstance(content, list):
        kept = [part for part in content if part.get("type") in ("text", "refusal")]
        content = content if content and kept == content else "".join(part.get("text", "") for part in kept)
    broken = [
        {
            "type": "function",
            "id": call["id"],
            "function": {"name": call["name"] or "", "arguments": call["args"] or ""},
        }
        for call in message.invalid_tool_calls
    ]
    calls = {"tool_calls": [*wire.get("tool_calls", ()), *broken]} if broken else {}
    return {**wire, "content": content, **calls}


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
        extra = _beside(message)
        calls, invalid = tool_calls(message.get("tool_calls"))
        made.append(
            ChatGeneration(
                message=AIMessage(
                    content=text or "",
                    additional_kwargs=extra,
                    tool_calls=calls,
                    invalid_tool_calls=invalid,
                    usage_metadata=usage_metadata(reply.usage) if reply.usage and index == 0 else None,
                    response_metadata=_response_metadata(reply.body, choice),
                ),
                generation_info={"finish_reason": choice["finish_reason"]},
            )
        )
    return made


def tool_calls(raw: object) -> tuple[list[ToolCall], list[InvalidToolCall]]:
    """The calls of an answer: those whose arguments are a JSON object, and those the model got wrong."""
    calls: list[ToolCall] = []
    invalid: list[InvalidToolCall] = []
    for call in filter(None, map(_function_call, raw if isinstance(raw, list) else ())):
        try:
            parsed: Any = parse_tool_call(call)
            if isinstance(parsed["args"], dict):
                calls.append(parsed)
            else:
                invalid.append(make_invalid_tool_call(call, "the arguments are no JSON object"))
        except OutputParserException as exc:
            invalid.append(make_invalid_tool_call(call, str(exc)))
    return calls, invalid


def _function_call(call: object) -> dict[str, Any] | None:
    """A call as LangChain's parsers expect it; None for what is no function call.

    Some servers send the arguments as an object in place of its JSON text.
    """
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(call, Mapping) or not isinstance(function, Mapping):
        return None
    name, arguments = function.get("name"), function.get("arguments")
    text = arguments if isinstance(arguments, str) or arguments is None else json.dumps(arguments)
    return {**call, "function": {"name": name, "arguments": text}}


def tool_call_chunks(raw: object) -> list[ToolCallChunk]:
    """The pieces of tool calls in a delta; LangChain joins those of one index."""
    return [
        tool_call_chunk(
            name=call["function"]["name"],
            args=call["function"]["arguments"],
            id=call.get("id"),
            index=call.get("index"),
        )
        for call in map(_function_call, raw if isinstance(raw, list) else ())
        if call is not None
    ]


def piece_of(chunk: Chunk) -> ChatGenerationChunk | None:
    """A streamed chunk of the first choice, None where it carries nothing for a reader."""
    choice = next((one for one in chunk.body.get("choices") or () if one.get("index", 0) == 0), None)
    delta = (choice or {}).get("delta") or {}
    text = content_text(delta.get("content")) or ""
    reason = (choice or {}).get("finish_reason")
    extra = _beside(delta)
    calls = tool_call_chunks(delta.get("tool_calls"))
    if not text and not reason and not extra and not calls and chunk.usage is None:
        return None
    message = AIMessageChunk(
        content=text,
        additional_kwargs=extra,
        tool_call_chunks=calls,
        usage_metadata=usage_metadata(chunk.usage) if chunk.usage else None,
    )
    info = {"finish_reason": reason, "model_name": chunk.body.get("model")} if reason else None
    return ChatGenerationChunk(message=message, generation_info=info)


def _beside(said: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of an answer, or of a piece of one, for which a message has no place of its own.

    Reasoning goes by two names: DeepSeek's, which LangChain reads too, and that of OpenRouter and newer servers.
    """
    kept = {name: said[name] for name in _KEPT if said.get(name)}
    thought = said.get("reasoning")
    return {"reasoning_content": thought, **kept} if isinstance(thought, str) and thought else kept


def _sorted_choices(body: dict[str, Any]) -> list[dict[str, Any]]:
    """In the order of their index, as `Reply.texts` is."""
    numbered = [(choice.get("index", position), position, choice) for position, choice in enumerate(body["choices"])]
    return [choice for _, _, choice in sorted(numbered, key=lambda item: item[:2])]


def _response_metadata(body: dict[str, Any], choice: dict[str, Any]) -> dict[str, Any]:
    found = {"model_name": body.get("model"), "finish_reason": choice["finish_reason"], "id": body.get("id")}
    if fingerprint := body.get("system_fingerprint"):
        found["system_fingerprint"] = fingerprint
    return {"model_provider": "selfreg", **found}
