"""A loopback provider that behaves as a competent model of the protocol: it calls tools, and answers by schema.

It also reads its requests as strictly as OpenAI's server does; what it would refuse there stands in ``problems``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from tests.fake_faults import Payload
from tests.fake_provider import FakeProvider
from tests.sdk.regulated import PLAN, is_plan

_PARTS = {
    "system": {"text"},
    "user": {"text", "image_url", "input_audio", "file"},
    "assistant": {"text", "refusal"},
    "tool": {"text"},
}


class CompetentServer(FakeProvider):
    """Plans when asked to, calls a tool when it must or when the question is about one, else answers in words."""

    def __init__(self, **given: Any) -> None:
        super().__init__(reply=self._answer, **given)
        self.problems: list[str] = []

    def _answer(self, payload: Payload) -> str | Payload:
        self.problems += refused(payload)
        if is_plan(payload):
            return PLAN.to_json()
        question = _question(payload)
        if (tool := _wanted_tool(payload, question)) is not None:
            arguments = json.dumps(instance(tool.get("parameters") or {}, question), ensure_ascii=False)
            function = {"name": tool["name"], "arguments": arguments}
            return {"content": None, "tool_calls": [{"id": "call_1", "type": "function", "function": function}]}
        wanted = payload.get("response_format") or {}
        if wanted.get("type") == "json_schema":
            return json.dumps(instance(wanted["json_schema"]["schema"], question), ensure_ascii=False)
        if wanted.get("type") == "json_object":
            return json.dumps({key: "words" for key in re.findall(r"'(\w+)'", question)})
        return f"You said: {question}"


def refused(payload: Payload) -> list[str]:
    """What a strict server would refuse in a request."""
    found, open_calls = [], set[str]()
    for message in payload["messages"]:
        role, content, calls = message.get("role"), message.get("content"), message.get("tool_calls") or []
        if role not in _PARTS:
            found.append(f"role {role!r}")
            continue
        parts = content if isinstance(content, list) else []
        found += [f"{role} content part {part.get('type')!r}" for part in parts if part.get("type") not in _PARTS[role]]
        if content in (None, []) and not calls:
            found.append(f"{role} message without content")
        if role == "tool":
            if message.get("tool_call_id") not in open_calls:
                found.append(f"tool message for {message.get('tool_call_id')!r}, which nobody called")
            open_calls.discard(message.get("tool_call_id"))
        elif open_calls:
            found.append(f"calls {sorted(open_calls)} are not followed by a tool message")
            open_calls.clear()
        for call in calls:
            if not isinstance(call["function"]["arguments"], str):
                found.append("arguments that are no text")
            open_calls.add(call["id"])
    tools = [tool["function"]["name"] for tool in payload.get("tools") or ()]
    choice = payload.get("tool_choice")
    named = choice["function"]["name"] if isinstance(choice, dict) else None
    if choice is not None and not tools:
        found.append("tool_choice without tools")
    if named not in (None, *tools) or not (named or choice in (None, "auto", "none", "required")):
        found.append(f"tool_choice {choice!r}")
    known = {"model", "messages", "tools", "tool_choice", "parallel_tool_calls", "response_format", "stream"}
    known |= {"stream_options", "temperature", "top_p", "max_tokens", "max_completion_tokens", "n", "stop", "seed"}
    return found + [f"unknown field {name!r}" for name in payload if name not in known]


def instance(schema: Payload, text: str) -> Any:
    """A value of a JSON schema, with numbers and quoted words of ``text`` in it."""
    numbers, quoted = re.findall(r"\d+", text), re.findall(r"'([^']+)'", text)

    def value(part: Payload) -> Any:
        if "$ref" in part:
            return value(schema["$defs"][part["$ref"].rpartition("/")[2]])
        if "enum" in part:
            return part["enum"][0]
        if options := part.get("anyOf") or part.get("oneOf") or part.get("allOf"):
            return value(options[0])
        makers: dict[str, Callable[[], Any]] = {
            "object": lambda: {name: value(field) for name, field in part.get("properties", {}).items()},
            "array": lambda: [value(part.get("items", {}))],
            "integer": lambda: int(numbers.pop(0)) if numbers else 1,
            "number": lambda: float(numbers.pop(0)) if numbers else 0.5,
            "boolean": lambda: True,
            "null": lambda: None,
        }
        return makers.get(part.get("type", "object" if "properties" in part else "string"), words)()

    def words() -> str:
        return quoted.pop(0) if quoted else "words"

    return value({"type": "object", **schema})


def _question(payload: Payload) -> str:
    """The text of the last message."""
    content = payload["messages"][-1].get("content")
    return content if isinstance(content, str) else " ".join(part.get("text", "") for part in content or ())


def _wanted_tool(payload: Payload, question: str) -> Payload | None:
    """The tool to call: the one that must be, or the one that a question of the user is about."""
    tools = [tool["function"] for tool in payload.get("tools") or ()]
    choice = payload.get("tool_choice")
    if isinstance(choice, dict):
        return next(tool for tool in tools if tool["name"] == choice["function"]["name"])
    if choice == "required":
        made = {call["function"]["name"] for message in payload["messages"] for call in message.get("tool_calls") or ()}
        return next((tool for tool in tools if tool["name"] not in made), tools[0])
    if choice == "none" or payload["messages"][-1]["role"] != "user":
        return None
    asked = set(re.findall(r"[a-z]+", question.lower())) - {"get"}
    return next((tool for tool in tools if asked & set(tool["name"].lower().split("_"))), None)
