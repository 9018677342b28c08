"""What a chat request may say: every field honoured, known to be harmless, or refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local_backend.protocol import UNSUPPORTED, ApiError, ChatRequest, parse_chat_request
from policies import Bounds, Capabilities, DecodingParams, HeadBounds
from policies.compile import wire_fields

HELLO = [{"role": "user", "content": "Hello"}]


def parse(**fields: Any) -> ChatRequest:
    return parse_chat_request(json.dumps({"model": "m", "messages": HELLO, **fields}).encode())


def refusal(**fields: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        parse(**fields)
    return caught.value


def test_absent_and_null_fields_mean_the_defaults() -> None:
    names = set(ChatRequest.model_fields) - {"model", "messages"}
    assert parse() == parse(**dict.fromkeys(names)) == parse(**dict.fromkeys(UNSUPPORTED))


@pytest.mark.parametrize(
    ("fields", "attribute", "value"),
    [
        ({"max_tokens": 5}, "limit", 5),
        ({"max_completion_tokens": 5}, "limit", 5),
        ({"max_tokens": 5, "max_completion_tokens": 5}, "limit", 5),
        ({"stop": "END"}, "stop", ("END",)),
        ({"stop": ["a", "b", "c", "d"]}, "stop", ("a", "b", "c", "d")),
        ({"stop": []}, "stop", ()),
        ({"temperature": 1}, "temperature", 1.0),
        ({}, "temperature_bounds", (0, float("inf"))),
        ({}, "top_p_bounds", (0, 1)),
        ({"selfreg": {"temperature": {"max": 0.7}}}, "temperature_bounds", (0, 0.7)),
        ({"selfreg": {"temperature": {"min": 1.2}}}, "temperature_bounds", (1.2, float("inf"))),
        ({"selfreg": {"mode": "auto", "top_p": {"min": 0.1, "max": 0.9}}}, "top_p_bounds", (0.1, 0.9)),
        ({"seed": -(2**63)}, "seed", -(2**63)),
    ],
)
def test_accepted(fields: dict[str, Any], attribute: str, value: object) -> None:
    assert getattr(parse(**fields), attribute) == value


def test_the_bounds_that_callers_send_by_default_are_understood() -> None:
    bounds = Bounds()
    sent = HeadBounds(temperature=bounds.temperature, top_p=bounds.top_p)
    request = parse(**wire_fields(DecodingParams(), Capabilities(model="m"), heads=sent))
    assert request.selfreg.mode == "auto"
    assert request.temperature_bounds == (bounds.temperature.low, bounds.temperature.high)
    assert request.top_p_bounds == (bounds.top_p.low, bounds.top_p.high)


@pytest.mark.parametrize(("name", "neutral"), [(n, v) for n, values in UNSUPPORTED.items() for v in values])
def test_unsupported_options_may_say_that_they_want_nothing(name: str, neutral: object) -> None:
    assert parse(**{name: neutral}) == parse()


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"temperature": "hot"}, "temperature", "invalid_type"),
        ({"temperature": True}, "temperature", "invalid_type"),
        ({"temperature": 2.1}, "temperature", "invalid_value"),
        ({"temperature": -0.1}, "temperature", "invalid_value"),
        ({"top_p": 0}, "top_p", "invalid_value"),
        ({"top_p": 1.01}, "top_p", "invalid_value"),
        ({"top_k": -1}, "top_k", "invalid_value"),
        ({"top_k": 1.5}, "top_k", "invalid_type"),
        ({"min_p": 2}, "min_p", "invalid_value"),
        ({"presence_penalty": 3}, "presence_penalty", "invalid_value"),
        ({"frequency_penalty": -3}, "frequency_penalty", "invalid_value"),
        ({"repetition_penalty": 0}, "repetition_penalty", "invalid_value"),
        ({"n": 0}, "n", "invalid_value"),
        ({"n": 65}, "n", "invalid_value"),
        ({"n": "2"}, "n", "invalid_type"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens", "invalid_value"),
        ({"seed": 2**63}, "seed", "invalid_value"),
        ({"seed": "x"}, "seed", "invalid_type"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop", "invalid_value"),
        ({"stop": ["a", 1]}, "stop", "invalid_value"),
        ({"stop": ""}, "stop", "invalid_value"),
        ({"stream": "yes"}, "stream", "invalid_type"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
        ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x", "unknown_parameter"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": "Hello"}, "messages", "invalid_type"),
        ({"messages": None}, "messages", "missing_required_parameter"),
        ({"model": None}, "model", "missing_required_parameter"),
        ({"model": 1}, "model", "invalid_type"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "missing_required_parameter"),
        ({"messages": [*HELLO, {"role": "tool", "content": "x"}]}, "messages[1].role", "invalid_value"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content", "invalid_value"),
        ({"messages": [{"role": "user", "content": "x", "y": 1}]}, "messages[0].y", "unknown_parameter"),
        ({"metadata": {"a": 1}}, "metadata.a", "invalid_type"),
        ({"temprature": 1, "n": 0}, "temprature", "unknown_parameter"),
        ({"selfreg": {"mode": "on"}}, "selfreg.mode", "invalid_value"),
        ({"selfreg": {"temperature": {"min": 1, "max": 0.5}}}, "selfreg.temperature", "invalid_value"),
        ({"selfreg": {"top_p": {"max": 0}}}, "selfreg.top_p.max", "invalid_value"),
        ({"selfreg": {"heads": 1}}, "selfreg.heads", "unknown_parameter"),
        ({"reasoning_effort": "low"}, "reasoning_effort", "unsupported_parameter"),
        ({"verbosity": "low"}, "verbosity", "unsupported_parameter"),
        ({"tools": [{"type": "function"}]}, "tools", "unsupported_value"),
        ({"logprobs": True}, "logprobs", "unsupported_value"),
        ({"logprobs": 0}, "logprobs", "unsupported_value"),
        ({"logit_bias": {"5": 1}}, "logit_bias", "unsupported_value"),
        ({"response_format": {"type": "json_object"}}, "response_format", "unsupported_value"),
    ],
)
def test_refused_by_name(fields: dict[str, Any], param: str, code: str) -> None:
    error = refusal(**fields)
    assert (error.status, error.param, error.code) == (400, param, code)
    assert param in error.message


def test_a_message_shows_the_value_and_the_rule() -> None:
    assert refusal(temperature="hot").message == (
        "Invalid value for 'temperature': got \"hot\"; it should be a valid number."
    )
    assert "less than or equal to 64" in refusal(n=65).message
    assert len(refusal(stop=["x" * 10_000, 1]).message) < 300


def test_text_parts_are_one_text() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert parse(messages=[{"role": "user", "content": parts}]).messages[0].content == "one\ntwo"


@pytest.mark.parametrize("part", [{"type": "image_url", "image_url": {"url": "x"}}, {"type": "text"}, "one", None])
def test_other_parts_are_refused(part: object) -> None:
    assert refusal(messages=[{"role": "user", "content": [part]}]).param == "messages[0].content"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"NaN",
        b'{"model": NaN}',
        b'{"model": "\\ud800"}',
        b"[" * 100_000,
        b"[]",
        b"null",
        b"1" * 5000,
    ],
)
def test_no_json_object(body: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        parse_chat_request(body)
    assert caught.value.status == 400
    assert caught.value.code in ("invalid_json", "invalid_type")


WORDS = st.text(alphabet="ab{é", max_size=5)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.sampled_from(sorted({*ChatRequest.model_fields, *UNSUPPORTED, "surprise"}))


@given(st.dictionaries(FIELDS, JSON, max_size=4))
def test_any_json_is_a_request_or_a_refusal_that_names_a_field(fields: dict[str, Any]) -> None:
    try:
        request = parse(**fields)
    except ApiError as error:
        named = (error.param or "").partition(".")[0].partition("[")[0]
    else:
        assert 0 <= request.temperature <= 2
        assert 0 < request.top_p <= 1
        for low, high in (request.temperature_bounds, request.top_p_bounds):
            assert 0 <= low <= high
        assert fields.get("surprise") is None
        return
    assert named in fields
