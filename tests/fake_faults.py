"""The vocabulary of misbehaviour: what a test can script a :class:`tests.fake_provider.FakeProvider` to do."""

from __future__ import annotations

import email.utils
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

Payload = dict[str, Any]
Framing = Literal["length", "chunked", "close"]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """How one request is treated; the default is a well-formed answer, every field bends one thing.

    Content: ``status`` and ``error_body`` for errors, ``body`` replaces the whole 200 body, ``edit`` changes the
    completion (or the list of stream events) before it is sent. Delivery: framing, line ends, cuts, stalls.
    """

    status: int = 200
    error_body: Any = None
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    content_type: str | None = None
    edit: Callable[[Payload], Payload] | None = None
    edit_events: Callable[[list[Any]], list[Any]] | None = None
    billed: bool = True
    delay: float = 0.0
    gate: threading.Event | None = None
    hang_at: float | None = None  # stop sending after this share of the body (0: before the headers)
    cut_at: float | None = None  # close the connection after this share of the body
    reset: bool = False  # close with RST in place of FIN
    byte_pause: float = 0.0  # seconds between single bytes of the body
    piece: int | None = None  # bytes per write
    framing: Framing | None = None
    eol: bytes = b"\n"


@dataclass(frozen=True, kw_only=True)
class RejectParam:
    """A standing rule: 400 naming ``param`` whenever a request to ``model`` carries it (None: any model)."""

    param: str
    model: str | None = None
    message: str = "Unsupported parameter: '{param}' is not supported with this model."
    name_it: bool = True  # fill error.param, as OpenAI does; else only the message tells


@dataclass(frozen=True, kw_only=True)
class IgnoreParam:
    """A standing rule: ``param`` is accepted and has no effect."""

    param: str
    model: str | None = None


def ok(**changes: Any) -> Fault:
    return Fault(**changes)


def delay(seconds: float) -> Fault:
    return Fault(delay=seconds)


def wait_for(gate: threading.Event) -> Fault:
    """Answer once ``gate`` is set; the answer is billed when the request arrives."""
    return Fault(gate=gate)


def status(
    code: int,
    message: str = "scripted failure",
    *,
    type: str = "scripted_error",
    error_code: str | None = None,
    param: str | None = None,
    headers: dict[str, str] | None = None,
    body: Any = None,
) -> Fault:
    """An error status with an OpenAI error body, or with ``body`` (JSON value, or text as it is)."""
    shaped = {"error": {"message": message, "type": type, "param": param, "code": error_code}}
    return Fault(
        status=code,
        error_body=shaped if body is None else body,
        headers=tuple((headers or {}).items()),
        billed=False,
    )


def rate_limited(*, seconds: float | None = None, ms: float | None = None, date_in: float | None = None) -> Fault:
    """429 that asks to wait: ``retry-after`` in seconds, ``retry-after-ms``, or a date that many seconds ahead."""
    headers = {}
    if seconds is not None:
        headers["retry-after"] = f"{seconds:g}" if seconds < 1e15 else "9" * 30
    if ms is not None:
        headers["retry-after-ms"] = f"{ms:g}"
    if date_in is not None:
        headers["retry-after"] = email.utils.formatdate(time.time() + date_in, usegmt=True)
    return status(429, "Rate limit reached", type="rate_limit_error", error_code="rate_limit_exceeded", headers=headers)


def server_error(code: int = 500, *, well_formed: bool = True) -> Fault:
    body = None if well_formed else "<html><body>upstream error</body></html>"
    return status(code, "The server had an error", type="server_error", body=body)


def context_length_exceeded() -> Fault:
    return status(
        400,
        "This model's maximum context length is 128 tokens. However, your messages resulted in 999 tokens.",
        type="invalid_request_error",
        error_code="context_length_exceeded",
        param="messages",
    )


def too_long(*, window: int, prompt: int, cap: int) -> Fault:
    """A 400 that says how long the context window, the prompt and the token cap are."""
    return status(
        400,
        f"This model's maximum context length is {window} tokens. However, you requested {prompt + cap} tokens "
        f"({prompt} in the messages, {cap} in the completion).",
        type="invalid_request_error",
        error_code="context_length_exceeded",
        param="messages",
    )


def rejects(param: str, **how: Any) -> Fault:
    """One 400 that names ``param``, whether or not it was sent."""
    return rejection(RejectParam(param=param, **how))


def hang_before_headers() -> Fault:
    return Fault(hang_at=0.0)


def hang_between_chunks(share: float = 0.5) -> Fault:
    return Fault(hang_at=share)


