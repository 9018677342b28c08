"""From what a server said to the typed error that tells the caller what to do.

Servers agree on the shape of errors only roughly, so the message is read where the structured fields are empty.
"""

from __future__ import annotations

import email.utils
import json
import math
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

from selfreg_sdk.errors import (
    AuthFailed,
    BadRequest,
    Billed,
    ContextLengthExceeded,
    NotFound,
    ParameterRejected,
    ProviderError,
    ProviderTimeout,
    RateLimited,
    ServerFailed,
)

# A complaint about one of these is about the request itself; dropping the field could not help.
_INDISPENSABLE = frozenset({"model", "messages", "stream"})

_CONTEXT_CODES = frozenset({"context_length_exceeded", "exceed_context_size_error", "context_window_exceeded"})
_CONTEXT_WORDS = re.compile(
    r"context[ _-]?(length|window|size)|prompt is too long|input is too long|too many (input )?tokens"
    r"|maximum prompt length|max_model_len|input token count",
    re.IGNORECASE,
)
_WINDOW = re.compile(r"maximum context length is (\d{1,9}) tokens", re.IGNORECASE)
_PROMPT = re.compile(r"(\d{1,9}) in the (?:messages|prompt)|has (\d{1,9}) input tokens", re.IGNORECASE)
_COMPLAINT = re.compile(
    r"unsupported|not (be )?(supported|permitted|allowed|enabled|available|valid|accepted)|(does|do)( not|n't) (support|accept)"
    r"|unrecognized|unknown|unexpected|extra (inputs|fields)|cannot|deprecated|invalid|may only|must be|must not"
    r"|should be|only the default|out of range|unmarshal|expected|is not one of|too (large|small|high|low)",
    re.IGNORECASE,
)
_BOTH = re.compile(r"cannot both|mutually exclusive|only (specify |use )?one of", re.IGNORECASE)
_QUOTED = re.compile(r"[`'\"]([A-Za-z_][\w.\[\]]*)[`'\"]")
_ANNOUNCED = re.compile(
    r"(?:parameters?|arguments?|fields?|propert(?:y|ies)|options?|inputs?)(?: supplied| provided)?:? +[`'\"\[]*"
    r"([A-Za-z_]\w*(?:, *[A-Za-z_]\w*)*)|struct field \w+\.(\w+)|on this model: (\w+)",
    re.IGNORECASE,
)
_LEADING = re.compile(r"^\W*([A-Za-z_][\w.]*)\s*(?::|=|must|should|is|cannot|may)", re.MULTILINE)
# Names that are no English words: their bare mention is a mention of the field.
_TELLING = re.compile(r"\b(temperature|verbosity|logprobs|[A-Za-z]+_\w+|[a-z]+[A-Z]\w+)\b")


def status_error(
    status: int, headers: Mapping[str, str], text: str, *, payload: Mapping[str, Any], url: str
) -> ProviderError:
    """The error for an HTTP status other than 2xx, from its headers and body."""
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        body = None
    well_formed, error = _error_object(body)
    said = _message(error) or _one_line(text) or "no reason given"
    return _build(status, error, said, text=text, payload=payload, url=url, headers=headers, well_formed=well_formed)


