"""F35: the same seed and the same answers give the same proposals, whatever the method."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from selfreg_sdk.tuner.study.results import Progress
from selfreg_sdk.tuner.tune import tune
from tests import postgres
from tests.fake_provider import FakeProvider
from tests.tuner.tuning import access, answers, found, task, world

TASK = task(
    examples=task()["examples"][:12],
    models=["small"],
    space={"temperature": [0.0, 1.5], "n": {"choices": [1, 2]}, "max_tokens": 32},
    budget="0.002 USD",
    holdout=0.34,
)


@pytest.fixture(scope="module")
def provider() -> Iterator[FakeProvider]:
    with world() as running:
        yield running


@pytest.fixture(scope="module")
def first(provider: FakeProvider, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, list[Any]]:
    """What method "pool" does with the task's own seed."""
    return course(provider, tmp_path_factory.mktemp("first"))


def course(provider: FakeProvider, folder: Path, **given: Any) -> tuple[Any, list[Any]]:
    """What a tuning found, and how it went there."""
    steps: list[Progress] = []
    tuned = tune(TASK, on_progress=steps.append, **access(provider, folder) | given)
    return found(tuned), [(step.phase, step.requests, step.samples, step.spent) for step in steps]


def test_f35_the_same_seed_proposes_the_same(provider: FakeProvider, first: Any, tmp_path: Path) -> None:
    assert course(provider, tmp_path) == first


def test_f35_with_a_searcher_too(provider: FakeProvider, tmp_path: Path) -> None:
    one, other = (course(provider, tmp_path / name, method="ecooptigen", seed=5) for name in "ab")
    assert one == other


def test_f35_on_postgres_as_on_sqlite(provider: FakeProvider, first: Any, tmp_path: Path) -> None:
    if postgres.programs() is None:
        pytest.skip("PostgreSQL is not installed")
    with postgres.cluster() as url:
        assert course(provider, tmp_path, store=url) == first


def test_f35_the_check_sees_another_seed(provider: FakeProvider, first: Any, tmp_path: Path) -> None:
    assert course(provider, tmp_path, seed=6) != first


def test_f35_the_check_sees_other_answers(first: Any, tmp_path: Path) -> None:
    number = itertools.count()
    with FakeProvider(reply=lambda payload: answers({**payload, "mood": next(number)})) as moody:
        assert course(moody, tmp_path) != first
