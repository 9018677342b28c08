"""A loopback server that behaves as a competent Claude: it calls tools, answers by schema, and refuses what Anthropic refuses.

It speaks the messages API of version 2026-10-21; what the real one would refuse stands in ``problems``.
"""

from __future__ import annotations

import json
import re
from typing import Any

from policies import PLAN_MARKER
from tests.adapters.dialects import ANTHROPIC, Dialect, Json
from tests.adapters.server import Server
from tests.competent_server import instance
from tests.sdk.regulated import PLAN

_BLOCKS = {
    "user": {"text", "image", "document", "tool_result"},
    "assistant": {"text", "tool_use", "thinking", "redacted_thinking"},
}
_SOURCES = {"base64": {"media_type", "data"}, "url": {"url"}, "text": {"media_type", "data"}}
_FIELDS = frozenset(
    {"model", "messages", "max_tokens", "system", "stream", "stop_sequences", "tools", "tool_choice"}
    | {"output_config", "metadata"}
)
_USAGE = {"input_tokens": 7, "cache_read_input_tokens": 2, "cache_creation_input_tokens": 0, "output_tokens": 5}


class AnthropicServer(Server):
    """Plans when asked to, calls a tool when it must or when the question is about one, else answers in words."""

    def __init__(self) -> None:
        super().__init__(Dialect(whole=self._message, stream=self._events, end=2, error=ANTHROPIC.error))
        self.problems: list[str] = []

    def _message(self, body: Json) -> Json:
        self.problems += refused(body)
        content = _answer(body)
        called = any(block["type"] == "tool_use" for block in content)
        return {
            "id": f"msg_{len(self.sent)}",
            "type": "message",
            "role": "assistant",
            "model": body["model"],
            "content": content,
            "stop_reason": "tool_use" if called else "end_turn",
            "stop_sequence": None,
            "usage": _USAGE,
        }

    def _events(self, body: Json) -> list[bytes]:
        whole = self._message(body)
        begun = {**whole, "content": [], "stop_reason": None, "usage": {**_USAGE, "output_tokens": 1}}
        events: list[Json] = [{"type": "message_start", "message": begun}, {"type": "ping"}]
        for index, block in enumerate(whole["content"]):
            opened, kind, name, text = (
                ({**block, "text": ""}, "text_delta", "text", block["text"])
                if block["type"] == "text"
                else ({**block, "input": {}}, "input_json_delta", "partial_json", json.dumps(block["input"]))
            )
            events.append({"type": "content_block_start", "index": index, "content_block": opened})
            for part in (text[: len(text) // 2], text[len(text) // 2 :]):
                events.append({"type": "content_block_delta", "index": index, "delta": {"type": kind, name: part}})
            events.append({"type": "content_block_stop", "index": index})
        delta = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
        events += [{"type": "message_delta", "delta": delta, "usage": _USAGE}, {"type": "message_stop"}]
        return [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events]


def _answer(body: Json) -> list[Json]:
    if _text(body.get("system") or "").startswith(PLAN_MARKER):
        return [{"type": "text", "text": PLAN.to_json()}]
    question = _text(body["messages"][-1]["content"])
    if (tool := _wanted_tool(body, question)) is not None:
        given = instance(tool["input_schema"], question)
        return [{"type": "tool_use", "id": "toolu_1", "name": tool["name"], "input": given}]
    wanted = (body.get("output_config") or {}).get("format")
    if wanted is not None:
        return [{"type": "text", "text": json.dumps(instance(wanted["schema"], question), ensure_ascii=False)}]
    return [{"type": "text", "text": f"You said: {question}"}]


def refused(body: Json) -> list[str]:
    """What Anthropic's server would refuse in a request."""
    found = [f"{name}: extra inputs are not permitted" for name in body if name not in _FIELDS]
    found += [f"{name}: field required" for name in ("model", "messages", "max_tokens") if not body.get(name)]
    called: list[str] = []
    for number, message in enumerate(body["messages"]):
        where, role, content = f"messages.{number}", message["role"], message["content"]
        if role not in _BLOCKS:
            found.append(f"{where}: unexpected role {role!r}")
            continue
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if not blocks:
            found.append(f"{where}: content must not be empty")
        results = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
        if sorted(results) != sorted(called):
            found.append(f"{where}: tool_use ids {called} have results {results}")
        called = [block["id"] for block in blocks if block["type"] == "tool_use"]
        found += [f"{where}: {problem}" for block in blocks for problem in _of_block(block, _BLOCKS[role])]
    if called:
        found.append("the last message calls tools, which nobody answered")
    return found + _of_tools(body) + _of_format((body.get("output_config") or {}).get("format"))


def _of_block(block: Json, allowed: set[str]) -> list[str]:
    kind = block["type"]
    if kind not in allowed:
        return [f"block {kind!r} is not allowed here"]
    if kind == "text":
        return [] if block["text"].strip() else ["text content blocks must be non-empty"]
    if kind in ("image", "document"):
        source = block["source"]
        missing = _SOURCES.get(source["type"], {"known type"}) - source.keys()
        return [f"{kind}.source: {name} missing" for name in sorted(missing)]
    if kind == "tool_use":
        return [] if isinstance(block["input"], dict) else ["tool_use.input must be an object"]
    inner = block.get("content") or []
    parts = [] if isinstance(inner, str) else inner
    return [problem for part in parts for problem in _of_block(part, {"text", "image", "document"})]


def _of_tools(body: Json) -> list[str]:
    tools, choice = body.get("tools") or [], body.get("tool_choice")
    found = [
        f"tools: {tool.get('name')!r} is no tool"
        for tool in tools
        if not re.fullmatch(r"[\w-]{1,128}", tool.get("name", ""))
        or tool.get("input_schema", {}).get("type") != "object"
    ]
    if choice is None:
        return found
    if not tools:
        found.append("tool_choice without tools")
    if choice["type"] not in ("auto", "any", "tool", "none"):
        found.append(f"tool_choice.type {choice['type']!r}")
    if choice["type"] == "tool" and choice.get("name") not in [tool["name"] for tool in tools]:
        found.append(f"tool_choice.name {choice.get('name')!r}")
    return found


def _of_format(wanted: Any) -> list[str]:
    if wanted is None:
        return []
    if wanted.get("type") != "json_schema" or wanted["schema"].get("type") != "object":
        return [f"output_config.format {wanted!r}"]
    open_ended = wanted["schema"].get("additionalProperties", True) is not False
    return ["output_config.format.schema: additionalProperties must be false"] if open_ended else []


def _text(content: Any) -> str:
    return content if isinstance(content, str) else " ".join(block.get("text", "") for block in content)


def _wanted_tool(body: Json, question: str) -> Json | None:
    """The tool to call: the one that must be, or the one that a question of the user is about."""
    tools, choice = body.get("tools") or [], body.get("tool_choice") or {"type": "auto"}
    if choice["type"] == "tool":
        return next(tool for tool in tools if tool["name"] == choice["name"])
    blocks = [
        block for message in body["messages"] if isinstance(message["content"], list) for block in message["content"]
    ]
    if choice["type"] == "any":
        made = {block["name"] for block in blocks if block["type"] == "tool_use"}
        return next((tool for tool in tools if tool["name"] not in made), tools[0])
    if choice["type"] == "none" or (blocks and blocks[-1]["type"] == "tool_result"):
        return None
    asked = set(re.findall(r"[a-z]+", question.lower())) - {"get"}
    return next((tool for tool in tools if asked & set(tool["name"].lower().split("_"))), None)
