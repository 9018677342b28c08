"""What comes back from a chat-completions endpoint, checked before anyone relies on it.

Format: https://platform.openai.com/docs/api-reference/chat/object. Only what every compatible server sends is
demanded; a body that breaks it is a :class:`MalformedReply`, never half an answer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from selfreg_sdk.errors import MalformedReply
from selfreg_sdk.usage import Usage

# No context window comes near; a larger count is a broken server, and would overflow the ledger's integers.
_MOST_TOKENS = 1_000_000_000


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One chat completion, checked: at least one choice, each with a message and a finish_reason.

    Attributes:
        body: the JSON object as it arrived.
        usage: tokens as the provider counted them; None when it did not say, or said something impossible.
        finish_reasons: one per choice, in the order of their index.
        texts: one per choice; None where the answer is a tool call, a refusal or reasoning alone.
            Fewer than the n asked for is possible: compare the length.
        request_id: the provider's id of the request, for its support.
    """

    body: dict[str, Any]
    usage: Usage | None
    finish_reasons: tuple[str, ...]
    texts: tuple[str | None, ...]
    request_id: str | None


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """One piece of a streamed chat completion.

    Attributes:
        body: the chunk's JSON object as it arrived.
        usage: set on the chunk that carries the token counts, commonly the last one.
    """

    body: dict[str, Any]
    usage: Usage | None

    @property
    def finished(self) -> bool:
        """Whether a sample ends with this chunk."""
        return any(choice.get("finish_reason") for choice in self.body.get("choices") or ())


def parse_reply(body: dict[str, Any], *, request_id: str | None = None) -> Reply:
    """Check one chat completion.

    Raises:
        MalformedReply: choices missing or empty, a choice without message or finish_reason, or a null content that
            nothing explains.
    """
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices:
        raise _malformed(f"'choices' is {choices!r:.80}, expected a non-empty list", body)
    usage = parse_usage(body.get("usage"))
    rows: list[tuple[int, str, str | None]] = []
    for position, choice in enumerate(choices):
        message = choice.get("message") if isinstance(choice, dict) else None
        if not isinstance(message, dict):
            raise _malformed(f"choice {position} has no 'message'", body)
        reason = choice.get("finish_reason")
        if not isinstance(reason, str) or not reason:
            raise _malformed(f"choice {position} has finish_reason {reason!r}: the answer may be cut off", body)
        index = choice.get("index")
        text = content_text(message.get("content"))
        if text is None and not _explains_null(message, reason, usage):
            raise _malformed(f"choice {position} has content {message.get('content')!r:.80}", body)
        rows.append((index if isinstance(index, int) else position, reason, text))
    if len(rows) > 1:
        rows.sort(key=_index)
    return Reply(
        body=body,
        usage=usage,
        finish_reasons=tuple([row[1] for row in rows]),
        texts=tuple([row[2] for row in rows]),
        request_id=request_id,
    )


def parse_usage(usage: object) -> Usage | None:
    """Read a usage object; None when it is missing or cannot be true (negative, absurdly large, not numbers)."""
    if not isinstance(usage, dict):
        return None
    prompt, completion = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    if prompt is None or completion is None:
        return None
    if (total := _count(usage.get("total_tokens"))) is not None:
        # Some providers leave hidden reasoning out of completion_tokens and bill it all the same.
        completion = max(completion, total - prompt)
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        reasoning_tokens=_detail(usage, "completion_tokens_details", "reasoning_tokens"),
        cached_tokens=_detail(usage, "prompt_tokens_details", "cached_tokens"),
    )


def content_text(content: object) -> str | None:
    """The text of a message's content: a string, or the text parts of a list; None when there is none."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        texts = [part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str)]
        return "".join(texts) if texts else None
    return None


def _index(row: tuple[int, str, str | None]) -> int:
    return row[0]


def _explains_null(message: Mapping[str, Any], reason: str, usage: Usage | None) -> bool:
    if any(message.get(key) for key in ("tool_calls", "function_call", "refusal", "reasoning_content", "reasoning")):
        return True
    if reason == "content_filter":
        return True
    return reason == "length" and usage is not None and usage.reasoning_tokens > 0


def _count(value: object) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST_TOKENS:
        return value
    return None


def _detail(usage: Mapping[str, Any], group: str, key: str) -> int:
    details = usage.get(group)
    return (_count(details.get(key)) if isinstance(details, dict) else None) or 0


def _malformed(why: str, body: Mapping[str, Any]) -> MalformedReply:
    return MalformedReply(f"the reply is not a chat completion: {why}", status=200, body=json.dumps(body)[:500])
