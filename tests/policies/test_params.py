from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from policies import FIELDS, Adjustment, Bounds, DecodingParams, Interval, merge, parse_params

FULL: dict[str, Any] = {
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 40,
    "min_p": 0.05,
    "max_tokens": 100,
    "n": 3,
    "stop": ("END",),
    "seed": 0,
    "presence_penalty": -2.0,
    "frequency_penalty": 2.0,
    "repetition_penalty": 1.1,
    "reasoning_effort": "low",
    "verbosity": "high",
}


def test_set_fields_gives_back_every_field_in_order() -> None:
    assert list(FULL) == list(FIELDS)
    assert list(DecodingParams(**dict(reversed(FULL.items()))).set_fields().items()) == list(FULL.items())


def test_zero_is_set_and_none_is_not() -> None:
    params = DecodingParams(temperature=0, seed=0, min_p=0, top_p=None)
    assert params.set_fields() == {"temperature": 0, "min_p": 0, "seed": 0}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 0),
        ("temperature", 2),
        ("top_p", 1e-9),
        ("top_p", 1),
        ("top_k", 1),
        ("min_p", 0),
        ("min_p", 1),
        ("max_tokens", 1),
        ("n", 1),
        ("seed", -1),
        ("presence_penalty", 2),
        ("frequency_penalty", -2),
        ("repetition_penalty", 0.01),
    ],
)
def test_the_ends_of_every_range_are_inside(name: str, value: float) -> None:
    assert parse_params({name: value}).set_fields() == {name: value}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.01),
        ("temperature", 2.01),
        ("temperature", "hot"),
        ("temperature", "nan"),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("temperature", True),
        ("temperature", [0.5]),
        ("top_p", 0),
        ("top_p", 1.01),
        ("top_k", 0),
        ("top_k", -1),
        ("min_p", 1.1),
        ("max_tokens", 0),
        ("max_tokens", 2.5),
        ("max_tokens", True),
        ("n", 0),
        ("n", "many"),
        ("seed", False),
        ("stop", [1]),
        ("presence_penalty", 2.1),
        ("frequency_penalty", -2.1),
        ("repetition_penalty", 0),
        ("reasoning_effort", "extreme"),
        ("verbosity", "none"),
    ],
)
def test_a_bad_value_is_one_line_with_the_field_and_the_value(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name) as caught:
        parse_params({name: value})
    message = str(caught.value)
    shown = value[0] if name == "stop" else value
    assert repr(shown) in message
    assert "\n" not in message
    assert "pydantic" not in message


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'temprature' is not a decoding parameter; known ones: temperature, top_p"):
        parse_params({"temprature": 0.5})


def test_every_problem_is_named_once() -> None:
    with pytest.raises(ValueError, match=r"temperature=3.*; n=0") as caught:
        parse_params({"temperature": 3, "n": 0})
    assert str(caught.value).count("temperature") == 1


def test_a_huge_value_does_not_make_a_huge_message() -> None:
    with pytest.raises(ValueError, match="temperature='xxx") as caught:
        parse_params({"temperature": "x" * 1_000_000})
    assert len(str(caught.value)) < 300


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@given(values=st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=5) | st.integers(), json_values, max_size=4))
def test_untrusted_values_give_parameters_or_a_value_error(values: dict[Any, Any]) -> None:
    try:
        params = parse_params(values)
    except ValueError:  # anything else fails the test
        return
    assert parse_params(params.set_fields()) == params


def test_one_stop_string_is_a_tuple_of_one() -> None:
    assert DecodingParams.model_validate({"stop": "END"}) == DecodingParams(stop=("END",))
    assert DecodingParams.model_validate({"stop": ["a", "b"]}).stop == ("a", "b")


def test_parameters_are_values() -> None:
    params = DecodingParams(**FULL)
    assert params == DecodingParams(**FULL)
    assert hash(params) == hash(DecodingParams(**FULL))
    with pytest.raises(ValidationError, match="frozen"):
        params.temperature = 1.0


