"""For every rule about models, one request over HTTP that proves it: what arrived, what did not, and why not."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from policies import Aggregation, Bounds, DecodingParams, Interval, StaticPolicy
from policies.model_rules import RULES, find_rule
from selfreg_sdk.answering import Outcome
from selfreg_sdk.assembly import Choices, Target, assemble
from selfreg_sdk.client import Client
from selfreg_sdk.facts import Request
from selfreg_sdk.runtime import runtime
from selfreg_sdk.vendors import Vendor
from selfreg_sdk.wire.replies import Reply
from tests.fake_provider import FakeProvider
from tests.sdk.regulated import ONCE

EVERYTHING: dict[str, Any] = {
    "temperature": 0.4,
    "top_p": 0.9,
    "top_k": 40,
    "min_p": 0.05,
    "max_tokens": 256,
    "n": 3,
    "stop": ["END"],
    "seed": 7,
    "presence_penalty": 0.5,
    "frequency_penalty": 0.25,
    "repetition_penalty": 1.1,
    "reasoning_effort": "high",
    "verbosity": "low",
}
PROTOCOL = ("temperature", "top_p", "n", "stop", "seed", "presence_penalty", "frequency_penalty")


def these(*names: str, **changed: Any) -> dict[str, Any]:
    return {name: EVERYTHING[name] for name in names} | changed


def openai(*names: str) -> dict[str, Any]:
    return these(*names, max_completion_tokens=256)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model of the rule, the decoding fields that arrive when everything is wanted, and reasons other than capability."""

    model: str
    arrives: dict[str, Any]
    why: dict[str, str] = field(default_factory=dict)
    api_version: str | None = None


CASES = {
    "gpt-chat-latest": Case(model="gpt-5.2-chat-latest", arrives=openai()),
    "gpt-5-pro": Case(model="gpt-5-pro", arrives=openai("reasoning_effort")),
    "gpt-pro-never-samples": Case(model="gpt-5.5-pro", arrives=openai("reasoning_effort", "verbosity")),
    "gpt-6-never-samples": Case(model="gpt-6.1-sol", arrives=openai("reasoning_effort", "verbosity")),
    "gpt-effort-none-default": Case(model="gpt-5.1", arrives=openai("reasoning_effort", "verbosity")),
    "gpt-effort-none-sent": Case(model="gpt-5.6-sol", arrives=openai("reasoning_effort", "verbosity")),
    "gpt-5-chat": Case(model="gpt-5-chat-latest", arrives=openai(*PROTOCOL)),
    "gpt-5": Case(model="gpt-5-mini", arrives=openai("reasoning_effort", "verbosity")),
    "o-series": Case(model="o4-mini", arrives=openai("reasoning_effort")),
    "gpt-classic": Case(model="gpt-4.1-mini", arrives=openai(*PROTOCOL)),
    "claude-api-2026-10": Case(
        model="claude-sonnet-4-6", arrives=these("max_tokens", "stop", "reasoning_effort"), api_version="2026-10-21"
    ),
    "claude-temperature-xor-top-p": Case(
        model="claude-sonnet-4-6",
        arrives=these("temperature", "top_k", "max_tokens", "stop"),
        why={"top_p": "conflict"},
        api_version="2023-06-01",
    ),
    "claude-classic": Case(
        model="claude-3-5-haiku-latest", arrives=these("temperature", "top_p", "top_k", "max_tokens", "stop")
    ),
    "claude-no-sampling": Case(
        model="claude-opus-4-7", arrives=these("max_tokens", "stop", "reasoning_effort"), api_version="2023-06-01"
    ),
    "gemini-ignores-sampling": Case(
        model="gemini-3.6-flash", arrives=these("max_tokens", "reasoning_effort")
    ),
    "gemini-3-warm-only": Case(
        model="gemini-3-pro",
        arrives=these(
            "top_p", "top_k", "max_tokens", "stop", "seed", "presence_penalty", "frequency_penalty",
            "reasoning_effort", temperature=1.0,
        ),
    ),
    "gemini-classic": Case(model="models/gemini-2.5-pro", arrives=these(*PROTOCOL, "top_k", "max_tokens")),
    "deepseek-thinking-ignores": Case(model="deepseek-reasoner", arrives=these("max_tokens", "reasoning_effort")),
    "deepseek-chat": Case(
        model="deepseek-chat",
        arrives=these("temperature", "top_p", "max_tokens", "stop", "presence_penalty", "frequency_penalty"),
    ),
    "grok-4.20-no-effort": Case(
        model="grok-4.20", arrives=these("temperature", "top_p", "max_tokens", "n", "seed")
    ),
    "grok-reasoning": Case(
        model="grok-4.3", arrives=these("temperature", "top_p", "max_tokens", "n", "seed", "reasoning_effort")
    ),
    "kimi-fixed-temperature": Case(model="kimi-k2.5", arrives=these("max_tokens")),
    "kimi-k2": Case(model="kimi-k2-instruct", arrives=these(*PROTOCOL, "max_tokens")),
    "mistral": Case(model="mistral-large-latest", arrives=these("temperature", "top_p", "max_tokens", "stop", "n")),
}  # fmt: skip


