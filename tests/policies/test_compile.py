"""One example a rule; that no combination escapes them is in test_property_no_escape.py."""

from __future__ import annotations

from typing import Any

import pytest

from policies import (
    FIELDS,
    Aggregation,
    Allowance,
    Bounds,
    Capabilities,
    Compiled,
    DecodingParams,
    Interval,
    Plan,
    Proposal,
    resolve,
)
from policies.compile import REASONING_ROOM
from policies.numbers import ANSWER_TOKENS, DEPTH_FACTOR, numbers
from tests.policies.compiling import changes, run, wish


def test_wishes_that_fit_are_sent_as_they_are() -> None:
    result = run(wish(temperature=0.3, top_p=0.9, n=2, stop=("a",), reasoning_effort="low"))
    assert result.sent == DecodingParams(temperature=0.3, top_p=0.9, n=2, stop=("a",), reasoning_effort="low")
    assert result.adjustments == ()
    assert result.wire == {"temperature": 0.3, "top_p": 0.9, "n": 2, "stop": ["a"], "reasoning_effort": "low"}


def test_nothing_wished_is_nothing_sent() -> None:
    result = run(wish())
    assert (result.sent, result.adjustments, result.wire) == (DecodingParams(), (), {})


def test_the_caller_wins_and_the_lost_wish_is_recorded() -> None:
    result = run(wish(temperature=0.3, n=2), DecodingParams(temperature=0, n=2))
    assert result.sent == DecodingParams(temperature=0, n=2)
    assert changes(result) == [("temperature", 0.3, 0, "caller")]


def test_the_caller_is_bound_by_nothing() -> None:
    everything = DecodingParams(temperature=2, top_p=0.5, n=50, max_tokens=10**6, reasoning_effort="none", top_k=1)
    result = run(
        wish(),
        everything,
        capabilities=Capabilities(model="strict", exclusive=(("temperature", "top_p"),), max_output_tokens=1),
        bounds=Bounds(),
        allowance=Allowance(completion_tokens=0),
    )
    assert (result.sent, result.adjustments) == (everything, ())


def test_defaults_fill_what_nobody_wished_and_obey_like_a_policy() -> None:
    result = run(
        wish(temperature=0.3), defaults=DecodingParams(temperature=1, max_tokens=9000), bounds=Bounds(max_tokens=100)
    )
    assert result.sent == DecodingParams(temperature=0.3, max_tokens=100)
    assert changes(result) == [("max_tokens", 9000, 100, "bound")]


def test_rejected_and_ignored_fields_are_not_sent_and_the_record_tells_them_apart() -> None:
    strict = Capabilities(model="strict", ignored=frozenset({"temperature"}))
    result = run(wish(temperature=0.3, top_k=5, max_tokens=9), capabilities=strict)
    assert result.sent == DecodingParams(max_tokens=9)
    assert [change.detail for change in result.adjustments] == [
        "strict takes temperature and ignores it",
        "strict does not take top_k",
    ]
    assert {change.why for change in result.adjustments} == {"capability"}


def test_one_sample_needs_no_field_and_no_record() -> None:
    result = run(wish(n=1), capabilities=Capabilities(model="strict"))
    assert (result.wire, result.adjustments) == ({}, ())


@pytest.mark.parametrize(
    ("wanted", "known", "sent"),
    [
        ("low", ("low", "high"), "low"),
        ("medium", ("low", "high"), "low"),  # a tie goes to the cheaper one
        ("max", ("low", "high"), "high"),
        ("minimal", ("none", "medium"), "medium"),  # never "none", though it is nearer
        ("low", ("none",), None),
        ("low", (), None),
        ("none", ("none", "low"), "minimal-is-not-known"),
    ],
)
def test_an_unknown_effort_becomes_the_nearest_known(wanted: str, known: tuple[Any, ...], sent: str | None) -> None:
    facts = Capabilities(model="m", accepted=frozenset({"reasoning_effort"}), efforts=known)
    result = run(wish(reasoning_effort=wanted), capabilities=facts)
    if sent == "minimal-is-not-known":
        assert changes(result) == [("reasoning_effort", "none", "low", "bound")]
        return
    assert result.sent.reasoning_effort == sent
    assert len(result.adjustments) == (wanted != sent)


def test_an_effort_outside_the_bounds_becomes_the_nearest_inside() -> None:
    result = run(wish(reasoning_effort="xhigh"), bounds=Bounds(efforts=("low", "max")))
    assert changes(result) == [("reasoning_effort", "xhigh", "low", "bound")]  # "max" is not known to the model


def test_reasoning_may_be_switched_off_only_where_the_bounds_say_so() -> None:
    off = wish(reasoning_effort="none")
    assert run(off).sent.reasoning_effort == "low"
    assert run(off, bounds=Bounds(efforts=("none", "low"))).sent.reasoning_effort == "none"


