from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import CHOICES, Plan, plan_json_schema

GOOD: dict[str, Any] = {
    "family": "maths",
    "determinism": "exact",
    "diversity": "one",
    "depth": "short",
    "length": "line",
}


def test_a_plan_writes_compact_json_in_field_order() -> None:
    text = Plan(**dict(reversed(GOOD.items()))).to_json()
    assert text == '{"family":"maths","determinism":"exact","diversity":"one","depth":"short","length":"line"}'
    assert Plan(**json.loads(text)) == Plan(**GOOD)


def test_the_closed_sets_are_the_designed_ones() -> None:
    assert CHOICES == {
        "family": ("reasoning", "maths", "code", "translation", "creative", "extraction", "summary", "chat"),
        "determinism": ("exact", "steady", "open"),
        "diversity": ("one", "few", "many"),
        "depth": ("none", "short", "long"),
        "length": ("word", "line", "paragraph", "page"),
    }


@pytest.mark.parametrize("name", CHOICES)
@pytest.mark.parametrize("value", ["EXACT", "", None, 0.7, float("nan"), ["exact"], {"exact": 1}, "x" * 1_000_000])
def test_any_other_value_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"plan: {name}=.*must be one of"):
        Plan(**(GOOD | {name: value}))


@given(values=st.fixed_dictionaries({name: st.sampled_from(words) for name, words in CHOICES.items()}))
def test_the_schema_allows_exactly_the_plans(values: dict[str, Any]) -> None:
    schema = plan_json_schema()
    plan = Plan(**values).as_dict()
    assert list(plan) == schema["required"] == list(schema["properties"])
    assert all(plan[name] in schema["properties"][name]["enum"] for name in plan)


def test_the_schema_is_strict_in_the_sense_of_structured_output() -> None:
    schema = plan_json_schema()
    assert schema["additionalProperties"] is False
    assert set(schema["required"]) == set(schema["properties"]) == set(CHOICES)
    assert all(rule == {"type": "string", "enum": list(CHOICES[name])} for name, rule in schema["properties"].items())
    assert json.loads(json.dumps(schema)) == schema
