"""A tuning that finds a cascade: over real HTTP, store and ledger, from the task to the model that runs it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import pytest

from selfreg_sdk import ChatSelfReg
from selfreg_sdk.errors import ConfigError
from selfreg_sdk.langchain.cascade import ChatCascade
from selfreg_sdk.runtime import runtime
from selfreg_sdk.store.studies import Studies
from selfreg_sdk.tuner.study.results import Tuned
from selfreg_sdk.tuner.task.file import parse_task
from selfreg_sdk.tuner.tune import tune
from selfreg_sdk.versions import tuned_key
from tests.fake_provider import FakeProvider, Payload
from tests.sdk.regulated import record
from tests.tuner.tuning import PRICES, TASK, access

WORDS = {"small": 2, "large": 40}
"""The large model talks, so that one answer of it is all that the budget of a request allows."""


def half_wise(payload: Payload) -> list[str]:
    """The small model knows sums of an even number surely and others never; the large one knows most of all."""
    random = Random(hashlib.sha256(json.dumps(payload, sort_keys=True).encode()).hexdigest())
    first, second = payload["messages"][-1]["content"].removeprefix("What is ").removesuffix("?").split(" + ")
    right = int(first) + int(second)
    chance = 0.7 if payload["model"] == "large" else 0.99 if int(first) % 2 == 0 else 0.0

    def answer() -> str:
        said = right if random.random() < chance else right + random.randint(1, 300)
        return " ".join([*["so"] * WORDS[payload["model"]], str(said)])

    return [answer() for _ in range(payload.get("n") or 1)]


CASCADE: dict[str, Any] = {
    **TASK,
    "examples": [
        {"question": f"{number} + {number * 7 % 10}", "answer": str(number + number * 7 % 10)} for number in range(70)
    ],
    "space": {"temperature": 0.5, "n": [1, 3], "max_tokens": 64},
    "baseline": {"model": "large", "temperature": 0.5, "max_tokens": 64},
    "inference_budget": "0.00007 USD",
    "budget": "0.03 USD",
    "holdout": 0.4,
    "cascade": {"filter": {"kind": "agreement", "at_least": [0.6, 1]}},
}


@dataclass(frozen=True, kw_only=True)
class Done:
    """A tuning that has ended."""

    provider: FakeProvider
    given: dict[str, Any]
    tuned: Tuned


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    with FakeProvider(reply=half_wise) as provider:
        options = access(provider, tmp_path_factory.mktemp("tune"))
        yield Done(provider=provider, given=options, tuned=tune(CASCADE, **options))


def test_the_cascade_wins_where_it_was_not_looked_for(done: Done) -> None:
    tuned = done.tuned
    assert tuned.cascade is not None
    assert tuned.cascade.used, tuned.cascade
    config = tuned.cascade.candidate.config
    assert (config.first.model, config.first.aggregation.n) == ("small", 3)
    assert config.second.model == "large"
    assert tuned.cascade.beside.difference > 0
    assert tuned.cascade.measured.cost <= 0.00007
    assert tuned.verdict == "use the winner", tuned.reason
    assert "The winner is a cascade, small, unless agreement" in tuned.reason
    assert done.tuned.spent == done.provider.billed.usd <= Decimal("0.03")


def test_it_is_a_version_that_runs(done: Done) -> None:
    shared = runtime(done.given["store"])
    stored = shared.configs.current(tuned_key("sums"))
    assert stored is not None
    tuned = done.tuned
    assert tuned.cascade is not None
    assert stored.provenance["cascade"] == tuned.cascade.candidate.config.written()
    before = done.provider.billed.usd
    llm = ChatSelfReg.from_task("sums", store=done.given["store"], api_key="sk-test", prices=PRICES)
    assert isinstance(llm, ChatCascade)
    chain = llm.tuned_prompt | llm
    stages = {}
    for question in ("2 + 3", "3 + 3"):
        answer = chain.invoke({"question": question})
        told = record(answer)
        stages[question] = told["cascade"]["answered"]
        assert told["config_version"] == stored.id
        before += Decimal(told["cost_usd"])
    assert stages == {"2 + 3": "first", "3 + 3": "second"}
    assert done.provider.billed.usd == before


def test_what_was_measured_is_what_the_model_says(done: Done) -> None:
    """The held-out examples, asked of the model that runs: the same stages answer, for as much."""
    tuned = done.tuned
    assert tuned.cascade is not None
    llm = ChatSelfReg.from_task("sums", store=done.given["store"], api_key="sk-test", prices=PRICES)
    held_out = {example.id: example for example in parse_task(CASCADE).split.holdout}
    for outcome in tuned.cascade.measured.outcomes[:8]:
        example = held_out[outcome.example]
        told = llm.invoke(f"What is {example.fields['question']}?")
        assert Decimal(record(told)["cost_usd"]) == outcome.cost
        assert (told.text.split()[-1] == example.fields["answer"]) is (outcome.value == 1.0)


def test_asked_again_it_costs_nothing_and_stays_the_same(done: Done) -> None:
    billed = done.provider.billed.usd
    again = tune(CASCADE, **done.given)
    assert done.provider.billed.usd == billed
    assert again.cascade is not None
    assert done.tuned.cascade is not None
    assert again.cascade.candidate.config.written() == done.tuned.cascade.candidate.config.written()
    assert again.cascade.measured.values == done.tuned.cascade.measured.values
    shared = runtime(done.given["store"])
    assert len(shared.configs.list(tuned_key("sums"))) == 2  # the best single configuration, and the cascade
    (study,) = Studies(shared.store).list()
    assert study.outcome is not None
    assert study.outcome["cascade"]["used"] is True


def test_nothing_is_spent_for_a_filter_that_is_not_there(tmp_path: Path) -> None:
    with FakeProvider(reply=half_wise) as provider:
        with pytest.raises(ConfigError, match="nowhere_at_all"):
            tune(CASCADE | {"cascade": "nowhere_at_all:f"}, **access(provider, tmp_path))
        assert not provider.payloads


@pytest.mark.parametrize(
    ("cascade", "more", "said"),
    [
        ("agreement", {"metric": {"name": "first", "scorer": "numeric"}, "space": {"temperature": 0.5}}, "takes one"),
        ("agreement", {"method": "ecooptigen"}, "'pool' alone"),
        ({"filter": {"kind": "regex", "pattern": "("}}, {}, "not a regular expression"),
        ({"filtr": "agreement"}, {}, "did you mean 'filter'"),
        ({"filter": {"kind": "agreement", "at_least": []}}, {}, "names no level"),
    ],
)
def test_a_task_that_cannot_work_is_refused(cascade: Any, more: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_task(CASCADE | more | {"cascade": cascade})