def reported_error(body: Mapping[str, Any], *, payload: Mapping[str, Any], url: str) -> ProviderError | None:
    """The error a 200 reply or a stream event carries instead of an answer; None when it carries none.

    Work may have been done before it, so it counts as possibly billed.
    """
    if not body.get("error") and body.get("object") != "error":
        return None
    _, error = _error_object(body)
    said = _message(error) or "no reason given"
    failure = _build(
        _implied_status(error), error, said, text=json.dumps(body), payload=payload, url=url, headers={},
        well_formed=False, prefix="error inside the reply",
    )  # fmt: skip
    failure.billed = "unknown"
    return failure


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds the server asks to wait: retry-after-ms, retry-after in seconds or as an HTTP date (RFC 9110 10.2.3)."""
    for name, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * scale
        except ValueError:
            continue
        if math.isfinite(seconds) and seconds >= 0:
            return seconds
    try:
        moment = email.utils.parsedate_to_datetime(headers.get("retry-after", ""))
        return max(0.0, moment.timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def rejected_parameter(error: Mapping[str, Any], payload: Mapping[str, Any]) -> str | None:
    """The field of ``payload`` a 400 complains about, or None.

    Taken from the structured ``param`` or location lists, else from the message. Only optional fields that were really
    sent count, so that text quoted from the prompt cannot pose as a field.
    """
    ours = {name for name in payload if name not in _INDISPENSABLE}
    for name in _structured_names(error):
        if found := _match(name, ours):
            return found
    message = _message(error)[:2000]
    if not _COMPLAINT.search(message):
        return None
    mentioned = [found for name in _mentioned_names(message) if (found := _match(name, ours))]
    if not mentioned:
        return None
    # "a and b cannot both be set": the first is the one people mean to keep.
    return (
        mentioned[1]
        if len(set(mentioned)) > 1 and mentioned[1] != mentioned[0] and _BOTH.search(message)
        else (mentioned[0])
    )


def _build(
    status: int | None,
    error: Mapping[str, Any],
    said: str,
    *,
    text: str,
    payload: Mapping[str, Any],
    url: str,
    headers: Mapping[str, str],
    well_formed: bool,
    prefix: str | None = None,
) -> ProviderError:
    message = f"{prefix or f'HTTP {status}'} from {url!r}: {said}"
    wait = retry_after(headers)
    code = str(error.get("code") or error.get("type") or "")
    if status is None:
        return ProviderError(message, retryable=True, billed="unknown", body=text)
    if status in (400, 413, 422):
        return _bad_request(status, error, message, code, text=text, payload=payload)
    if status in (401, 403):
        return AuthFailed(f"{message}. Check the API key and what it may use.", status=status, body=text)
    if status == 404:
        return NotFound(f"{message}{_path_hint(url)}", status=status, body=text)
    if status == 408:
        return ProviderTimeout(message, status=status, retry_after=wait, body=text)
    if status == 429:
        # An exhausted quota is reported as 429 too, and waiting does not refill it.
        again = "insufficient_quota" not in (code, error.get("type")) and "exceeded your current quota" not in said
        return RateLimited(message, retryable=again, status=status, retry_after=wait, body=text)
    if status >= 500:
        billed: Billed = "no" if well_formed else "unknown"
        return ServerFailed(message, billed=billed, status=status, retry_after=wait, body=text)
    return ProviderError(message, retryable=status == 409, status=status, retry_after=wait, body=text)


def _bad_request(
    status: int, error: Mapping[str, Any], message: str, code: str, *, text: str, payload: Mapping[str, Any]
) -> BadRequest:
    if code in _CONTEXT_CODES or _CONTEXT_WORDS.search(_message(error)[:2000]):
        too_long = ContextLengthExceeded(message, status=status, body=text)
        too_long.room = _room(_message(error)[:2000])
        return too_long
    if name := rejected_parameter(error, payload):
        return ParameterRejected(message, param=name, status=status, body=text)
    failure = BadRequest(message, status=status, body=text)
    named = error.get("param")
    failure.param = named if isinstance(named, str) else None
    return failure


def _room(message: str) -> int | None:
    """Output tokens that fit, from "maximum context length is 2048 tokens ... (100 in the messages, ...)"; None if unsaid."""
    window, prompt = _WINDOW.search(message), _PROMPT.search(message)
    if window is None or prompt is None:
        return None
    return max(int(window[1]) - int(prompt[1] or prompt[2]), 0)


def _error_object(body: object) -> tuple[bool, Mapping[str, Any]]:
    """Whether the body is a well-formed OpenAI error, and the object that describes the error."""
    if isinstance(body, list) and body:  # Gemini's compatible endpoint wraps its errors in a list
        body = body[0]
    if not isinstance(body, dict):
        return False, {}
    error = body.get("error")
    if isinstance(error, dict):
        return isinstance(error.get("message"), str), error
    if isinstance(error, str):  # Ollama
        return False, {**body, "message": error}
    return False, body


def _message(error: Mapping[str, Any]) -> str:
    for key in ("message", "detail", "error"):
        value = error.get(key)
        if isinstance(value, str) and value:
            return _one_line(value)
        if isinstance(value, (dict, list)) and value:
            return _one_line(json.dumps(value))
    return ""


def _one_line(text: str) -> str:
    return " ".join(text[:4000].split())[:500]


def _implied_status(error: Mapping[str, Any]) -> int | None:
    for value in (error.get("code"), error.get("status"), error.get("status_code")):
        if isinstance(value, int) and 400 <= value < 600:
            return value
        if isinstance(value, str) and value.isdecimal() and 400 <= int(value[:4]) < 600:
            return int(value)
    kind = f"{error.get('type')} {error.get('code')}".lower()
    for words, status in (
        ("rate_limit", 429), ("insufficient_quota", 429), ("invalid_request", 400), ("context_length", 400),
        ("authentication", 401), ("permission", 403), ("not_found", 404), ("overloaded", 503), ("server_error", 500),
        ("api_error", 500), ("internal", 500),
    ):  # fmt: skip
        if words in kind:
            return status
    return None


def _structured_names(error: Mapping[str, Any]) -> Iterator[str]:
    param = error.get("param")
    if isinstance(param, str):
        yield param
    nested = error.get("message")
    places = [error.get("detail"), nested.get("detail") if isinstance(nested, dict) else nested]
    for place in places:
        if not isinstance(place, list):
            continue
        for item in place:
            loc = item.get("loc") if isinstance(item, dict) else None
            if isinstance(loc, list):
                yield from (str(part) for part in loc if part != "body")


def _mentioned_names(message: str) -> Iterator[str]:
    """Names the message seems to talk about, the surest forms first, each in the order of mention."""
    yield from (match[1] for match in _QUOTED.finditer(message))
    for match in _ANNOUNCED.finditer(message):
        yield from (name for group in match.groups() if group for name in re.split(r", *", group))
    yield from (match[1] for match in _LEADING.finditer(message))
    yield from (match[1] for match in _TELLING.finditer(message))


def _match(name: str, ours: set[str]) -> str | None:
    """The sent field that ``name`` means: itself, the head of a path (``a.b[0]``), or its camelCase spelling."""
    head = re.split(r"[.\[]", name, maxsplit=1)[0]
    if head in ours:
        return head
    snake = re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", head).lower()
    return snake if snake in ours else None


def _path_hint(url: str) -> str:
    if re.search(r"/v\d", url):
        return ". Check the model name (GET /models lists what the server has)."
    return f". OpenAI-compatible servers commonly answer under /v1: try base_url={url.rstrip('/') + '/v1'!r}."
