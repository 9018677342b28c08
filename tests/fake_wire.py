"""HTTP requests in, event streams out: the byte side of :class:`tests.fake_provider.FakeProvider`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.fake_faults import Fault, Payload


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request as it arrived; header names in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    payload: Payload
    received_at: float


def events(completion: Payload, *, usage: bool) -> list[Any]:
    """The stream of a completion: per sample a role, two halves of the text, a finish; then usage, then [DONE].

    A tool call comes as its head, and its arguments in two halves; other fields of a message come whole.
    """
    base = {key: completion[key] for key in ("id", "created", "model")} | {"object": "chat.completion.chunk"}

    def event(index: int, delta: Payload, finish: str | None = None) -> Payload:
        return {**base, "choices": [{"index": index, "delta": delta, "finish_reason": finish}]}

    events: list[Any] = []
    for choice in completion["choices"]:
        index, message = choice["index"], choice["message"]
        text = message["content"]
        events.append(event(index, {"role": "assistant", "content": None if text is None else ""}))
        if text is not None:
            half = len(text) // 2
            events += [event(index, {"content": text[:half]}), event(index, {"content": text[half:]})]
        for number, call in enumerate(message.get("tool_calls") or ()):
            arguments = call["function"]["arguments"]
            half = len(arguments) // 2
            head = {**call, "index": number, "function": {**call["function"], "arguments": ""}}
            rest = [{"index": number, "function": {"arguments": part}} for part in (arguments[:half], arguments[half:])]
            events += [event(index, {"tool_calls": [piece]}) for piece in (head, *rest)]
        extra = {name: value for name, value in message.items() if name not in ("role", "content", "tool_calls")}
        if extra:
            events.append(event(index, extra))
        events.append(event(index, {}, choice["finish_reason"]))
    if usage:
        events.append({**base, "choices": [], "usage": completion["usage"]})
    return [*events, "[DONE]"]


def stream_body(events: list[Any], eol: bytes) -> bytes:
    """Dicts and strings become data events; bytes are lines as they are."""
    lines: list[bytes] = []
    for event in events:
        if isinstance(event, bytes):
            lines.append(event)
        else:
            data = event if isinstance(event, str) else json.dumps(event, ensure_ascii=False)
            lines += [b"data: " + data.encode(), b""]
    return b"".join(line + eol for line in lines)


def pieces(body: bytes, fault: Fault, *, whole: bool) -> Iterator[bytes]:
    size = 1 if fault.byte_pause else fault.piece
    if size is not None:
        yield from (body[start : start + size] for start in range(0, len(body), size))
    elif whole:
        yield from [body] if body else []
    else:
        yield from body.splitlines(keepends=True)


def read_request(reader: Any) -> Request | None:
    line = reader.readline(65_536)
    if not line:
        return None
    method, path, _ = line.decode("ascii").split(" ", 2)
    headers = {}
    while (line := reader.readline(65_536)) not in (b"\r\n", b""):
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.strip().lower()] = value.strip()
    raw = reader.read(int(headers.get("content-length", "0")))
    return Request(
        method=method,
        path=path,
        headers=headers,
        payload=json.loads(raw) if raw else {},
        received_at=time.monotonic(),
    )
