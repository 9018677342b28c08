"""F34 at the level of a study: what only the examples of the search speak for is not put into use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from selfreg_sdk.runtime import runtime
from selfreg_sdk.tuner.study.plan import Plan
from selfreg_sdk.tuner.study.results import Tuned
from selfreg_sdk.tuner.task.file import parse_task
from selfreg_sdk.tuner.tune import tune
from selfreg_sdk.versions import tuned_key
from tests.fake_provider import FakeProvider, Payload
from tests.tuner.tuning import access, task

GIVEN: dict[str, Any] = {
    "models": ["small"],
    "space": {"temperature": {"choices": [0.0, 0.5, 1.5]}, "n": 1, "max_tokens": 32},
    "metric": {"name": "success", "scorer": "numeric"},
    "baseline": {"temperature": 0.5, "max_tokens": 32},
    "holdout": 0.4,
    "budget": "0.003 USD",
}
SEARCHED = {example.fields["question"] for example in parse_task(task(**GIVEN)).split.search}


def lucky(payload: Payload) -> str:
    """Temperature 1.5 is right wherever the search looks, and nowhere else; the others are, for every second sum."""
    question = payload["messages"][-1]["content"].removeprefix("What is ").removesuffix("?")
    first, second = (int(number) for number in question.split(" + "))
    right = question in SEARCHED if payload["temperature"] == 1.5 else first % 2 == 0
    return str(first + second if right else -1)


def tuned_by_luck(folder: Path, location: str | Path) -> Tuned:
    with FakeProvider(reply=lucky) as provider:
        return tune(task(**GIVEN), **access(provider, folder) | {"store": location})


def the_baseline_stays(folder: Path, location: str | Path) -> None:
    """The property: the search finds the lucky configuration, the check sees through it, and nothing changes in use."""
    tuned = tuned_by_luck(folder, location)
    assert tuned.winner is not None
    assert tuned.winner.config["temperature"] == 1.5
    assert tuned.verdict == "keep the baseline"
    assert "does not beat the baseline" in tuned.reason
    assert tuned.checked is not None
    assert (tuned.checked.examples, tuned.checked.verdict) == (12, "no better")
    assert runtime(location).configs.current(tuned_key("sums")) is None


def test_f34_a_winner_by_luck_is_not_put_into_use(tmp_path: Path, location: str | Path) -> None:
    the_baseline_stays(tmp_path, location)


@pytest.mark.parametrize("location", ["sqlite"], indirect=True)
def test_f34_the_test_catches_a_check_on_the_examples_of_the_search(
    tmp_path: Path, location: str | Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Plan, "held_out", property(lambda plan: plan.task.split.search))
    with pytest.raises(AssertionError, match="use the winner"):
        the_baseline_stays(tmp_path, location)
    assert runtime(location).configs.current(tuned_key("sums")) is not None
