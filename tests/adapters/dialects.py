"""How each provider's API spells one and the same answer: in one piece, as a stream, and as an error."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

WORDS = ("Good ", "day.")
TEXT = "".join(WORDS)
PROMPT_TOKENS, COMPLETION_TOKENS = 7, 5


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """One provider's API.

    Attributes:
        whole: the body of an answer to a request.
        stream: the parts of a streamed answer; without the ones from ``end`` on, it was cut.
        end: how many of the last parts say that the answer ended.
        error: the body of an error with a status and a message.
        streams: whether a request asks for a stream.
        content_type: of a stream.
    """

    whole: Callable[[Json], Json]
    stream: Callable[[Json], list[bytes]]
    end: int
    error: Callable[[int, str], Json]
    streams: Callable[[str, Json], bool] = lambda path, body: bool(body.get("stream"))
    content_type: str = "text/event-stream"


def _sse(*events: Json | str) -> list[bytes]:
    texts = [event if isinstance(event, str) else json.dumps(event) for event in events]
    return [f"data: {text}\n\n".encode() for text in texts]


def _named_sse(*events: Json) -> list[bytes]:
    return [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events]


def _openai_error(status: int, message: str) -> Json:
    return {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}}


# -- chat completions, and those who speak it -------------------------------------------------------------------------

_USAGE = {
    "prompt_tokens": PROMPT_TOKENS,
    "completion_tokens": COMPLETION_TOKENS,
    "total_tokens": PROMPT_TOKENS + COMPLETION_TOKENS,
}


def _completion(body: Json) -> Json:
    message = {"role": "assistant", "content": TEXT}
    choices = [{"index": index, "message": message, "finish_reason": "stop"} for index in range(body.get("n") or 1)]
    about = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": body["model"]}
    return {**about, "choices": choices, "usage": _USAGE}


def _completion_chunks(body: Json, *, last: Json) -> list[bytes]:
    about = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": body["model"]}

    def chunk(delta: Json, reason: str | None = None, **more: Any) -> Json:
        return {**about, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}], **more}

    deltas = [chunk({"role": "assistant", "content": word}) for word in WORDS]
    counted = (body.get("stream_options") or {}).get("include_usage")
    usage = [{**about, "choices": [], "usage": _USAGE}] if counted else []
    return _sse(*deltas, chunk({"content": ""}, "stop", **last), *usage, "[DONE]")


OPENAI_CHAT = Dialect(
    whole=_completion, stream=lambda body: _completion_chunks(body, last={}), end=3, error=_openai_error
)
DEEPSEEK = OPENAI_CHAT
MISTRAL = Dialect(
    whole=_completion,
    stream=lambda body: _completion_chunks(body, last={"usage": _USAGE}),
    end=2,
    error=lambda status, message: {"object": "error", "message": message, "type": "invalid_request", "code": status},
)
GROQ = Dialect(
    whole=_completion,
    stream=lambda body: _completion_chunks(body, last={"x_groq": {"id": "req_1", "usage": _USAGE}}),
    end=2,
    error=_openai_error,
)

# -- OpenAI's Responses -----------------------------------------------------------------------------------------------


def _response(body: Json, status: str = "completed") -> Json:
    part = {"type": "output_text", "text": TEXT, "annotations": []}
    message = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [part]}
    usage = {
        "input_tokens": PROMPT_TOKENS,
        "output_tokens": COMPLETION_TOKENS,
        "total_tokens": PROMPT_TOKENS + COMPLETION_TOKENS,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 0},
    }
    fixed = {"object": "response", "created_at": 1, "tools": [], "tool_choice": "auto", "parallel_tool_calls": True}
    done = status == "completed"
    return {
        **fixed,
        "id": "resp_1",
        "model": body["model"],
        "status": status,
        "output": [message] if done else [],
        "usage": usage if done else None,
    }


def _response_events(body: Json) -> list[bytes]:
    item = {"type": "message", "id": "msg_1", "role": "assistant", "status": "in_progress", "content": []}
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    empty = {"type": "output_text", "text": "", "annotations": []}
    events = [
        {"type": "response.created", "response": _response(body, "in_progress")},
        {"type": "response.output_item.added", "output_index": 0, "item": item},
        {"type": "response.content_part.added", **place, "part": empty},
        *({"type": "response.output_text.delta", **place, "delta": word, "logprobs": []} for word in WORDS),
        {"type": "response.output_text.done", **place, "text": TEXT, "logprobs": []},
        {"type": "response.completed", "response": _response(body)},
    ]
    return _named_sse(*({**event, "sequence_number": number} for number, event in enumerate(events)))


OPENAI_RESPONSES = Dialect(whole=_response, stream=_response_events, end=1, error=_openai_error)

# -- Anthropic --------------------------------------------------------------------------------------------------------


def _message(body: Json, *, done: bool = True) -> Json:
    usage = {"input_tokens": PROMPT_TOKENS, "output_tokens": COMPLETION_TOKENS if done else 1}
    about = {"id": "msg_1", "type": "message", "role": "assistant", "model": body["model"], "stop_sequence": None}
    content = [{"type": "text", "text": TEXT}] if done else []
    return {**about, "content": content, "stop_reason": "end_turn" if done else None, "usage": usage}


def _message_events(body: Json) -> list[bytes]:
    delta = {"stop_reason": "end_turn", "stop_sequence": None}
    return _named_sse(
        {"type": "message_start", "message": _message(body, done=False)},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word}} for word in WORDS),
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": delta,
            "usage": {"input_tokens": PROMPT_TOKENS, "output_tokens": COMPLETION_TOKENS},
        },
        {"type": "message_stop"},
    )


ANTHROPIC = Dialect(
    whole=_message,
    stream=_message_events,
    end=2,
    error=lambda status, message: {"type": "error", "error": {"type": "invalid_request_error", "message": message}},
)

# -- Ollama -----------------------------------------------------------------------------------------------------------


def _ollama_piece(body: Json, content: str, *, done: bool) -> Json:
    about = {"model": body["model"], "created_at": "2026-01-01T00:00:00Z"}
    end = {"done_reason": "stop", "prompt_eval_count": PROMPT_TOKENS, "eval_count": COMPLETION_TOKENS} if done else {}
    return {**about, "message": {"role": "assistant", "content": content}, "done": done, **end}


def _ollama_lines(body: Json) -> list[bytes]:
    pieces = [*(_ollama_piece(body, word, done=False) for word in WORDS), _ollama_piece(body, "", done=True)]
    return [json.dumps(piece).encode() + b"\n" for piece in pieces]


OLLAMA = Dialect(
    whole=lambda body: _ollama_piece(body, TEXT, done=True),
    stream=_ollama_lines,
    end=1,
    error=lambda status, message: {"error": message},
    content_type="application/x-ndjson",
)

# -- Gemini -----------------------------------------------------------------------------------------------------------


def _gemini(text: str, completion: int, *, done: bool = True) -> Json:
    candidate = {"content": {"role": "model", "parts": [{"text": text}]}, "index": 0}
    usage = {"promptTokenCount": PROMPT_TOKENS, "candidatesTokenCount": completion}
    return {
        "candidates": [{**candidate, "finishReason": "STOP"} if done else candidate],
        "usageMetadata": {**usage, "totalTokenCount": PROMPT_TOKENS + completion},
        "modelVersion": "gemini",
    }


def _gemini_parts(body: Json) -> list[bytes]:
    """Counts so far, on every part."""
    parts = [_gemini(WORDS[0], 2, done=False), _gemini(WORDS[1], COMPLETION_TOKENS)]
    return [b"[" + json.dumps(parts[0]).encode(), b"," + json.dumps(parts[1]).encode() + b"]"]


GEMINI = Dialect(
    whole=lambda body: _gemini(TEXT, COMPLETION_TOKENS),
    stream=_gemini_parts,
    end=1,
    error=lambda status, message: {"error": {"code": status, "message": message, "status": "INVALID_ARGUMENT"}},
    streams=lambda path, body: "streamGenerateContent" in path,
    content_type="application/json",
)

# -- Bedrock Converse -------------------------------------------------------------------------------------------------

_AWS_USAGE = {
    "inputTokens": PROMPT_TOKENS,
    "outputTokens": COMPLETION_TOKENS,
    "totalTokens": PROMPT_TOKENS + COMPLETION_TOKENS,
}


def _converse(body: Json) -> Json:
    message = {"role": "assistant", "content": [{"text": TEXT}]}
    return {"output": {"message": message}, "stopReason": "end_turn", "usage": _AWS_USAGE, "metrics": {"latencyMs": 1}}


def _converse_events(body: Json) -> list[bytes]:
    return [
        _aws_event("messageStart", {"role": "assistant"}),
        *(_aws_event("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": word}}) for word in WORDS),
        _aws_event("contentBlockStop", {"contentBlockIndex": 0}),
        _aws_event("messageStop", {"stopReason": "end_turn"}),
        _aws_event("metadata", {"usage": _AWS_USAGE, "metrics": {"latencyMs": 1}}),
    ]


def _aws_event(kind: str, payload: Json) -> bytes:
    """One message of the event stream encoding: lengths, checksums, headers of type string, JSON."""

    def headers() -> Iterator[bytes]:
        named = {":message-type": "event", ":event-type": kind, ":content-type": "application/json"}
        for name, value in named.items():
            yield struct.pack("!B", len(name)) + name.encode() + struct.pack("!BH", 7, len(value)) + value.encode()

    head, body = b"".join(headers()), json.dumps(payload).encode()
    prelude = struct.pack("!II", 12 + len(head) + len(body) + 4, len(head))
    message = prelude + struct.pack("!I", zlib.crc32(prelude)) + head + body
    return message + struct.pack("!I", zlib.crc32(message))


BEDROCK = Dialect(
    whole=_converse,
    stream=_converse_events,
    end=2,
    error=lambda status, message: {"message": message},
    streams=lambda path, body: path.endswith("/converse-stream"),
    content_type="application/vnd.amazon.eventstream",
)
