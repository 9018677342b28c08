"""How many tokens a prompt can have at most, without a tokenizer."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

# Tokens that templates add: the longest default system lines and tool explanations in use stay below.
_BASE = 256
_PER_MESSAGE = 16
_TOOLS = 1024
_PER_TOOL = 32


def prompt_token_bound(payload: Mapping[str, Any]) -> int | None:
    """An upper bound on the prompt tokens of a request, without a tokenizer.

    Why it is one: tokens of byte-level BPE and of SentencePiece with byte fallback each stand for at least one byte of
    the text, so there are no more tokens than UTF-8 bytes. Tokenizers that normalise first (NFC, NFKC) may lengthen the
    text, so the longest of these forms counts. Counted is the JSON of the whole request, since servers render more than the
    messages into the prompt (tools, response_format, documents ...); its quotes, names and escapes only add. Chat
    templates add role markers (a few tokens a message) and fixed instructions (a system line, the explanation of
    tools), covered by an allowance.

    For English it is about 4 to 5 times the real count. Calls dominated by output hardly notice; for long prompts
    under a tight cap it is the price of certainty.

    Returns:
        None when the prompt holds images, audio or files: their tokens depend on content and model. Under a cap, such a
        call needs a worst case of the caller's own.
    """
    messages = payload.get("messages", payload.get("prompt"))
    if _has_media(messages):
        return None
    text = json.dumps(dict(payload), ensure_ascii=False, default=str)
    tools = payload.get("tools") or payload.get("functions") or ()
    allowance = _BASE + _PER_MESSAGE * (len(messages) if isinstance(messages, list | tuple) else 1)
    return _longest_bytes(text) + allowance + (_TOOLS + _PER_TOOL * len(tools) if tools else 0)


def _longest_bytes(text: str) -> int:
    if text.isascii():
        return len(text)
    forms = (text, unicodedata.normalize("NFC", text), unicodedata.normalize("NFKC", text))
    return max(len(form.encode(errors="surrogatepass")) for form in forms)


def _has_media(messages: object) -> bool:
    """Content parts other than text, at any message."""
    if not isinstance(messages, Sequence) or isinstance(messages, str):
        return False
    parts = [
        part
        for message in messages
        if isinstance(message, Mapping) and isinstance(message.get("content"), list)
        for part in message["content"]
    ]
    return any(isinstance(part, Mapping) and part.get("type", "text") not in ("text", "refusal") for part in parts)
