"""From a task to its scoring: rules, judges behind their doors, and the functions of users."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from selfreg_sdk.errors import BudgetExceeded, ConfigError
from selfreg_sdk.money import Budget
from selfreg_sdk.runtime import Runtime, runtime
from selfreg_sdk.tuner.journal.doors import Doors, open_doors
from selfreg_sdk.tuner.scoring.scoring import Mark, Scoring, ScoringError
from selfreg_sdk.tuner.study.task_scoring import judge_model, scoring_of, span_of
from selfreg_sdk.tuner.task.file import Task, parse_task
from tests.fake_provider import FakeProvider
from tests.stack import MODEL, PLANNER, PRICES
from tests.tuner.written import TASK

FUNCTIONS = """
import asyncio
from selfreg_sdk.errors import ConfigError

def half(answer, example):
    return 0.5 if answer == example.fields["answer"] else 0

async def slowly(answer, example):
    await asyncio.sleep(0)
    return len(answer)

def stuck(answer, example):
    import threading
    threading.Event().wait(10)

def broken(answer, example):
    return 1 / 0

def first_word(answer):
    return answer.split()[0]

def tenth_word(answer):
    return answer.split()[9]

def number(answer):
    return 7

def none():
    return 0
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "own_scores.py").write_text(FUNCTIONS)
    yield tmp_path
    sys.modules.pop("own_scores", None)


def task(metric: Any, folder: Path | None = None) -> Task:
    return parse_task(TASK | {"models": [MODEL], "metric": metric}, folder=folder)


async def mark(scoring: Scoring, answer: str, of: Task) -> Mark:
    return await scoring.score(answer, of.examples[0])


async def test_a_rule_scores_by_itself() -> None:
    sums = task({"name": "vote", "scorer": "numeric"})
    scoring = scoring_of(sums, {})
    assert await mark(scoring, "It is 1.", sums) == Mark(score=1.0, ballot="1")
    assert (scoring.name, judge_model(sums)) == ("numeric", None)


async def test_a_function_is_found_beside_the_task_and_keeps_to_its_time(folder: Path) -> None:
    half = task({"name": "mean", "scorer": "own_scores:half"}, folder)
    scoring = scoring_of(half, {})
    assert (await mark(scoring, "1", half)).score == 0.5
    assert (scoring.name, scoring.timeout) == ("own_scores:half", 30.0)
    slowly = task({"name": "mean", "scorer": "own_scores:slowly"}, folder)
    assert (await mark(scoring_of(slowly, {}), "four", slowly)).score == 4

    for name, fault in (("stuck", "timeout"), ("broken", "raised")):
        wrong = task(
            {"name": "mean", "scorer": {"kind": "python", "function": f"own_scores:{name}", "seconds": 0.2}}, folder
        )
        with pytest.raises(ScoringError) as caught:
            await mark(scoring_of(wrong, {}), "1", wrong)
        assert (caught.value.fault, caught.value.scorer) == (fault, f"own_scores:{name}")


@pytest.mark.parametrize("named", ["own_scores:none", "own_scores:nowhere", "no_such_module:half"])
def test_a_function_that_is_not_there_is_refused(folder: Path, named: str) -> None:
    with pytest.raises(ConfigError, match=named.split(":")[1]):
        scoring_of(task({"name": "mean", "scorer": named}, folder), {})


async def test_a_function_of_the_callers_stands_in_for_the_tasks_scorer() -> None:
    sums = task({"name": "mean", "scorer": {"kind": "judge", "rubric": "It is right."}})

    def longest(answer: str, example: Any) -> float:
        return len(answer) + int(example.fields["answer"])

    assert (await mark(scoring_of(sums, {}, scorer=longest), "four", sums)).score == 5
    assert judge_model(sums, longest) is None


