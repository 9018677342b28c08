"""F32: two requests that differ in any wire field never share a reply; repeats of one request are kept apart."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from selfreg_sdk.cache import ResponseCache, cache_key
from selfreg_sdk.errors import ConfigError
from selfreg_sdk.meter import Meter
from selfreg_sdk.store import Store
from selfreg_sdk.store.responses import Responses
from selfreg_sdk.usage import Usage
from tests.faults.spending import INFO

ENDPOINT = "http://localhost:1/v1"

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-2, 2) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
# Every field a chat completion request is known to have, and some that only one server has.
FIELDS = (
    "model",
    "messages",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "n",
    "max_tokens",
    "max_completion_tokens",
    "stop",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "reasoning_effort",
    "verbosity",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "response_format",
    "logit_bias",
    "logprobs",
    "top_logprobs",
    "stream",
    "stream_options",
    "user",
    "metadata",
    "store",
    "service_tier",
    "modalities",
    "prediction",
    "web_search_options",
    "chat_template_kwargs",
    "guided_json",
    "selfreg",
    "x_vendor_field",
)
PAYLOADS = st.dictionaries(st.sampled_from(FIELDS), JSON_VALUES, min_size=1, max_size=6)

Key = Callable[[Mapping[str, Any]], str]


def ours(payload: Mapping[str, Any]) -> str:
    return cache_key(payload, endpoint=ENDPOINT)


def without_temperature(payload: Mapping[str, Any]) -> str:
    """Broken on purpose: forgets a field, as other caches did."""
    return ours({name: value for name, value in payload.items() if name != "temperature"})


def same_on_the_wire(left: object, right: object) -> bool:
    """Equal as JSON text: unlike in Python, 1, 1.0 and True are three things."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same_on_the_wire(left[name], right[name]) for name in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same_on_the_wire, left, right))
    return repr(left) == repr(right)


def fields_that_collide(key: Key) -> list[str]:
    """Known fields whose presence, absence or value makes no difference to the key."""
    base = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    return [
        field
        for field in FIELDS
        if len({key({**base, field: 0.5}), key({**base, field: 0.9}), key({**base, field: None}), key(base)}) < 4
        and field not in base
    ]


def test_f32_every_known_field_is_part_of_the_key() -> None:
    assert fields_that_collide(ours) == []


def test_f32_the_check_catches_a_key_that_drops_temperature() -> None:
    assert fields_that_collide(without_temperature) == ["temperature"]


@settings(max_examples=150, deadline=None)
@given(PAYLOADS, PAYLOADS)
def test_f32_two_requests_share_a_key_only_if_they_are_the_same(left: dict[str, Any], right: dict[str, Any]) -> None:
    assert (ours(left) == ours(right)) == same_on_the_wire(left, right)


@settings(max_examples=100, deadline=None)
@given(PAYLOADS, st.data())
def test_f32_one_changed_field_is_another_request(payload: dict[str, Any], data: st.DataObject) -> None:
    field = data.draw(st.sampled_from(FIELDS))
    changed = copy.deepcopy(payload)
    changed[field] = data.draw(JSON_VALUES)
    same = field in payload and same_on_the_wire(payload[field], changed[field])
    assert (ours(payload) == ours(changed)) == same


@settings(max_examples=50, deadline=None)
@given(PAYLOADS)
def test_f32_the_order_of_fields_is_no_difference(payload: dict[str, Any]) -> None:
    assert ours(dict(reversed(payload.items()))) == ours(payload)


@pytest.mark.parametrize("pair", [(1, 1.0), (1, True), (0, False), (0.0, -0.0), ("1", 1), (None, "null"), ([], {})])
def test_f32_values_that_python_calls_equal_are_kept_apart(pair: tuple[object, object]) -> None:
    assert ours({"seed": pair[0]}) != ours({"seed": pair[1]})


def test_f32_the_endpoint_is_part_of_the_key_and_secrets_in_it_are_not() -> None:
    payload = {"model": "m"}
    plain = cache_key(payload, endpoint="https://host/v1")
    assert plain != cache_key(payload, endpoint="https://other/v1")
    assert plain == cache_key(payload, endpoint="https://user:sk-canary@HOST:443/v1/?key=sk-canary")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1: "a"}, object(), b"bytes", {"deep": [{None: 1}]}])
def test_f32_what_is_no_plain_json_gets_no_key(value: object) -> None:
    with pytest.raises(ConfigError, match="request"):
        ours({"model": "m", "metadata": value})


@pytest.fixture
def store() -> Iterator[Store]:
    with Store.open(":memory:") as opened:
        yield opened


def keep(store: Store, body: Mapping[str, Any], sample_index: int = 0) -> bool:
    """Settle a call with this reply; returns whether it was stored."""
    meter, cache = Meter(store), ResponseCache(store)
    reply = cache.record("key", body, sample_index=sample_index, model="m", endpoint=ENDPOINT)
    reservation = meter.reserve(scopes=[], worst=None, info=INFO)
    meter.settle(reservation, cost=None, usage=Usage(prompt_tokens=1, completion_tokens=1), response=reply)
    return cache.get("key", sample_index) == body


def body(*reasons: str | None) -> dict[str, Any]:
    return {"choices": [{"message": {"content": "hé"}, "finish_reason": reason} for reason in reasons]}


def test_f32_the_sample_index_keeps_repeats_apart(store: Store) -> None:
    assert keep(store, body("stop"), 0)
    assert keep(store, body("stop", "length"), 1)
    assert ResponseCache(store).get("key", 0) == body("stop")
    assert ResponseCache(store).get("key", 2) is None


@pytest.mark.parametrize("reasons", [("stop",), ("length",), ("tool_calls",), ("stop", "length"), ("end_turn",)])
def test_f32_whole_replies_are_kept(store: Store, reasons: tuple[str, ...]) -> None:
    assert keep(store, body(*reasons))


@pytest.mark.parametrize("reasons", [(None,), ("content_filter",), ("stop", None), ("stop", "content_filter"), ()])
def test_f32_cut_and_filtered_replies_are_never_kept(store: Store, reasons: tuple[str | None, ...]) -> None:
    assert not keep(store, body(*reasons))


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(JSON_VALUES)
def test_f32_a_hit_is_the_very_reply_that_was_received(store: Store, extra: Any) -> None:
    reply = body("stop") | {"extra": extra}
    sample_index = Responses(store).count()
    keep(store, reply, sample_index)
    assert same_on_the_wire(ResponseCache(store).get("key", sample_index), reply)