def drip(seconds: float = 1.0) -> Fault:
    """One byte of the body every ``seconds``."""
    return Fault(byte_pause=seconds)


def early_close(framing: Framing = "chunked", *, share: float = 0.5) -> Fault:
    """FIN in the middle of the body; with framing "close" nothing but the content tells."""
    return Fault(cut_at=share, framing=framing)


def reset_mid_body(share: float = 0.5) -> Fault:
    return Fault(cut_at=share, reset=True)


def closed_before_headers() -> Fault:
    return Fault(cut_at=0.0)


def error_event(message: str = "The server had an error", *, type: str = "server_error", **extra: Any) -> Fault:
    """An error in the middle of a stream."""
    event = {"error": {"message": message, "type": type, "param": None, "code": None, **extra}}
    return Fault(edit_events=lambda events: [*events[:2], event])


def missing_done() -> Fault:
    return Fault(edit_events=lambda events: events[:-1])


def no_finish_reason() -> Fault:
    """A well-ended stream ([DONE] included) or reply whose finish_reason is null."""

    def blank(event: Any) -> Any:
        if not isinstance(event, dict):
            return event
        return {**event, "choices": [{**choice, "finish_reason": None} for choice in event["choices"]]}

    return Fault(edit=blank, edit_events=lambda events: [blank(event) for event in events])


def noisy_lines() -> Fault:
    """Comments, blank lines, keep-alives, event and id fields, doubled [DONE]: all legal."""
    noise = [b": keep-alive", b"", b"", b"event: message", b"id: 7", b"retry: 100", b"data:", b""]
    return Fault(edit_events=lambda events: [part for event in events for part in (*noise, event)] + ["[DONE]"])


def duplicated_events() -> Fault:
    """The chunk with the finish_reason, the usage and [DONE] arrive twice."""
    return Fault(edit_events=lambda events: [*events[:-3], *(event for event in events[-3:] for _ in (1, 2))])


def non_json_line() -> Fault:
    return Fault(edit_events=lambda events: [*events[:2], b'data: {"choices": [broken', b"", *events[2:]])


def split_utf8() -> Fault:
    """Every byte of the body in a write of its own."""
    return Fault(piece=1)


def crlf() -> Fault:
    return Fault(eol=b"\r\n")


def truncated_json() -> Fault:
    """A complete HTTP reply that holds half a JSON document."""
    return Fault(body=b'{"id": "chatcmpl-1", "object": "chat.completion", "choices": [{"index": 0, "mess')


def html_200() -> Fault:
    return Fault(body=b"<html><body>Welcome to nginx!</body></html>", content_type="text/html", billed=False)


def json_string_200() -> Fault:
    return Fault(body=b'"Hello there"')


def error_200(message: str = "Upstream overloaded", code: Any = 503) -> Fault:
    """An error body under status 200, as some gateways send it."""
    return Fault(body=json.dumps({"error": {"message": message, "code": code}}).encode())


def empty_choices() -> Fault:
    return Fault(edit=lambda body: {**body, "choices": []}, edit_events=lambda events: events[-2:])


def null_content(**message: Any) -> Fault:
    """Content null; ``message`` may hold what explains it (tool_calls, refusal, ...)."""
    return Fault(edit=lambda body: _each_message(body, {"content": None, **message}))


def fewer_choices(count: int) -> Fault:
    return Fault(edit=lambda body: {**body, "choices": body["choices"][:count]})


def no_usage() -> Fault:
    return Fault(
        edit=lambda body: {key: value for key, value in body.items() if key != "usage"},
        edit_events=lambda events: [e for e in events if not (isinstance(e, dict) and e.get("usage"))],
    )


def usage_says(prompt_tokens: Any, completion_tokens: Any, **more: Any) -> Fault:
    """A usage object of the test's choice, in replies and streams; the bill stays the truth."""
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, **more}
    return Fault(
        edit=lambda body: {**body, "usage": usage},
        edit_events=lambda events: [
            {**e, "usage": usage} if isinstance(e, dict) and e.get("usage") else e for e in events
        ],
    )


def negative_usage() -> Fault:
    return usage_says(-5, -7)


def huge_usage() -> Fault:
    return usage_says(10**15, 10**15)


def rejection(rule: RejectParam) -> Fault:
    return status(
        400,
        rule.message.format(param=rule.param),
        type="invalid_request_error",
        error_code="unsupported_parameter",
        param=rule.param if rule.name_it else None,
    )


def _each_message(body: Payload, message: Payload) -> Payload:
    return {
        **body,
        "choices": [{**choice, "message": {**choice["message"], **message}} for choice in body["choices"]],
    }