async def test_votes_compare_what_the_users_key_says(folder: Path) -> None:
    votes = task({"name": "vote", "vote_key": "own_scores:first_word"}, folder)
    assert (await mark(scoring_of(votes, {}), "Yes indeed", votes)).ballot == "Yes"
    by_own = scoring_of(votes, {}, scorer=lambda answer, example: 1.0)
    assert (await mark(by_own, "Yes indeed", votes)).ballot == "Yes"

    assert (await mark(scoring_of(votes, {}), " ", votes)).ballot is None  # nothing said abstains
    for key, said in (("tenth_word", "IndexError"), ("number", "ballot is no text but int")):
        wrong = task({"name": "vote", "vote_key": f"own_scores:{key}"}, folder)
        with pytest.raises(ScoringError, match=said):
            await mark(scoring_of(wrong, {}), "Yes indeed", wrong)


# -- judges ------------------------------------------------------------------------------------------------------------

JUDGED = {"name": "mean", "scorer": {"kind": "judge", "rubric": "It is right.", "model": PLANNER, "show": ["question"]}}


@pytest.fixture
def shared() -> Runtime:
    return runtime(None)


def doors_to(provider: FakeProvider, shared: Runtime, *models: str, cap: str = "1 USD") -> Doors:
    return open_doors(
        models, shared=shared, budgets={"b": Budget.parse(cap)}, prices=PRICES, base_url=provider.base_url
    )


async def test_a_judge_is_called_through_its_door_under_the_same_budget(
    provider: FakeProvider, shared: Runtime
) -> None:
    provider.reply = lambda _: json.dumps({"reason": "so", "verdict": "half right"})
    poems = task(JUDGED)
    doors = doors_to(provider, shared, MODEL, PLANNER)
    try:
        assert (await mark(scoring_of(poems, doors), "2", poems)).score == 0.5
    finally:
        await doors.aclose()
    (payload,) = provider.payloads
    assert payload["model"] == PLANNER
    assert json.loads(payload["messages"][-1]["content"])["example"] == {"question": "0 + 1"}
    (row,) = shared.meter.ledger()
    assert (row.purpose, row.task_key, row.cost) == ("score", "sums", provider.billed.usd)


async def test_a_judge_that_the_budget_does_not_pay_is_no_fault_of_the_answer(
    provider: FakeProvider, shared: Runtime
) -> None:
    poems = task(JUDGED)
    doors = doors_to(provider, shared, MODEL, PLANNER, cap="0.000001 USD")
    try:
        with pytest.raises(BudgetExceeded):
            await mark(scoring_of(poems, doors), "2", poems)
    finally:
        await doors.aclose()
    assert not provider.requests


def test_which_model_judges(provider: FakeProvider, shared: Runtime) -> None:
    assert judge_model(task(JUDGED)) == PLANNER
    assert judge_model(task({"name": "mean", "scorer": {"kind": "judge", "rubric": "r"}})) == MODEL
    with doors_to(provider, shared, MODEL) as doors, pytest.raises(ConfigError, match="no door is open to its judge"):
        scoring_of(task(JUDGED), doors)


def test_a_judge_must_be_shown_what_there_is(provider: FakeProvider, shared: Runtime) -> None:
    blind = {**JUDGED, "scorer": {**JUDGED["scorer"], "show": ["picture"]}}  # type: ignore[dict-item]
    with doors_to(provider, shared, MODEL, PLANNER) as doors, pytest.raises(ConfigError, match="no field 'picture'"):
        scoring_of(task(blind), doors)


@pytest.mark.parametrize(
    ("metric", "span"),
    [
        ("vote", (0.0, 1.0)),
        ({"name": "mean", "scorer": {"kind": "judge", "rubric": "r"}}, (0.0, 1.0)),
        ({"name": "mean", "scorer": "own_scores:half"}, None),
        ({"name": "expected_success", "scorer": "own_scores:half"}, (0.0, 1.0)),
    ],
)
def test_the_range_of_a_metric(metric: Any, span: Any) -> None:
    assert span_of(task(metric)) == span


def test_the_range_of_a_function_of_the_callers_is_not_known() -> None:
    assert span_of(task("vote"), lambda answer, example: 3.0) is None
    assert span_of(task("success"), lambda answer, example: 3.0) == (0.0, 1.0)
