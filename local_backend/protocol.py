"""The wire, inbound: what a chat completion request may say, and how it is refused.

OpenAI's chat completions plus the `selfreg` extension. One rule above all: nothing is ignored. A field is
honoured, or known to have no effect (`user`, `metadata`), or the request is refused by an error that names it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NoReturn, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

MAX_SAMPLES = 64
MAX_STOPS = 4

UNSUPPORTED: Mapping[str, tuple[object, ...]] = {
    "audio": (),
    "function_call": ("none",),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "parallel_tool_calls": (),
    "prediction": (),
    "reasoning_effort": (),
    "response_format": ({"type": "text"},),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "tool_choice": ("none",),
    "tools": ([],),
    "top_logprobs": (0,),
    "verbosity": (),
    "web_search_options": (),
}
"""Options of the OpenAI API that this server lacks, each with the values that ask for nothing."""


class ApiError(Exception):
    """A refusal in OpenAI's shape; `param` names the offending field so that clients can react to it."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.param = param
        self.code = code
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """The JSON body: {"error": {message, type, param, code}}."""
        kind = _ERROR_TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


_ERROR_TYPES = {401: "authentication_error", 429: "rate_limit_error"}


def _plain_text(content: object) -> object:
    """Content parts to one string, joined by newlines as vLLM does; only text parts exist here."""
    if not isinstance(content, list):
        if isinstance(content, str):
            return content
        raise ValueError('must be a string or a list of {"type": "text", "text": ...} parts')
    texts: list[str] = []
    for index, part in enumerate(content):
        if not isinstance(part, dict) or set(part) != {"type", "text"} or not isinstance(part["text"], str):
            raise ValueError(f'part {index} must be {{"type": "text", "text": ...}}; this model reads text alone')
        if part["type"] != "text":
            raise ValueError(f"part {index} has type {part['type']!r}; this model reads text alone")
        texts.append(part["text"])
    return "\n".join(texts)


def _stops(stop: object) -> object:
    """None, one string or a list of strings to a tuple."""
    stops = [] if stop is None else [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list) or not all(isinstance(text, str) for text in stops):
        raise ValueError("must be a string or a list of strings")
    if len(stops) > MAX_STOPS:
        raise ValueError(f"may hold at most {MAX_STOPS} strings, got {len(stops)}")
    if "" in stops:
        raise ValueError("an empty stop string would stop before the first token; leave it out")
    return tuple(stops)


