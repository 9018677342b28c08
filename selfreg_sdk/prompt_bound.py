"""How many tokens a prompt can have at most, without a tokenizer."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from selfreg_sdk.errors import ConfigError
from selfreg_sdk.payload import Payload, encode, messages_json

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

    Of a `Payload` the messages are measured once, by the JSON that is sent.

    Returns:
        None when the prompt holds images, audio or files: their tokens depend on content and model. Under a cap, such a
        call needs a worst case of the caller's own.
    """
    if isinstance(payload, Payload) and payload.get("messages"):
        measured = payload.once(_measured)
        if measured is None:
            return None
        rest = {name: value for name, value in payload.items() if name != "messages"}
        return measured + _fields_bytes(rest) + _allowance(payload, payload["messages"])
    messages = payload.get("messages", payload.get("prompt"))
    if _has_media(messages):
        return None
    return _longest_bytes(_text(dict(payload))) + _allowance(payload, messages)


def _measured(payload: Payload) -> int | None:
    """Bytes of the messages in their longest form, for `Payload.once`; None for media."""
    messages = payload["messages"]
    if _has_media(messages):
        return None
    try:
        written = payload.once(messages_json)
    except ConfigError:  # an inner model may take what JSON does not
        return _longest_bytes(_text(messages))
    if b"\\u" in written:  # an escape is shorter than what normalisation may make of its character
        return _longest_bytes(_text(messages))
    return len(written) if written.isascii() else _longest_bytes(written.decode())


def _fields_bytes(fields: Mapping[str, Any]) -> int:
    """Bytes of the other fields, spaced as templates print the tools among them."""
    try:
        written = encode(fields)
    except ConfigError:
        return _longest_bytes(_text(dict(fields)))
    if b"\\u" in written or not written.isascii():
        return _longest_bytes(_text(dict(fields)))
    return len(written) + written.count(b",") + written.count(b":")


def _allowance(payload: Mapping[str, Any], messages: object) -> int:
    tools = payload.get("tools") or payload.get("functions") or ()
    count = len(messages) if isinstance(messages, list | tuple) else 1
    return _BASE + _PER_MESSAGE * count + (_TOOLS + _PER_TOOL * len(tools) if tools else 0)


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _longest_bytes(text: str) -> int:
    if text.isascii():
        return len(text)
    forms = (text, unicodedata.normalize("NFC", text), unicodedata.normalize("NFKC", text))
    return max(len(form.encode(errors="surrogatepass")) for form in forms)


def _has_media(messages: object) -> bool:
    """Content parts other than text, at any message."""
    if not isinstance(messages, Sequence) or isinstance(messages, str):
        return False
    for message in messages:  # spelled out: nearly every message is plain text, and this is run over all of them
        content = message.get("content") if isinstance(message, (dict, Mapping)) else None
        if isinstance(content, list) and any(
            isinstance(part, Mapping) and part.get("type", "text") not in ("text", "refusal") for part in content
        ):
            return True
    return False
