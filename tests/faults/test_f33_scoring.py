"""F33: whatever a scorer of a user does, it fails the trial it was called for, and the study goes on."""

from __future__ import annotations

import asyncio
import math
import os
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from selfreg_sdk.tuner.examples.examples import Example
from selfreg_sdk.tuner.scoring.code_rule import Code
from selfreg_sdk.tuner.scoring.metrics import metric
from selfreg_sdk.tuner.scoring.sandbox import Limits, Sandbox
from selfreg_sdk.tuner.scoring.scoring import Fault, Mark, Scoring, ScoringError

EXAMPLES = [Example(id=f"e{index}", fields={"answer": "yes", "tests": "assert value == 'yes'"}) for index in range(3)]
FAULTY, HANG = "the faulty answer", 15.0


class Wicked(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text either")


class NoFloat:
    def __float__(self) -> float:
        raise OSError("not today")

    def __repr__(self) -> str:
        raise OSError("nor a form")


def raising(exc: BaseException) -> Any:
    def scorer(answer: str, example: Example) -> Any:
        raise exc

    return scorer


RAISING = [
    ValueError("x" * 10_000),
    KeyError("a"),
    Wicked(),
    SystemExit(0),
    StopIteration(),
    RecursionError(),
    MemoryError(),
]
RAISING += [asyncio.CancelledError(), TimeoutError()]
RETURNING = [math.nan, math.inf, -math.inf, None, "1.0", b"1", 1 + 0j, [1.0], {}, object(), NoFloat(), 10**400]


async def study(scoring: Scoring) -> tuple[dict[str, float], dict[str, ScoringError]]:
    """Two trials per example, a good one and a faulty one: what the trials are worth, and why others failed."""
    worth, failed = {}, {}
    for example in EXAMPLES:
        for answer in ("yes", FAULTY):
            try:
                marks = await scoring.score_all([answer, answer], example)
                worth[f"{example.id} {answer}"] = metric("mean").of([mark.score for mark in marks])
            except ScoringError as exc:
                failed[f"{example.id} {answer}"] = exc
    return worth, failed


async def only_the_faulty_trials_fail(faulty: Any, fault: Fault, *, said: str = "", timeout: float = 5.0) -> None:
    """The property: of a study with a scorer that is ``faulty`` for one answer, exactly those trials fail, typed."""

    def sync(answer: str, example: Example) -> Any:
        return faulty(answer, example) if answer == FAULTY else 1.0

    async def asynchronous(answer: str, example: Example) -> Any:
        value = faulty(answer, example) if answer == FAULTY else 1.0
        return await value if asyncio.iscoroutine(value) else value

    for scorer in (sync, asynchronous):
        worth, failed = await study(Scoring(scorer, timeout=timeout, name="mine"))
        assert worth == {f"{example.id} yes": 1.0 for example in EXAMPLES}
        assert set(failed) == {f"{example.id} {FAULTY}" for example in EXAMPLES}
        for place, error in failed.items():
            assert (error.scorer, error.fault) == ("mine", fault)
            assert place.startswith(error.example_id)
            assert said in str(error)
            assert len(str(error)) < 1000


@pytest.mark.parametrize("exc", RAISING, ids=lambda exc: type(exc).__name__)
async def test_f33_exceptions(exc: BaseException) -> None:
    await only_the_faulty_trials_fail(raising(exc), "raised")


@pytest.mark.parametrize("value", RETURNING, ids=lambda value: type(value).__name__)
async def test_f33_values_that_are_no_finite_number(value: Any) -> None:
    await only_the_faulty_trials_fail(lambda *_: value, "value", said="return a finite float")


async def test_f33_async_timeouts_are_cancelled() -> None:
    ended = []

    async def slow(answer: str, example: Example) -> float:
        try:
            await asyncio.sleep(1000)
        finally:
            ended.append(example.id)
        return 1.0

    started = time.monotonic()
    await only_the_faulty_trials_fail(slow, "timeout", said="it was cancelled", timeout=0.4)
    assert len(ended) == 2 * len(EXAMPLES)
    assert time.monotonic() - started < HANG


async def test_f33_an_async_scorer_that_will_not_be_cancelled_is_said_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfreg_sdk.tuner.scoring.scoring._GRACE", 0.1)
    release = asyncio.Event()

    async def stubborn(answer: str, example: Example) -> float:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue
        return 1.0

    with pytest.raises(ScoringError, match="goes on all the same"):
        await Scoring(stubborn, timeout=0.1).score("a", EXAMPLES[0])
    release.set()


async def test_f33_sync_timeouts_are_reported_as_what_they_are() -> None:
    release = threading.Event()
    calls = []

    def slow(answer: str, example: Example) -> float:
        calls.append(example.id)
        if answer == FAULTY:
            release.wait(HANG)
        return 1.0

    scoring = Scoring(slow, timeout=0.4)
    _, failed = await study(scoring)
    assert {error.fault for error in failed.values()} == {"timeout"}
    assert all("still runs in its thread" in str(error) for error in failed.values())

    # A function that never ends is not called for ever: each call would keep a thread.
    errors = []
    for _ in range(20):
        with pytest.raises(ScoringError) as caught:
            await scoring.score(FAULTY, EXAMPLES[0])
        errors.append(str(caught.value))
    assert "was not called" in errors[-1]
    assert len(calls) < 20

    release.set()
    deadline = time.monotonic() + HANG
    while scoring._stuck and time.monotonic() < deadline:
        await asyncio.sleep(0.01)
    assert (await scoring.score("yes", EXAMPLES[0])).score == 1.0


def test_f33_a_scorer_that_hangs_does_not_keep_the_process_from_ending() -> None:
    program = """
import asyncio, threading
from selfreg_sdk.tuner.examples.examples import Example
from selfreg_sdk.tuner.scoring.scoring import Scoring, ScoringError
async def main():
    try:
        await Scoring(lambda *_: threading.Event().wait(), timeout=0.1).score("a", Example(id="e", fields={}))
    except ScoringError as exc:
        print(exc.fault)
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=HANG, check=True)
    assert done.stdout == "timeout\n"


@pytest.mark.skipif(os.name != "posix", reason="code is only run on POSIX systems")
async def test_f33_code_of_a_model_runs_elsewhere_and_its_faults_are_its_own() -> None:
    scoring = Scoring(Code(sandbox=Sandbox(limits=Limits(wall=2.0))))
    for code in (
        "while True: pass",
        "raise SystemExit",
        "import os; os._exit(0)",
        "import os; os.kill(os.getppid(), 0); 1/0",
    ):
        assert (await scoring.score(code, EXAMPLES[0])).score == 0.0
    assert (await scoring.score("value = 'yes'", EXAMPLES[0])).score == 1.0


async def test_f33_the_test_catches_a_guard_that_lets_nan_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scoring, "checked", lambda self, value, example: float(value))
    with pytest.raises(AssertionError):
        await only_the_faulty_trials_fail(lambda *_: math.nan, "value")


async def test_f33_the_test_catches_a_guard_without_a_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    async def unlimited(self: Scoring, awaitable: Any, seconds: Any, example: Example) -> Any:
        return await awaitable

    monkeypatch.setattr(Scoring, "_awaited", unlimited)

    async def slow(answer: str, example: Example) -> float:
        await asyncio.sleep(0.2)
        return 1.0

    with pytest.raises(AssertionError):
        await only_the_faulty_trials_fail(slow, "timeout", timeout=0.1)


async def test_f33_the_test_catches_a_guard_that_lets_exceptions_through(monkeypatch: pytest.MonkeyPatch) -> None:
    async def unguarded(self: Scoring, answer: str, example: Example) -> Mark:
        value = self._scorer(answer, example)
        return Mark(score=self.checked(await value if asyncio.iscoroutine(value) else value, example), ballot="")

    monkeypatch.setattr(Scoring, "score", unguarded)
    with pytest.raises(ZeroDivisionError):
        await only_the_faulty_trials_fail(raising(ZeroDivisionError()), "raised")