class _Wire(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class Message(_Wire):
    """One turn. `name` is handed to the chat template; the null fields are what clients send back with a reply."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, BeforeValidator(_plain_text)]
    name: str | None = None
    refusal: None = None
    audio: None = None
    function_call: None = None
    tool_calls: None = None


class _Range(_Wire):
    min: float | None
    max: float | None

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min!r} is above max {self.max!r}")
        return self

    def within(self, low: float, high: float) -> tuple[float, float]:
        """The bounds, with `low` and `high` for the open sides."""
        return low if self.min is None else self.min, high if self.max is None else self.max


class TemperatureRange(_Range):
    """Closed bounds of the temperature; a side that is absent is open."""

    min: float | None = Field(None, ge=0, le=2)
    max: float | None = Field(None, ge=0, le=2)


class TopPRange(_Range):
    """Closed bounds of the nucleus mass; a side that is absent is open."""

    min: float | None = Field(None, gt=0, le=1)
    max: float | None = Field(None, gt=0, le=1)


class SelfregOptions(_Wire):
    """The extension: who decides temperature and top-p, within which bounds, and whether to report them per token.

    `auto` lets a model's heads decide, and the request's temperature and top_p multiply what they decide; a model without
    heads answers `fixed` whatever was asked, and says so. Temperature 0 is greedy under both, whatever the bounds.
    """

    mode: Literal["auto", "fixed"] = "auto"
    temperature: TemperatureRange = TemperatureRange()
    top_p: TopPRange = TopPRange()
    trace: bool = False


class StreamOptions(_Wire):
    """Options of a streamed answer."""

    include_usage: bool = False


class ChatRequest(_Wire):
    """A checked request for chat completions; an absent or null field has its default."""

    model: str
    messages: Annotated[list[Message], Field(min_length=1)]
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int = Field(1, ge=1, le=MAX_SAMPLES)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    stop: Annotated[tuple[str, ...], BeforeValidator(_stops)] = ()
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0, lt=2**31)
    min_p: float = Field(0.0, ge=0, le=1)
    repetition_penalty: float = Field(1.0, ge=0.01, le=100)
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    user: str | None = None
    metadata: dict[str, str] | None = None
    selfreg: SelfregOptions = SelfregOptions()

    @property
    def limit(self) -> int | None:
        """Most tokens of one sample, under either of its two names; None = up to the end of the context."""
        return self.max_completion_tokens if self.max_tokens is None else self.max_tokens

    @property
    def temperature_bounds(self) -> tuple[float, float]:
        """What the temperature of every token is kept inside."""
        return self.selfreg.temperature.within(0.0, float("inf"))

    @property
    def top_p_bounds(self) -> tuple[float, float]:
        """What the nucleus mass of every token is kept inside."""
        return self.selfreg.top_p.within(0.0, 1.0)


def parse_chat_request(body: bytes) -> ChatRequest:
    """Read a request body.

    Raises:
        ApiError: 400 with one message that names the field and the value.
    """
    try:
        data = json.loads(body, parse_constant=_refuse_constant)
        if b"\\u" in body:
            # An escape may spell half a surrogate pair: no text any tokenizer could encode.
            json.dumps(data, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise ApiError(f"The request body is not valid JSON: {error}", code="invalid_json") from None
    if not isinstance(data, dict):
        raise ApiError(f"The request body must be a JSON object, not {type(data).__name__}.", code="invalid_type")
    # OpenAI reads an explicit null as "not set".
    data = {name: value for name, value in data.items() if value is not None}
    for name in UNSUPPORTED.keys() & data.keys():
        _refuse_unsupported(name, data.pop(name))
    try:
        request = ChatRequest.model_validate(data)
    except ValidationError as error:
        raise _explain(error) from None
    _check_combinations(request)
    return request


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _refuse_unsupported(name: str, value: object) -> None:
    neutral = UNSUPPORTED[name]
    # bool is an int to ==, so types are compared too: logprobs=0 is a wrong type, not "off".
    if any(type(value) is type(same) and value == same for same in neutral):
        return
    if neutral:
        raise ApiError(
            f"Unsupported value: {name!r} is {_short(value)}; this server supports only {_short(neutral[0])}.",
            param=name,
            code="unsupported_value",
        )
    raise ApiError(
        f"Unsupported parameter: {name!r} is not supported with this model.", param=name, code="unsupported_parameter"
    )


def _check_combinations(request: ChatRequest) -> None:
    if request.stream_options is not None and not request.stream:
        raise ApiError("'stream_options' needs 'stream': true.", param="stream_options", code="invalid_value")
    both = {request.max_tokens, request.max_completion_tokens} - {None}
    if len(both) == 2:
        raise ApiError(
            f"'max_tokens' is {request.max_tokens} and 'max_completion_tokens' is {request.max_completion_tokens}: "
            "they are two names of one limit; send one of them.",
            param="max_tokens",
            code="invalid_value",
        )


def _explain(error: ValidationError) -> ApiError:
    """The first problem, in one sentence; unknown fields first, because a misspelt name explains the rest."""
    problems = error.errors(include_url=False)
    problem = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"]).lstrip(".")
    if problem["type"] == "missing":
        return ApiError(f"Missing required parameter: {where!r}.", param=where, code="missing_required_parameter")
    if problem["type"] == "extra_forbidden":
        return ApiError(f"Unknown parameter: {where!r}.", param=where, code="unknown_parameter")
    reason = problem["msg"].removeprefix("Value error, ").replace("Input should", "it should")
    return ApiError(
        f"Invalid value for {where!r}: got {_short(problem['input'])}; {reason}.",
        param=where,
        code="invalid_type" if problem["type"].endswith("_type") else "invalid_value",
    )


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= 80 else text[:77] + "..."