def ask(
    provider: FakeProvider,
    model: str,
    wanted: dict[str, Any],
    *,
    caller: dict[str, Any] | None = None,
    api_version: str | None = None,
    samples: str = "first",
    bounds: Bounds = Bounds(n=4),
) -> Outcome[Reply]:
    """One request to ``model`` whose policy wants ``wanted`` and whose caller insists on ``caller``."""
    with Client(base_url=provider.base_url) as client:
        target = Target(
            model=model, endpoint=client.endpoint, base_url=provider.base_url, vendor=Vendor(api_version=api_version)
        )
        policy = StaticPolicy(params=DecodingParams(**wanted))
        answering = assemble(
            target, Choices(policy=policy, bounds=bounds, retry=ONCE), runtime(":memory:"), planner=None
        )
        return answering.complete(
            Request(
                body={"model": model, "messages": [{"role": "user", "content": "hello"}]},
                caller=DecodingParams(**(caller or {})),
                aggregation=Aggregation.parse(samples),
            ),
            client,
        )


def arrived(provider: FakeProvider) -> dict[str, Any]:
    """The decoding fields of the only request."""
    (payload,) = provider.payloads
    return {name: value for name, value in payload.items() if name not in ("model", "messages")}


def reasons(outcome: Outcome[Reply]) -> dict[str, str]:
    return {change["field"]: change["why"] for change in outcome.record()["ignored"]}


@pytest.mark.parametrize("name", [rule.name for rule in RULES])
def test_a_rule(provider: FakeProvider, name: str) -> None:
    case = CASES[name]
    rule = find_rule(case.model, api_version=case.api_version)
    assert rule is not None
    assert rule.name == name
    outcome = ask(provider, case.model, EVERYTHING, api_version=case.api_version)
    assert arrived(provider) == case.arrives
    said = outcome.record()
    assert said["sent"] == case.arrives
    unchanged = {field for field, value in EVERYTHING.items() if case.arrives.get(field) == value} | (
        {"max_tokens"} if "max_completion_tokens" in case.arrives else set()
    )
    assert reasons(outcome) == {field: case.why.get(field, "capability") for field in EVERYTHING.keys() - unchanged}
    for change in said["ignored"]:
        assert change["wanted"] == (tuple(value) if isinstance(value := EVERYTHING[change["field"]], list) else value)
        assert change["sent"] == case.arrives.get(change["field"])
        assert change["detail"]


def test_the_cases_are_those_of_the_rules() -> None:
    assert CASES.keys() == {rule.name for rule in RULES}


def test_what_is_taken_and_ignored_is_told_from_what_is_refused(provider: FakeProvider) -> None:
    said = ask(provider, "gemini-3.6-flash", {"temperature": 0.4, "seed": 7}).record()["ignored"]
    assert {change["field"]: change["detail"] for change in said} == {
        "temperature": "gemini-3.6-flash takes temperature and ignores it",
        "seed": "gemini-3.6-flash does not take seed",
    }


# -- the effort gate: sampling only while the effort is "none" --------------------------------------------------------

SAMPLING = {"temperature": 0.4, "top_p": 0.9}


@pytest.mark.parametrize("model", ["gpt-5.1", "gpt-5.6-sol"])
def test_the_callers_effort_none_opens_the_gate(provider: FakeProvider, model: str) -> None:
    outcome = ask(provider, model, SAMPLING | {"reasoning_effort": "high"}, caller={"reasoning_effort": "none"})
    assert arrived(provider) == SAMPLING | {"reasoning_effort": "none"}
    assert reasons(outcome) == {"reasoning_effort": "caller"}


@pytest.mark.parametrize("model", ["gpt-5.1", "gpt-5.6-sol"])
def test_the_callers_effort_closes_the_gate(provider: FakeProvider, model: str) -> None:
    outcome = ask(provider, model, SAMPLING, caller={"reasoning_effort": "low"})
    assert arrived(provider) == {"reasoning_effort": "low"}
    assert reasons(outcome) == {"temperature": "capability", "top_p": "capability"}


