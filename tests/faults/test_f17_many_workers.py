"""F17: several processes tune one study: nothing is bought or scored twice, and they share one budget."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from selfreg_sdk.store import Store
from selfreg_sdk.store.configs import Configs
from selfreg_sdk.versions import tuned_key
from tests import postgres
from tests.fake_provider import FakeProvider
from tests.faults.tuners import Left, Nursery, Variant, left, nursery
from tests.tuner.tuning import task, world

CAP = Decimal("0.0008")
"""So little that the search ends for want of money."""
TASK = task(
    budget=f"{CAP} USD",
    examples=task()["examples"][:14],
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
    with world(latency=0.01) as running:
        yield running


@pytest.fixture(scope="module")
def alone(workers: Nursery, provider: FakeProvider, tmp_path_factory: pytest.TempPathFactory) -> Shared:
    """What one worker does."""
    folder = tmp_path_factory.mktemp("alone")
    return together(workers, provider, 1, folder / "tune.db", folder / "found")


@dataclass(frozen=True, kw_only=True)
class Shared:
    """What came of a study with several workers."""

    found: list[Any]
    calls: int
    usd: Decimal
    left: Left
    versions: list[Any]
    pointers: int


def together(
    workers: Nursery,
    provider: FakeProvider,
    count: int,
    location: str | Path,
    folder: Path,
    variant: Variant = "real",
) -> Shared:
    """Start them at the same time and wait for all."""
    folder.mkdir()
    before = provider.billed
    with Store.open(location) as store:
        results = [folder / str(number) for number in range(count)]
        order = {"task": TASK, "store": location, "base_url": provider.base_url, "variant": variant}
        pids = [workers.start(**order, result=result) for result in results]
        assert [workers.wait(pid) for pid in pids] == [0] * count
        return Shared(
            found=[json.loads(result.read_text()) for result in results],
            calls=provider.billed.calls - before.calls,
            usd=provider.billed.usd - before.usd,
            left=left(store),
            versions=[(version.task_key, version.params) for version in Configs(store).list()],
            pointers=len(Configs(store).pointers(tuned_key("sums"))),
        )


def check(alone: Shared, many: Shared) -> None:
    """As if one had done it all."""
    assert many.calls == alone.calls
    assert many.found == alone.found * len(many.found)
    assert many.left.bought == alone.left.bought
    settled = many.left.requests("settled")
    assert len(settled) == len(set(settled)) == many.calls
    assert many.usd == many.left.spent <= CAP
    assert many.left.held == 0
    assert (many.versions, many.pointers) == (alone.versions, alone.pointers)


@pytest.mark.parametrize(("kind", "count"), [("sqlite", 2), ("sqlite", 8), ("postgres", 2)])
def test_f17_several_processes_tune_as_one(
    workers: Nursery, provider: FakeProvider, alone: Shared, tmp_path: Path, kind: str, count: int
) -> None:
    if kind == "postgres" and postgres.programs() is None:
        pytest.skip("PostgreSQL is not installed")
    with contextlib.ExitStack() as stack:
        location = tmp_path / "many.db" if kind == "sqlite" else stack.enter_context(postgres.cluster())
        check(alone, together(workers, provider, count, location, tmp_path / "found"))


def test_f17_the_check_catches_workers_that_do_not_look_at_each_others_claims(
    workers: Nursery, provider: FakeProvider, alone: Shared, tmp_path: Path
) -> None:
    with pytest.raises(AssertionError):
        check(alone, together(workers, provider, 2, tmp_path / "many.db", tmp_path / "found", variant="greedy"))
