"""Heads, and the form in which parameters go on the wire."""

from __future__ import annotations

from typing import Any

import pytest

from policies import (
    FIELDS,
    Bounds,
    Capabilities,
    DecodingParams,
    HeadBounds,
    Interval,
    wire_fields,
)
from tests.policies.compiling import ANY, changes, run, wish


def test_heads_replace_the_numbers_and_choose_inside_the_bounds() -> None:
    result = run(
        wish(HeadBounds(temperature=Interval(low=0, high=2)), temperature=0.3, n=2),
        bounds=Bounds(n=2, temperature=Interval(low=0.1, high=1.2)),
    )
    assert result.sent == DecodingParams(n=2)
    assert result.wire["selfreg"] == {
        "mode": "auto",
        "temperature": {"min": 0.1, "max": 1.2},
        "top_p": {"min": 0.01, "max": 1.0},
    }
    assert changes(result) == [("temperature", {"min": 0, "max": 2}, {"min": 0.1, "max": 1.2}, "bound")]


def test_a_number_the_caller_insists_on_gets_no_limits() -> None:
    heads = HeadBounds(temperature=Interval(low=0.5, high=1))
    result = run(wish(heads), DecodingParams(temperature=0))
    assert result.wire["temperature"] == 0
    assert "temperature" not in result.wire["selfreg"]
    assert changes(result) == [("temperature", {"min": 0.5, "max": 1}, None, "caller")]


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_the_token_cap_takes_the_name_of_the_endpoint(name: Any) -> None:
    facts = Capabilities(model="m", token_cap_field=name)
    assert wire_fields(DecodingParams(max_tokens=5), facts) == {name: 5}


def test_every_field_has_its_place_on_the_wire() -> None:
    full = {
        "temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.05, "max_tokens": 9, "n": 3, "stop": ["END"], "seed": 0,
        "presence_penalty": -2.0, "frequency_penalty": 2.0, "repetition_penalty": 1.1, "reasoning_effort": "low",
        "verbosity": "high",
    }  # fmt: skip
    assert set(full) == set(FIELDS)
    assert wire_fields(DecodingParams.model_validate(full), ANY) == full