def test_bounds_clamp_first_and_then_the_model() -> None:
    facts = Capabilities(model="m", accepted=frozenset(FIELDS), ranges={"temperature": Interval(low=0, high=1)})
    result = run(wish(temperature=2), capabilities=facts, bounds=Bounds(temperature=Interval(low=0, high=1.5)))
    assert changes(result) == [("temperature", 2, 1.5, "bound"), ("temperature", 1.5, 1, "capability")]


def test_a_field_with_no_number_for_both_is_not_sent() -> None:
    result = run(
        wish(temperature=0.2),
        capabilities=resolve("gemini-3-pro"),
        bounds=Bounds(temperature=Interval(low=0, high=0.5)),
    )
    assert result.sent == DecodingParams()
    assert result.adjustments[-1].as_dict() | {"detail": ""} == {
        "field": "temperature",
        "wanted": 1.0,
        "sent": None,
        "why": "bound",
        "detail": "",
    }


def test_the_model_s_longest_answer_is_a_limit() -> None:
    facts = Capabilities(model="m", max_output_tokens=50)
    assert changes(run(wish(max_tokens=80), capabilities=facts)) == [("max_tokens", 80, 50, "capability")]


# --- conflicts -------------------------------------------------------------------------------------------------------

OPUS = resolve("claude-opus-4-1", vendor="anthropic")


def test_of_an_exclusive_group_the_first_wish_stays() -> None:
    result = run(wish(temperature=0.3, top_p=0.9), capabilities=OPUS)
    assert result.sent == DecodingParams(temperature=0.3)
    assert changes(result) == [("top_p", 0.9, None, "conflict")]


def test_of_an_exclusive_group_the_caller_s_field_stays() -> None:
    result = run(wish(temperature=0.3), DecodingParams(top_p=0.9), capabilities=OPUS)
    assert result.sent == DecodingParams(top_p=0.9)
    assert changes(result) == [("temperature", 0.3, None, "conflict")]


def test_a_caller_may_insist_on_both() -> None:
    both = DecodingParams(temperature=0.3, top_p=0.9)
    assert run(wish(temperature=1), both, capabilities=OPUS).sent == both


KIMI = resolve("kimi-k2", vendor="moonshot")


def test_many_samples_lift_the_temperature_to_what_the_model_takes() -> None:
    result = run(wish(temperature=0, n=5), capabilities=KIMI)
    assert result.sent == DecodingParams(temperature=0.3, n=5)


def test_samples_that_the_bounds_take_away_lift_nothing() -> None:
    assert run(wish(temperature=0, n=5), capabilities=KIMI, bounds=Bounds(n=1)).sent.temperature == 0


def test_the_caller_s_cold_temperature_costs_the_policy_its_samples() -> None:
    result = run(wish(n=5), DecodingParams(temperature=0), capabilities=KIMI)
    assert result.sent == DecodingParams(temperature=0)
    assert changes(result) == [("n", 5, None, "conflict")]


# --- the effort gate -------------------------------------------------------------------------------------------------

DEFAULT_OFF = resolve("gpt-5.1", vendor="openai")
DEFAULT_ON = resolve("gpt-5.5", vendor="openai")


@pytest.mark.parametrize(
    ("facts", "caller_effort", "wished_effort", "temperature_is_sent"),
    [
        (DEFAULT_OFF, None, None, True),
        (DEFAULT_OFF, None, "low", False),
        (DEFAULT_OFF, "none", "low", True),
        (DEFAULT_OFF, "low", None, False),
        (DEFAULT_ON, None, None, False),
        (DEFAULT_ON, None, "low", False),
        (DEFAULT_ON, "none", None, True),
        (DEFAULT_ON, "none", "high", True),
    ],
)
def test_sampling_goes_out_only_while_the_effort_is_none(
    facts: Capabilities, caller_effort: Any, wished_effort: Any, temperature_is_sent: bool
) -> None:
    proposal = wish(temperature=0.3, top_p=0.9, reasoning_effort=wished_effort)
    result = run(proposal, DecodingParams(reasoning_effort=caller_effort), capabilities=facts)
    assert (result.sent.temperature is not None) == temperature_is_sent
    assert (result.sent.top_p is not None) == temperature_is_sent
    assert result.sent.reasoning_effort == (caller_effort or wished_effort)


def test_an_effort_that_the_bounds_turn_on_again_closes_the_gate() -> None:
    """The wish opens the gate, the default bounds do not allow it: the temperature must not slip through."""
    result = run(wish(temperature=0.3, reasoning_effort="none"), capabilities=DEFAULT_ON, bounds=Bounds())
    assert result.sent == DecodingParams(reasoning_effort="low")
    assert changes(result) == [
        ("reasoning_effort", "none", "low", "bound"),
        ("temperature", 0.3, None, "capability"),
    ]


