"""F33 at the level of a study: what a scorer of a user cannot score fails, and the search goes on with everything else."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from selfreg_sdk.runtime import runtime
from selfreg_sdk.tuner.examples.examples import Example
from selfreg_sdk.tuner.scoring.scoring import Mark, Scoring
from selfreg_sdk.tuner.study.results import Tuned
from selfreg_sdk.tuner.tune import tune
from tests.fake_provider import FakeProvider
from tests.tuner.tuning import LENGTH, access, task, world

SCORES = f"""
import asyncio

def _right(answer, example):
    return float(answer.split()[-1] == example.fields["answer"])

def _small(answer):
    return len(answer.split()) <= {LENGTH["small"] + 1}

def raises(answer, example):
    if _small(answer):
        raise ZeroDivisionError("not this one")
    return _right(answer, example)

def nan(answer, example):
    return float("nan") if _small(answer) else _right(answer, example)

async def hangs(answer, example):
    if _small(answer):
        await asyncio.sleep(60)
    return _right(answer, example)
"""
"""Each cannot score what the small model says."""

SMALL = {"budget": "0.0024 USD", "holdout": 0.3, "space": {"temperature": [0.5, 1.5], "n": 1, "max_tokens": 32}}


@pytest.fixture
def served() -> Iterator[FakeProvider]:
    with world() as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "wrong_scores.py").write_text(SCORES)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("wrong_scores", None)


@pytest.fixture
def reach(served: FakeProvider, folder: Path, location: str | Path) -> dict[str, Any]:
    """How `tune` reaches the world, on each kind of store."""
    return access(served, folder) | {"store": location}


def tuned_by(scorer: str, reach: dict[str, Any], **changes: Any) -> Tuned:
    named = {"kind": "python", "function": f"wrong_scores:{scorer}", "seconds": 0.3}
    return tune(task(**{**SMALL, "metric": {"name": "success", "scorer": named}, **changes}), **reach)


def only_what_cannot_be_scored_fails(
    scorer: str, said: str, served: FakeProvider, reach: dict[str, Any], **changes: Any
) -> None:
    """The property: the small model's answers all fail, with their reason on record; the large model is found."""
    tuned = tuned_by(scorer, reach, **changes)
    assert tuned.winner is not None
    assert tuned.winner.config["model"] == "large"
    assert tuned.verdict == "use the winner", tuned.reason
    assert tuned.baseline is not None
    assert tuned.measured is not None
    assert tuned.baseline.failed == tuned.baseline.examples >= 6
    assert tuned.measured.failed == 0
    assert f"With the baseline {tuned.baseline.failed} of" in tuned.reason

    shared = runtime(reach["store"])
    with shared.store.read() as connection:
        errors = set(connection.execute(sa.text("SELECT mark_error FROM draw WHERE mark_error IS NOT NULL")).scalars())
    assert errors
    assert all(said in error for error in errors)
    assert tuned.spent == served.billed.usd


FAULTS = {"raises": "ZeroDivisionError", "nan": "return a finite float", "hangs": "took more than 0.3 seconds"}


def test_f33_exceptions_and_what_failed_is_not_asked_again(served: FakeProvider, reach: dict[str, Any]) -> None:
    only_what_cannot_be_scored_fails("raises", FAULTS["raises"], served, reach)
    asked = len(served.requests)
    assert tuned_by("raises", reach).spent == served.billed.usd
    assert len(served.requests) == asked


@pytest.mark.parametrize("scorer", ["nan", "hangs"])
def test_f33_nan_and_timeouts(scorer: str, served: FakeProvider, reach: dict[str, Any]) -> None:
    only_what_cannot_be_scored_fails(scorer, FAULTS[scorer], served, reach)


def test_f33_in_the_papers_method_too(served: FakeProvider, reach: dict[str, Any]) -> None:
    changes = {"method": "ecooptigen", "budget": "0.003 USD", "holdout": 0.2}
    only_what_cannot_be_scored_fails("raises", FAULTS["raises"], served, reach, **changes)


@pytest.mark.parametrize("location", ["sqlite"], indirect=True)
def test_f33_the_test_catches_a_study_that_ends_with_the_first_error(
    served: FakeProvider, reach: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unguarded(self: Scoring, answer: str, example: Example) -> Mark:
        return Mark(score=float(self._scorer(answer, example)), ballot="")  # type: ignore[arg-type]

    monkeypatch.setattr(Scoring, "score", unguarded)
    with pytest.raises(ZeroDivisionError):
        only_what_cannot_be_scored_fails("raises", FAULTS["raises"], served, reach)


@pytest.mark.parametrize("location", ["sqlite"], indirect=True)
def test_f33_the_test_catches_a_study_that_takes_nan_for_a_score(
    served: FakeProvider, reach: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Scoring, "checked", lambda self, value, example: 0.0 if value != value else float(value))
    with pytest.raises(AssertionError):
        only_what_cannot_be_scored_fails("nan", FAULTS["nan"], served, reach, budget="0.0012 USD")
