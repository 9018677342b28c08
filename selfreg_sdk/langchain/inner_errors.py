"""From the exceptions of the provider SDKs, each with a tree of its own, to ours."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from policies import FIELDS
from selfreg_sdk.errors import (
    BadRequest,
    ConnectFailed,
    MalformedReply,
    ParameterRejected,
    ProviderError,
    ProviderTimeout,
    SelfregError,
)
from selfreg_sdk.langchain.inner_answers import Reading
from selfreg_sdk.wire.http_errors import rejected_parameter, reported_error, status_error

DECODING = frozenset(FIELDS) | {"max_completion_tokens"}
"""The fields of a request that are decoding parameters."""

_WHERE = "the model"
_UNEXPECTED = re.compile(r"unexpected keyword argument '(\w+)'")
_NOT_CONNECTED = frozenset(
    {"ConnectError", "ConnectTimeout", "ProxyError", "NewConnectionError", "ConnectionRefusedError"}
    | {"EndpointConnectionError", "ConnectTimeoutError", "NameResolutionError"}
)
_BROKEN_OFF = frozenset(
    {"RemoteProtocolError", "ReadError", "ProtocolError", "ServerDisconnectedError", "JSONDecodeError"}
    | {"ConnectionClosedError", "ResponseStreamingError", "ChunkedEncodingError", "ConnectionResetError"}
)
_TIMED_OUT = re.compile(r"Timeout|DeadlineExceeded")
_UNREACHED = re.compile(r"NewConnectionError|failed to connect to all addresses")
_CUT = re.compile(r"Unfinished stream|IncompleteRead")
_INNER_PATH = re.compile(r"\b(?:generation_?[cC]onfig|inferenceConfig|output_config|options|thinking_?[cC]onfig)\.")


@dataclass(frozen=True, kw_only=True)
class _Status:
    """What an SDK kept of an HTTP error."""

    status: int
    text: str
    headers: Mapping[str, str] = field(default_factory=dict)


@contextmanager
def typed_errors(
    payload: Mapping[str, Any], names: Callable[[Iterable[str]], Mapping[str, str]], reading: Reading | None = None
) -> Iterator[None]:
    """Turn exceptions of provider SDKs into ours.

    Args:
        payload: the request.
        names: for parameters of ours, from what servers and integrations call them to their names.
        reading: of the stream under way, None where one answer was asked for.
    """
    try:
        yield
    except SelfregError:
        raise
    except Exception as exc:
        known = names(name for name in payload if name in DECODING)
        raise _typed(exc, payload, known, reading) from exc


def _typed(exc: Exception, payload: Mapping[str, Any], names: Mapping[str, str], reading: Reading | None) -> Exception:
    causes = list(_causes(exc))
    kinds, why = {kind for cause in causes for kind in _kinds(cause)}, f"{type(exc).__name__}: {exc}"
    if any(kind == "DeadlineExceeded" for kind in kinds):
        return ProviderTimeout(f"the inner model gave no answer in time ({why[:300]})")
    if kinds & _NOT_CONNECTED or _UNREACHED.search(why):
        return ConnectFailed(f"the inner model cannot connect: {why[:300]}")
    if (said := next(filter(None, map(_status, causes)), None)) is not None:
        return _of_status(said, payload, names)
    if any(_TIMED_OUT.search(kind) for kind in kinds):
        return ProviderTimeout(f"the inner model gave no answer in time ({why[:300]})")
    if kinds & _BROKEN_OFF or type(exc) is ConnectionError or _CUT.search(why):
        return (
            MalformedReply(f"the inner model's reply broke off: {why[:300]}")
            if reading is None
            else reading.truncated(f"broke off: {why[:300]}")
        )
    if isinstance(exc, TypeError | ValueError):
        return _refused(exc, payload, names)
    if isinstance(exc, AttributeError | KeyError):
        return exc  # a mistake in code is not the provider's, and nothing tells that it was sent
    return ProviderError(f"the inner model failed: {why[:300]}", billed="unknown")


def _status(exc: BaseException) -> _Status | None:
    """The HTTP error behind an exception: most SDKs keep a response, AWS' a dict of it, Ollama's and Google's a code."""
    response = getattr(exc, "response", None)
    if isinstance(response, Mapping):
        about = response.get("ResponseMetadata", {})
        status, headers = about.get("HTTPStatusCode"), about.get("HTTPHeaders", {})
        error = response.get("Error", {})
        text = json.dumps({"error": {"message": str(error.get("Message") or exc), "code": error.get("Code")}})
    else:
        status = (
            getattr(exc, "status_code", None) or getattr(response, "status_code", None) or getattr(exc, "code", None)
        )
        headers = getattr(response, "headers", None) or {}
        body = getattr(response, "text", None)
        # Without a body, only the server's words are left.
        text = body if isinstance(body, str) else json.dumps({"error": str(getattr(exc, "error", None) or exc)})
    if isinstance(status, int) and 400 <= status < 600:
        return _Status(status=int(status), text=text, headers=headers)
    return None


def _of_status(said: _Status, payload: Mapping[str, Any], names: Mapping[str, str]) -> ProviderError:
    """The error for a status; what servers call a parameter of ours is looked for where its own name is not found."""
    error = status_error(said.status, said.headers, said.text, payload=payload, url=_WHERE)
    if type(error) is not BadRequest:
        return error
    text = _INNER_PATH.sub("", said.text)
    other = status_error(said.status, said.headers, text, payload={**payload, **names}, url=_WHERE)
    if isinstance(other, ParameterRejected) and other.param is not None:
        param = names.get(other.param, other.param)
        return ParameterRejected(str(error), param=param, status=said.status, body=said.text)
    return error


def _refused(exc: Exception, payload: Mapping[str, Any], names: Mapping[str, str]) -> Exception:
    """An argument that the integration or its SDK does not take, the error inside a reply, or else a mistake in code."""
    if exc.args and isinstance(exc.args[0], Mapping):  # ChatOpenAI raises the error object of a reply
        return reported_error({"error": dict(exc.args[0])}, payload=payload, url=_WHERE) or exc
    if str(exc).startswith("Received AWS exception"):
        return ProviderError(f"error inside the reply: {exc}"[:500], retryable=True, billed="unknown")
    unexpected = _UNEXPECTED.search(str(exc))
    if unexpected is not None:
        known = {*payload, *names}
        snake = re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", unexpected[1]).lower()  # AWS spells arguments its own way
        param = next((name for name in (unexpected[1], snake) if name in known), None)
    else:
        param = rejected_parameter({"message": _INNER_PATH.sub("", str(exc))}, names)
    if param is None:
        return exc
    return ParameterRejected(
        f"the inner model takes no {param!r}: {exc}"[:500], param=names.get(param, param), status=None
    )


def _causes(exc: BaseException | None) -> Iterator[BaseException]:
    while exc is not None:
        yield exc
        # Ollama's client hides the cause of a failed connection.
        exc = exc.__cause__ or (exc.__context__ if type(exc) is ConnectionError else None)


def _kinds(exc: BaseException) -> Iterator[str]:
    """Class names: what the SDKs' trees have in common."""
    yield from (kind.__name__ for kind in type(exc).__mro__)