def test_where_none_is_the_default_the_gate_is_open(provider: FakeProvider) -> None:
    assert reasons(ask(provider, "gpt-5.1", SAMPLING)) == {}
    assert arrived(provider) == SAMPLING


def test_where_reasoning_is_the_default_it_is_not_switched_off_for_a_temperature(provider: FakeProvider) -> None:
    outcome = ask(provider, "gpt-5.6-sol", SAMPLING)
    assert arrived(provider) == {}
    assert reasons(outcome) == {"temperature": "capability", "top_p": "capability"}


def test_a_policy_may_not_switch_reasoning_off(provider: FakeProvider) -> None:
    outcome = ask(provider, "gpt-5.6-sol", SAMPLING | {"reasoning_effort": "none"})
    assert "none" not in arrived(provider).values()
    assert reasons(outcome)["reasoning_effort"] == "bound"
    assert reasons(outcome)["temperature"] == "capability"


def test_the_callers_temperature_keeps_the_gate_open(provider: FakeProvider) -> None:
    outcome = ask(provider, "gpt-5.1", {"reasoning_effort": "high"}, caller={"temperature": 0.4})
    assert arrived(provider) == {"temperature": 0.4}
    assert reasons(outcome) == {"reasoning_effort": "conflict"}


# -- fields that exclude each other -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("caller", "arrives", "why"),
    [
        ({"top_p": 0.5}, {"top_p": 0.5}, {"temperature": "conflict", "top_p": "caller"}),
        ({"temperature": 0.1}, {"temperature": 0.1}, {"temperature": "caller", "top_p": "conflict"}),
        ({"temperature": 0.1, "top_p": 0.5}, {"temperature": 0.1, "top_p": 0.5}, dict.fromkeys(SAMPLING, "caller")),
    ],
)
def test_of_an_exclusive_group_the_callers_field_stays(
    provider: FakeProvider, caller: dict[str, Any], arrives: dict[str, Any], why: dict[str, str]
) -> None:
    outcome = ask(provider, "claude-sonnet-4-6", SAMPLING, caller=caller)
    assert arrived(provider) == arrives
    assert reasons(outcome) == why


# -- ranges -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "wanted", "sent"),
    [
        ("claude-3-5-haiku-latest", 1.5, 1.0),
        ("claude-3-5-haiku-latest", 0.3, 0.3),
        ("kimi-k2-instruct", 1.2, 1.0),
        ("gemini-3-pro", 0.0, 1.0),
        ("gemini-3-pro", 1.7, 1.7),
    ],
)
def test_a_wish_outside_the_models_range_is_moved_inside(
    provider: FakeProvider, model: str, wanted: float, sent: float
) -> None:
    outcome = ask(provider, model, {"temperature": wanted})
    assert arrived(provider) == {"temperature": sent}
    assert reasons(outcome) == ({} if wanted == sent else {"temperature": "capability"})


def test_the_callers_value_is_sent_even_outside_the_models_range(provider: FakeProvider) -> None:
    assert reasons(ask(provider, "claude-3-5-haiku-latest", {}, caller={"temperature": 1.5})) == {}
    assert arrived(provider) == {"temperature": 1.5}


def test_where_bounds_and_range_do_not_meet_nothing_is_sent(provider: FakeProvider) -> None:
    cool = Bounds(temperature=Interval(low=0, high=0.5))
    outcome = ask(provider, "gemini-3-pro", {"temperature": 0.4}, bounds=cool)
    assert arrived(provider) == {}
    assert reasons(outcome) == {"temperature": "bound"}


# -- samples ----------------------------------------------------------------------------------------------------------


def test_several_samples_lift_the_temperature_to_the_floor(provider: FakeProvider) -> None:
    outcome = ask(provider, "kimi-k2-instruct", {"temperature": 0.1, "n": 3})
    assert arrived(provider) == {"temperature": 0.3, "n": 3}
    assert reasons(outcome) == {"temperature": "capability"}


def test_one_sample_has_no_floor(provider: FakeProvider) -> None:
    ask(provider, "kimi-k2-instruct", {"temperature": 0.1})
    assert arrived(provider) == {"temperature": 0.1}


def test_below_the_floor_by_the_callers_wish_samples_are_drawn_one_by_one(provider: FakeProvider) -> None:
    outcome = ask(provider, "kimi-k2-instruct", {}, caller={"temperature": 0.1}, samples="any of 3")
    assert [payload["temperature"] for payload in provider.payloads] == [0.1, 0.1, 0.1]
    assert all("n" not in payload for payload in provider.payloads)
    assert reasons(outcome) == {"n": "conflict"}
    assert len(outcome.answers) == 3
