"""F30: what the caller says is sent as it was said, whoever else decides, and wherever the caller says it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from policies import Bounds, DecodingParams, Interval, StaticPolicy
from selfreg_sdk import regulator as regulator_module
from selfreg_sdk.store.configs import ConfigRecord
from tests.fake_provider import FakeProvider
from tests.faults.clients import must_fail
from tests.stack import CREATIVE, MODEL, chat, plans

# Every field, with a value nobody else would choose; most of them outside of the bounds a policy has to keep.
CALLER: dict[str, Any] = {
    "temperature": 1.7,
    "top_p": 0.03,
    "top_k": 11,
    "min_p": 0.21,
    "max_tokens": 5000,
    "n": 3,
    "stop": ["END"],
    "seed": 1234,
    "presence_penalty": -1.5,
    "frequency_penalty": 1.5,
    "repetition_penalty": 1.9,
    "reasoning_effort": "none",
    "verbosity": "low",
}
NARROW = Bounds(temperature=Interval(low=0.2, high=0.4), top_p=Interval(low=0.5, high=0.6), max_tokens=20)
OTHERS = StaticPolicy(
    params=DecodingParams(
        temperature=0.3, top_p=0.55, max_tokens=15, seed=1, presence_penalty=0.1, frequency_penalty=0.1, stop=("x",)
    )
)


def by_constructor(provider: FakeProvider, how: dict[str, Any], name: str, value: Any) -> None:
    chat(provider, **how, **{name: value}).invoke("hi")


def by_call(provider: FakeProvider, how: dict[str, Any], name: str, value: Any) -> None:
    chat(provider, **how).invoke("hi", **{name: value})


def by_bind(provider: FakeProvider, how: dict[str, Any], name: str, value: Any) -> None:
    chat(provider, **how).bind(**{name: value}).invoke("hi")


def by_extra_body(provider: FakeProvider, how: dict[str, Any], name: str, value: Any) -> None:
    chat(provider, **how).invoke("hi", extra_body={name: value})


WAYS = (by_constructor, by_call, by_bind, by_extra_body)
Say = Callable[[FakeProvider, dict[str, Any], str, Any], None]


def is_sent_as_said(provider: FakeProvider, how: dict[str, Any], say: Say) -> None:
    for name, value in CALLER.items():
        say(provider, how, name, value)

        assert provider.payloads[-1][name] == value, name


@pytest.mark.parametrize("say", WAYS)
def test_f30_against_a_policy(provider: FakeProvider, tmp_path: Any, say: Say) -> None:
    is_sent_as_said(provider, {"policy": OTHERS, "bounds": NARROW, "store": tmp_path / "s.db"}, say)


@pytest.mark.parametrize("say", WAYS)
def test_f30_against_a_plan(provider: FakeProvider, tmp_path: Any, say: Say) -> None:
    provider.reply = plans(CREATIVE.to_json())
    is_sent_as_said(provider, {"planner": "auto", "bounds": NARROW, "store": tmp_path / "s.db", "task": "t"}, say)


@pytest.mark.parametrize("say", [by_constructor, by_call])
def test_f30_against_a_tuned_configuration(provider: FakeProvider, tmp_path: Any, say: Say) -> None:
    how = {"store": tmp_path / "s.db", "task": "t"}
    model = chat(provider, **how)
    configs = model._ready.answering.regulator._facts._configs
    key = f"t|{MODEL}|first"
    tuned = ConfigRecord(
        task_key=key, model=MODEL, aggregation="first", params=OTHERS.params.set_fields(), provenance={"kind": "tuned"}
    )
    configs.point(key, "production", configs.add_version(tuned))
    model.invoke("hi")
    assert provider.payloads[-1]["temperature"] == 0.3

    is_sent_as_said(provider, how, say)


def test_f30_a_call_wins_over_the_constructor(provider: FakeProvider) -> None:
    chat(provider, store=":memory:", temperature=0.1).invoke("hi", temperature=1.9)
    assert provider.payloads[-1]["temperature"] == 1.9


def test_f30_zero_is_a_wish_and_none_is_not(provider: FakeProvider) -> None:
    model = chat(provider, store=":memory:", policy=OTHERS)
    model.invoke("hi", temperature=0)
    model.invoke("hi", temperature=None)

    assert [payload["temperature"] for payload in provider.payloads] == [0, 0.3]


def test_f30_the_record_says_that_the_caller_won(provider: FakeProvider) -> None:
    message = chat(provider, store=":memory:", policy=OTHERS).invoke("hi", temperature=1.9)

    record = message.response_metadata["selfreg"]
    assert [(c["field"], c["wanted"], c["sent"], c["why"]) for c in record["ignored"]] == [
        ("temperature", 0.3, 1.9, "caller")
    ]


def test_f30_the_check_catches_a_policy_that_wins(provider: FakeProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    right = regulator_module.compile_params

    def wrong(*, caller: DecodingParams, defaults: DecodingParams, **rest: Any) -> Any:
        """Broken on purpose: the caller's wishes are what applies where nobody else has any."""
        return right(caller=DecodingParams(), defaults=caller, **rest)

    monkeypatch.setattr(regulator_module, "compile_params", wrong)
    must_fail(is_sent_as_said, provider, {"policy": OTHERS, "bounds": NARROW, "store": ":memory:"}, by_call)
