"""F2: kill -9 at random moments of a tuning, and go on: money holds at each, and the end is that of a study nobody killed."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import pytest

from selfreg_sdk.store import Store
from tests import postgres
from tests.fake_provider import FakeProvider
from tests.faults.tuners import Left, Nursery, Variant, left, nursery
from tests.tuner.tuning import task, world

CAP = Decimal("0.08")
"""Far above what a study costs: each kill leaves what was in flight at its worst case."""
WORKERS = 4
KILLS = 20
TASK = task(
    budget=f"{CAP} USD",
    workers=WORKERS,
    examples=task()["examples"][:18],
    models=["small"],
    space={"temperature": [0.0, 0.5, 1.5], "n": {"choices": [1, 2]}, "max_tokens": 32},
    holdout=0.34,
)


@pytest.fixture(scope="module")
def workers() -> Iterator[Nursery]:
    with nursery() as running:
        yield running


@pytest.fixture(scope="module")
def provider() -> Iterator[FakeProvider]:
    with world(latency=0.005) as running:
        yield running


@pytest.fixture(scope="module")
def whole(workers: Nursery, provider: FakeProvider, tmp_path_factory: pytest.TempPathFactory) -> Course:
    """Of a study that nobody killed."""
    folder = tmp_path_factory.mktemp("whole")
    return course(workers, provider, folder / "whole.db", folder / "found", kills=0)


@dataclass(frozen=True, kw_only=True)
class Course:
    """What came of a study that was killed again and again."""

    kills: int
    billed: int
    left: Left
    found: Any


def course(
    workers: Nursery,
    provider: FakeProvider,
    location: str | Path,
    result: Path,
    *,
    kills: int,
    variant: Variant = "real",
    most: int = 3,
) -> Course:
    """Kill it ``kills`` times, each after up to ``most`` further calls and a moment, then let it end."""
    random, killed, before = Random(2), 0, provider.billed
    order = {"task": TASK, "store": location, "base_url": provider.base_url, "result": result, "variant": variant}
    with Store.open(location) as store:
        for _ in range(kills):
            pid = workers.start(**order)
            goal = provider.billed.calls + random.randint(0, most)
            provider.wait_until(lambda p, goal=goal: p.billed.calls >= goal or result.exists(), timeout=20)
            time.sleep(random.uniform(0, 0.1))
            killed += workers.kill(pid) == -9
            seen = left(store)
            assert provider.billed.usd - before.usd <= seen.spent + seen.held <= CAP, "P1 after a kill"
        assert workers.wait(workers.start(**order)) == 0
        return Course(
            kills=killed,
            billed=provider.billed.calls - before.calls,
            left=left(store),
            found=json.loads(result.read_text()),
        )


def check(whole: Course, broken: Course) -> None:
    """P2: nothing that was received is bought again; and the search ended as if nothing had happened."""
    assert broken.left.bought == whole.left.bought
    assert broken.found == whole.found
    settled = broken.left.requests("settled")
    assert len(settled) == len(set(settled)) == len(whole.left.requests("settled"))
    lost = broken.left.requests("reserved", "unknown")
    assert len(lost) <= broken.kills * WORKERS, "the calls in flight"
    assert broken.billed <= len(settled) + len(lost)


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_f2_killed_again_and_again_it_ends_the_same(
    workers: Nursery, provider: FakeProvider, whole: Course, tmp_path: Path, kind: str
) -> None:
    if kind == "postgres" and postgres.programs() is None:
        pytest.skip("PostgreSQL is not installed")
    with contextlib.ExitStack() as stack:
        location = tmp_path / "broken.db" if kind == "sqlite" else stack.enter_context(postgres.cluster())
        broken = course(workers, provider, location, tmp_path / "found", kills=KILLS)
    assert broken.kills >= KILLS * 0.7, "the others had come to the end"
    check(whole, broken)


def test_f2_the_check_catches_a_worker_that_forgets_what_was_bought(
    workers: Nursery, provider: FakeProvider, whole: Course, tmp_path: Path
) -> None:
    with pytest.raises(AssertionError):
        check(
            whole, course(workers, provider, tmp_path / "db", tmp_path / "found", kills=2, variant="forgetful", most=12)
        )
