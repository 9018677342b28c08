"""Which field a rejection means, across the dialects of providers; and the other readings of error bodies."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfreg_sdk.errors import (
    BadRequest,
    ContextLengthExceeded,
    NotFound,
    ParameterRejected,
    ProviderError,
    ProviderTimeout,
    RateLimited,
    ServerFailed,
)
from selfreg_sdk.wire.http_errors import rejected_parameter, reported_error, status_error

URL = "https://api.example.com/v1"
SENT: dict[str, Any] = {
    "model": "m", "messages": [], "temperature": 0.2, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "max_tokens": 9, "n": 2,
    "stop": ["x"], "seed": 1, "presence_penalty": 1, "frequency_penalty": 1, "reasoning_effort": "low",
    "verbosity": "low", "stream_options": {}, "user": "u", "selfreg": {},
}  # fmt: skip


def openai_error(message: str, **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None, **more}}


def failure(body: Any, status: int = 400, headers: dict[str, str] | None = None, url: str = URL) -> ProviderError:
    text = body if isinstance(body, str) else json.dumps(body)
    return status_error(status, headers or {}, text, payload=SENT, url=url)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        # OpenAI
        (openai_error("whatever", param="temperature"), "temperature"),
        (openai_error("whatever", param="stream_options.include_usage"), "stream_options"),
        (openai_error("Unsupported parameter: 'max_tokens' is not supported with this model. Use "
                      "'max_completion_tokens' instead."), "max_tokens"),
        (openai_error("Unsupported value: 'temperature' does not support 0.2 with this model. Only the default (1) value "
                      "is supported."), "temperature"),
        (openai_error("Unrecognized request argument supplied: top_k"), "top_k"),
        (openai_error("Unrecognized request arguments supplied: min_p, top_k"), "min_p"),
        (openai_error("Unknown parameter: 'selfreg'."), "selfreg"),
        (openai_error("Additional properties are not allowed ('verbosity' was unexpected)"), "verbosity"),
        # Anthropic, Bedrock
        (openai_error("`temperature` and `top_p` cannot both be specified for this model. Please use only one."), "top_p"),
        (openai_error("`temperature` may only be set to 1 when thinking is enabled."), "temperature"),
        (openai_error("top_k: Extra inputs are not permitted"), "top_k"),
        ({"type": "error", "error": {"type": "invalid_request_error", "message": "temperature: range: 0..1 expected"}},
         "temperature"),
        # FastAPI, Mistral, vLLM
        ({"detail": [{"loc": ["body", "seed"], "msg": "extra fields not permitted", "type": "value_error"}]}, "seed"),
        ({"object": "error", "message": {"detail": [{"type": "extra_forbidden", "loc": ["body", "min_p"]}]}}, "min_p"),
        (openai_error("[{'type': 'extra_forbidden', 'loc': ('body', 'top_k'), 'msg': 'Extra inputs are not permitted'}]"),
         "top_k"),
        ({"object": "error", "message": "top_p must be in (0, 1], got 2.0.", "code": 400}, "top_p"),
        # Ollama
        ({"error": "json: cannot unmarshal string into Go struct field ChatCompletionRequest.seed of type int"}, "seed"),
        ({"error": {"message": "invalid option provided: min_p"}}, "min_p"),
        # Gemini, xAI, DeepSeek, Groq, LiteLLM, TGI, Fireworks
        ([{"error": {"code": 400, "message": 'Invalid JSON payload received. Unknown name "frequency_penalty": Cannot '
                     'find field.'}}], "frequency_penalty"),
        ({"code": "400", "error": "Argument not supported on this model: presencePenalty"}, "presence_penalty"),
        ({"error": "Model grok does not support parameter reasoningEffort."}, "reasoning_effort"),
        (openai_error("Invalid temperature value, the valid range of temperature is [0, 2.0]"), "temperature"),
        (openai_error("property 'user' is unsupported"), "user"),
        (openai_error("gpt-5 models don't support temperature=0.2. Only temperature=1 is supported"), "temperature"),
        (openai_error("openai does not support parameters: ['top_k'], for model=x"), "top_k"),
        ({"error": "Input validation error: `top_p` must be > 0.0 and < 1.0", "error_type": "validation"}, "top_p"),
        (openai_error("Extra inputs are not permitted, field: 'verbosity', value: 1"), "verbosity"),
        (openai_error("'n' must be 1 for this model", param="n"), "n"),
    ],
)  # fmt: skip
def test_the_rejected_field_is_found(body: Any, param: str) -> None:
    error = failure(body)
    assert isinstance(error, ParameterRejected), error
    assert error.param == param
    assert (error.retryable, error.billed, error.status) == (False, "no", 400)


@pytest.mark.parametrize(
    "body",
    [
        openai_error("Invalid value for 'content': expected a string, got null.", param="messages.[0].content"),
        openai_error("The model 'm' is not supported", param="model"),
        openai_error("Unsupported parameter: 'logprobs'", param="logprobs"),  # never sent
        openai_error("You must stop asking in n ways; the seed user is invalid"),  # English words, no fields
        openai_error("Something about temperature happened"),  # no complaint
        openai_error("Invalid request"),
        "<html>Bad Request</html>",
        "",
        [],
        {"error": None},
        {"detail": [None, {"loc": 3}]},
    ],
)
def test_other_bad_requests_name_no_field_of_ours(body: Any) -> None:
    assert type(failure(body)) is BadRequest


def test_a_bad_request_keeps_the_name_the_provider_gave() -> None:
    error = failure(openai_error("x", param="messages.[0].content"))
    assert isinstance(error, BadRequest)
    assert error.param == "messages.[0].content"


@settings(max_examples=50)
@given(
    st.recursive(
        st.none() | st.integers() | st.sampled_from([*SENT, "error", "invalid", "body", "500", ""]),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
            st.sampled_from(["error", "message", "param", "detail", "loc", "code", "type", "status"]), inner, max_size=4
        ),
        max_leaves=8,
    ),
    st.integers(300, 599),
    st.dictionaries(st.sampled_from(["retry-after", "retry-after-ms"]), st.text()),
)  # fmt: skip
def test_no_error_body_breaks_the_reading(body: Any, status: int, headers: dict[str, str]) -> None:
    error = failure(body, status, headers)
    assert isinstance(error, ProviderError)
    assert error.status == status
    assert error.retry_after is None or error.retry_after >= 0
    if isinstance(error, ParameterRejected):
        assert error.param in SENT.keys() - {"model", "messages", "stream"}
    if isinstance(body, dict):
        inside = reported_error(body, payload=SENT, url=URL)
        assert inside is None or inside.billed == "unknown"


@settings(max_examples=50)
@given(st.text(), st.sets(st.sampled_from(sorted(SENT))))
def test_only_fields_that_were_sent_are_named(message: str, sent: set[str]) -> None:
    payload = {name: 1 for name in sent}
    for text in (message, f"Unsupported parameter: '{message}'", *(f"'{name}' is not supported" for name in SENT)):
        found = rejected_parameter({"message": text}, payload)
        assert found is None or found in sent


@pytest.mark.parametrize(
    "body",
    [
        openai_error("x", code="context_length_exceeded", param="messages"),
        openai_error("This model's maximum context length is 8192 tokens.", param="max_tokens"),
        openai_error("prompt is too long: 210000 tokens > 200000 maximum"),
        openai_error("'max_tokens' or 'max_completion_tokens' is too large: 5000. This model's maximum context length is"),
        {"error": {"code": 400, "message": "the request exceeds the available context size", "type": "exceed_context_size_error"}},
        [{"error": {"message": "The input token count (9) exceeds the maximum number of tokens allowed (1)."}}],
    ],
)  # fmt: skip
def test_a_full_context_window_is_not_taken_for_a_rejected_field(body: Any) -> None:
    assert type(failure(body)) is ContextLengthExceeded


@pytest.mark.parametrize(
    ("status", "kind", "retryable", "billed"),
    [
        (402, ProviderError, False, "no"),
        (405, ProviderError, False, "no"),
        (408, ProviderTimeout, True, "unknown"),
        (409, ProviderError, True, "no"),
        (413, BadRequest, False, "no"),
        (418, ProviderError, False, "no"),
        (429, RateLimited, True, "no"),
        (500, ServerFailed, True, "no"),
        (529, ServerFailed, True, "no"),
    ],
)
def test_other_statuses(status: int, kind: type[ProviderError], retryable: bool, billed: str) -> None:
    error = failure(openai_error("why"), status)
    assert (type(error), error.retryable, error.billed) == (kind, retryable, billed)
    assert str(status) in str(error)
    assert "why" in str(error)


def test_not_found_speaks_of_the_model_where_the_path_is_right() -> None:
    error = failure(openai_error("The model 'm' does not exist", code="model_not_found"), 404)
    assert isinstance(error, NotFound)
    assert "model name" in str(error)


def test_a_long_body_is_cut() -> None:
    error = failure("x" * 100_000, 500)
    assert len(error.body or "") == 500
    assert len(str(error)) < 1000