def test_replace_changes_unsets_and_validates() -> None:
    params = DecodingParams(temperature=0.5, n=2)
    assert params.replace(temperature=None, top_k=3).set_fields() == {"top_k": 3, "n": 2}
    assert params.temperature == 0.5
    with pytest.raises(ValueError, match="n=0"):
        params.replace(n=0)
    with pytest.raises(ValueError, match="'heat'"):
        params.replace(heat=1)


def test_merge_lets_the_first_layer_win_field_by_field() -> None:
    caller, policy, default = (
        DecodingParams(temperature=0),
        DecodingParams(temperature=1, n=2),
        DecodingParams(n=3, max_tokens=9),
    )
    merged = merge(caller, policy, default)
    assert merged == DecodingParams(temperature=0, n=2, max_tokens=9)
    assert hash(merged) == hash(DecodingParams(temperature=0, n=2, max_tokens=9))
    assert merge() == DecodingParams()


@given(low=st.floats(-10, 10), width=st.floats(0, 10), value=st.floats(-30, 30))
def test_clamp_gives_the_nearest_allowed_number(low: float, width: float, value: float) -> None:
    interval = Interval(low=low, high=low + width)
    nearest = interval.clamp(value)
    assert interval.low <= nearest <= interval.high
    assert nearest == value or nearest in (interval.low, interval.high)
    assert abs(nearest - value) <= min(abs(interval.low - value), abs(interval.high - value)) or nearest == value


def test_clamp_keeps_an_int_an_int() -> None:
    assert repr(Interval(low=1, high=4).clamp(9)) == "4"
    assert repr(Interval(low=1, high=4).clamp(0)) == "1"
    assert repr(Interval(low=1, high=4).clamp(9.0)) == "4.0"


def test_within_is_the_common_part_or_the_nearest_point() -> None:
    outer = Interval(low=0.5, high=1)
    assert Interval(low=0, high=0.7).within(outer) == Interval(low=0.5, high=0.7)
    assert Interval(low=0, high=2).within(outer) == outer
    assert Interval(low=0, high=0.2).within(outer) == Interval(low=0.5, high=0.5)


def test_an_empty_interval_is_refused() -> None:
    with pytest.raises(ValueError, match=r"low=1.0 > high=0.5"):
        Interval(low=1, high=0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "bounds: n=0 must be at least 1"),
        ({"max_tokens": -5}, "bounds: max_tokens=-5 must be at least 1"),
        ({"efforts": ("low", "extreme")}, r"bounds: efforts \['extreme'\] unknown"),
        ({"temperature": Interval(low=3, high=5)}, "bounds: temperature=3.0"),
        ({"temperature": Interval(low=-1, high=1)}, "bounds: temperature=-1.0"),
        ({"top_p": Interval(low=0, high=1)}, "bounds: top_p=0.0"),
    ],
)
def test_bounds_nobody_could_obey_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Bounds(**arguments)


def test_bounds_know_their_intervals() -> None:
    bounds = Bounds(n=3, max_tokens=50)
    found = {name: bounds.interval(name) for name in FIELDS}
    assert {name: limit for name, limit in found.items() if limit is not None} == {
        "temperature": Interval(low=0, high=2),
        "top_p": Interval(low=0.01, high=1),
        "n": Interval(low=1, high=3),
        "max_tokens": Interval(low=1, high=50),
    }


def test_by_default_no_policy_may_switch_reasoning_off() -> None:
    assert "none" not in Bounds().efforts


def test_an_adjustment_is_json() -> None:
    change = Adjustment(field="stop", wanted=("a",), sent=None, why="capability", detail="not taken")
    assert json.loads(json.dumps(change.as_dict())) == {
        "field": "stop",
        "wanted": ["a"],
        "sent": None,
        "why": "capability",
        "detail": "not taken",
    }
    assert set(change.as_dict()) == {field.name for field in dataclasses.fields(Adjustment)}