def test_a_wished_effort_does_not_break_the_caller_s_temperature() -> None:
    """Without our effort this call works, so the effort gives way, not the call."""
    result = run(wish(reasoning_effort="medium", top_p=0.9), DecodingParams(temperature=0.2), capabilities=DEFAULT_OFF)
    assert result.sent == DecodingParams(temperature=0.2, top_p=0.9)
    assert changes(result) == [("reasoning_effort", "medium", None, "conflict")]


def test_reasoning_is_not_switched_off_even_for_the_caller_s_temperature() -> None:
    """The provider will refuse it: it is for the caller to say reasoning_effort="none"."""
    result = run(wish(reasoning_effort="medium"), DecodingParams(temperature=0.2), capabilities=DEFAULT_ON)
    assert result.sent == DecodingParams(temperature=0.2, reasoning_effort="medium")


# --- plans and models that think -------------------------------------------------------------------------------------


def planned(depth: Any, facts: Capabilities, **caller: Any) -> Compiled:
    plan = Plan(family="maths", determinism="steady", diversity="one", depth=depth, length="word")
    proposal = Proposal(params=numbers(plan, Aggregation()), source="plan", plan=plan)
    return run(proposal, DecodingParams(**caller), capabilities=facts)


@pytest.mark.parametrize(
    ("depth", "facts", "caller", "effort", "room"),
    [
        ("none", resolve("gpt-4.1"), {}, None, 1),
        ("none", resolve("gpt-5"), {}, "low", REASONING_ROOM),
        ("none", DEFAULT_OFF, {}, None, 1),
        ("none", DEFAULT_OFF, {"reasoning_effort": "low"}, "low", REASONING_ROOM),
        ("long", DEFAULT_OFF, {}, "high", REASONING_ROOM),  # off by default, but the plan switches it on
        ("long", DEFAULT_ON, {"reasoning_effort": "none"}, "none", 1),
    ],
)
def test_a_plan_s_token_cap_leaves_room_for_hidden_reasoning(
    depth: str, facts: Capabilities, caller: dict[str, Any], effort: str | None, room: int
) -> None:
    result = planned(depth, facts, **caller)
    assert result.sent.reasoning_effort == effort
    assert result.sent.max_tokens == ANSWER_TOKENS["word"] * DEPTH_FACTOR[depth] * room


def test_a_plan_without_depth_keeps_its_temperature_where_thinking_is_off() -> None:
    assert planned("none", DEFAULT_OFF).sent.temperature == 0.3
    assert planned("long", DEFAULT_OFF).sent.temperature is None


def test_a_measured_token_cap_is_sent_as_measured() -> None:
    assert run(wish(max_tokens=64), capabilities=DEFAULT_ON).sent.max_tokens == 64


# --- money -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("caller", "wanted", "total", "n", "max_tokens"),
    [
        ({}, {"n": 4, "max_tokens": 100}, 400, 4, 100),
        ({}, {"n": 4, "max_tokens": 100}, 399, 3, 100),
        ({}, {"n": 4, "max_tokens": 100}, 100, 1, 100),
        ({}, {"n": 4, "max_tokens": 100}, 3, 1, 3),
        ({}, {"n": 4, "max_tokens": 100}, 0, 1, 1),  # one token of one sample: the meter refuses this call
        ({"n": 4}, {"max_tokens": 100}, 200, 4, 50),
        ({"n": 4}, {"max_tokens": 100}, 3, 4, 1),
        ({"max_tokens": 100}, {"n": 4}, 250, 2, 100),
        ({"max_tokens": 100}, {"n": 4}, 50, 1, 100),
        ({"max_tokens": 100, "n": 4}, {}, 50, 4, 100),
        ({}, {"max_tokens": 100}, 60, None, 60),
        ({}, {"n": 4}, 60, 4, None),  # no cap, no product: the meter quotes the model's maximum
        ({}, {"n": 4, "max_tokens": 100}, None, 4, 100),
    ],
)
def test_the_samples_and_then_the_token_cap_fit_the_money(
    caller: dict[str, int], wanted: dict[str, int], total: int | None, n: int | None, max_tokens: int | None
) -> None:
    result = run(wish(**wanted), DecodingParams(**caller), allowance=Allowance(completion_tokens=total))
    assert (result.sent.n, result.sent.max_tokens) == (n, max_tokens)
    changed = {name for name in wanted if wanted[name] != getattr(result.sent, name)}
    assert {change.field for change in result.adjustments} == changed
    assert {change.why for change in result.adjustments} <= {"budget"}
