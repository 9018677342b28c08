"""The guard around scorers of users, and how functions of users are found."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import pickle
import sys
import threading
import time
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from selfreg_sdk.errors import BudgetExceeded, ConfigError
from selfreg_sdk.tuner.examples.examples import Example
from selfreg_sdk.tuner.examples.functions import load_function
from selfreg_sdk.tuner.scoring.code_rule import Code
from selfreg_sdk.tuner.scoring.scoring import Mark, Scoring, ScoringError
from selfreg_sdk.tuner.scoring.text_rules import Numeric

ONE = Example(id="e1", fields={"answer": "4"})
TWO = Example(id="e2", fields={"question": "?"})
HANG = 10.0


def right(answer: str, example: Example) -> bool:
    return answer == example.fields["answer"]


async def aright(answer: str, example: Example) -> float:
    await asyncio.sleep(0)
    return float(right(answer, example))


class Callable_:
    def __call__(self, answer: str, example: Example) -> float:
        return float(len(answer))


class AsyncCallable:
    async def __call__(self, answer: str, example: Example) -> float:
        return float(len(answer))


@pytest.mark.parametrize(
    ("scorer", "score"),
    [
        (right, 1.0),
        (aright, 1.0),
        (lambda answer, example: aright(answer, example), 1.0),
        (functools.partial(aright), 1.0),
        (Callable_(), 1.0),
        (AsyncCallable(), 1.0),
        (lambda *_: Decimal("0.5"), 0.5),
        (lambda *_: Fraction(1, 4), 0.25),
        (lambda *_: 3, 3.0),
        (lambda *_: -2.5, -2.5),
    ],
)
async def test_scorers_of_every_form(scorer: Any, score: float) -> None:
    assert await Scoring(scorer).score("4", ONE) == Mark(score=score, ballot="4")


async def test_numbers_of_libraries_are_numbers() -> None:
    numpy = pytest.importorskip("numpy")
    for value in (numpy.float32(0.5), numpy.float64(0.5), numpy.array(0.5)):
        assert (await Scoring(lambda *_, value=value: value).score("4", ONE)).score == 0.5
    assert (await Scoring(lambda *_: numpy.bool_(True)).score("4", ONE)).score == 1.0
    with pytest.raises(ScoringError, match="ndarray"):
        await Scoring(lambda *_: numpy.array([0.5])).score("4", ONE)


async def test_ballots_are_the_rules_or_the_callers_or_the_plain_text() -> None:
    assert (await Scoring(Numeric()).score("so 4.0", ONE)) == Mark(score=1.0, ballot="4")
    assert (await Scoring(right).score(" So  FOUR", ONE)).ballot == "so four"
    assert (await Scoring(Numeric(), ballot=lambda text, _: text[:2]).score("so 4", ONE)).ballot == "so"
    with pytest.raises(ScoringError, match="ballot is no text but int"):
        await Scoring(right, ballot=lambda *_: 4).score("4", ONE)  # type: ignore[arg-type, return-value]
    with pytest.raises(ScoringError, match="IndexError"):
        await Scoring(right, ballot=lambda text, _: text.split()[7]).score("4", ONE)


async def test_sync_functions_run_beside_the_loop_and_at_the_same_time() -> None:
    barrier = threading.Barrier(4, timeout=HANG)
    scoring = Scoring(lambda answer, _: barrier.wait() * 0 + len(answer))
    marks = await scoring.score_all(["a", "bb", "ccc", "dddd"], ONE)
    assert [mark.score for mark in marks] == [1.0, 2.0, 3.0, 4.0]


async def test_what_is_around_the_caller_is_around_the_scorer() -> None:
    around: contextvars.ContextVar[float] = contextvars.ContextVar("around", default=0.0)
    around.set(0.75)
    assert (await Scoring(lambda *_: around.get()).score("4", ONE)).score == 0.75


async def test_every_distinct_text_is_scored_once() -> None:
    seen: list[str] = []

    def scorer(answer: str, example: Example) -> float:
        seen.append(answer)
        return float(len(answer))

    marks = await Scoring(scorer).score_all(["aa", "b", "aa"], ONE)
    assert [mark.score for mark in marks] == [2.0, 1.0, 2.0]
    assert sorted(seen) == ["aa", "b"]


async def test_of_several_answers_one_failure_fails_all_and_ends_the_others() -> None:
    ended = []

    async def scorer(answer: str, example: Example) -> float:
        if answer == "bad":
            raise ValueError(answer)
        try:
            await asyncio.sleep(1000)
        finally:
            ended.append(answer)
        return 1.0

    with pytest.raises(ScoringError, match="ValueError: bad"):
        await Scoring(scorer, timeout=None).score_all(["slow", "bad", "slower"], ONE)
    assert sorted(ended) == ["slow", "slower"]


async def test_a_scorer_that_runs_out_of_money_is_not_at_fault() -> None:
    refusal = BudgetExceeded(scope="b", cap=Decimal(1), spent=Decimal(1), held=Decimal(0), wanted=Decimal(1))

    def scorer(answer: str, example: Example) -> float:
        raise refusal

    async def ascorer(answer: str, example: Example) -> float:
        raise refusal

    for one in (scorer, ascorer):
        with pytest.raises(BudgetExceeded):
            await Scoring(one).score("4", ONE)


async def test_a_cancelled_caller_takes_its_scorer_along() -> None:
    ended, started = asyncio.Event(), asyncio.Event()

    async def scorer(answer: str, example: Example) -> float:
        started.set()
        try:
            await asyncio.sleep(1000)
        finally:
            ended.set()
        return 0.0

    task = asyncio.create_task(Scoring(scorer).score("4", ONE))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


def test_one_scoring_serves_one_loop_after_the_other() -> None:
    scoring = Scoring(lambda answer, _: len(answer))
    for _ in range(2):
        marks = asyncio.run(scoring.score_all([str(index) for index in range(40)], ONE))
        assert len(marks) == 40


def test_what_an_example_lacks_is_found_beforehand() -> None:
    Scoring(right).check([ONE, TWO])
    Scoring(Numeric()).check([ONE])
    with pytest.raises(ConfigError, match="'e2' has no field 'answer'"):
        Scoring(Numeric()).check([ONE, TWO])


async def test_a_process_that_cannot_start_fails_the_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with pytest.raises(ScoringError, match="SandboxError"):
        await Scoring(Code()).score("x = 1", Example(id="e", fields={"tests": "pass"}))


@pytest.mark.parametrize("wrong", [{"timeout": 0}, {"timeout": -1.0}, {"timeout": float("nan")}])
def test_time_limits_that_make_no_sense_are_refused(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="timeout="):
        Scoring(right, **wrong)
    with pytest.raises(ConfigError, match="cannot be called"):
        Scoring("exact")  # type: ignore[arg-type]


def test_errors_travel_between_processes() -> None:
    error = ScoringError("why", scorer="s", example_id="e", fault="timeout")
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.scorer, copy.example_id, copy.fault) == (str(error), "s", "e", "timeout")


# -- functions by name -------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "my_scores.py").write_text(
        "import math\nNUMBER = 3\ndef close(answer, example):\n    return 1.0\n"
        "class Kind:\n    @staticmethod\n    def close(answer, example, *, more=1):\n        return 2.0\n"
    )
    (tmp_path / "broken_scores.py").write_text("1 / 0\n")
    (tmp_path / "needy_scores.py").write_text("import nobody_has_this\n")
    before = list(sys.path)
    yield tmp_path
    assert sys.path == before
    for name in ("my_scores", "broken_scores", "needy_scores"):
        sys.modules.pop(name, None)


def test_a_function_is_found_by_name(folder: Path) -> None:
    assert load_function("my_scores:close", folder=folder, arguments=2)("", ONE) == 1.0
    assert load_function("my_scores:Kind.close", folder=folder, arguments=2)("", ONE) == 2.0
    assert load_function("math:fabs", arguments=1)(-1) == 1
    assert load_function("selfreg_sdk.aggregate:plain", arguments=1)(" A") == "a"


def test_each_task_has_the_module_beside_it(folder: Path) -> None:
    (other := folder / "other").mkdir()
    (other / "my_scores.py").write_text("def close(answer, example):\n    return 5.0\n")
    first = load_function("my_scores:close", folder=folder)
    assert load_function("my_scores:close", folder=other)("", ONE) == 5.0
    assert first("", ONE) == load_function("my_scores:close", folder=folder)("", ONE) == 1.0
    (other / "json.py").write_text("def dumps(answer):\n    return ''\n")
    assert load_function("json:dumps", folder=other)(1) == "1", "Python's own stays what it is"


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("close", "write 'module:function'"),
        ("my-scores:close", "does not name a function"),
        ("my_scores:", "does not name a function"),
        ("my_scores.py:close", r"no module 'my_scores.py'|not a package"),
        ("no_scores:close", "there is no module 'no_scores' in "),
        ("my_scores:clos", "'my_scores' has no 'clos'; did you mean 'close'"),
        ("my_scores:zzz", "look for it in .*my_scores.py"),
        ("my_scores:NUMBER", "is no function but int"),
        ("my_scores:math.pi", "is no function but float"),
        ("broken_scores:close", "raised ZeroDivisionError"),
        ("needy_scores:close", "needs the module 'nobody_has_this'"),
    ],
)
def test_what_is_no_function_is_refused_with_a_reason(folder: Path, named: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_function(named, folder=folder)


def test_a_function_of_other_arguments_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be called with 3 arguments; it takes \(answer, example\)"):
        load_function("my_scores:close", folder=folder, arguments=3)


async def test_waiting_for_a_turn_does_not_count_as_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfreg_sdk.tuner.scoring.scoring._THREADS", 1)

    def scorer(answer: str, example: Example) -> float:
        time.sleep(0.3)
        return 1.0

    # One at a time they take longer than one may.
    marks = await Scoring(scorer, timeout=1.4).score_all([str(index) for index in range(5)], ONE)
    assert [mark.score for mark in marks] == [1.0] * 5
