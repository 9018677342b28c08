"""Method "pool" on a small world with a known truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfreg_sdk.errors import ConfigError
from selfreg_sdk.tuner.pool.grid import Floats, Ints
from selfreg_sdk.tuner.pool.method import PoolSearch
from selfreg_sdk.tuner.pool.task import Fate, Pool, PoolTask, Request, Winner
from selfreg_sdk.tuner.search.dimensions import Choice, Float, Space
from tests.tuner.pool_world import CELLS, FakePool, World

BUDGET = 6e-3
"""USD per request: the middle model fits with its largest n, the large one with little or nothing."""


def search(pool: Pool, task: PoolTask, **options: int) -> Winner | None:
    return PoolSearch(task, pool, **options).run()


def test_it_finds_a_good_configuration_within_the_budget() -> None:
    lost, curse = [], []
    for seed in range(6):
        world = World(seed)
        pool = FakePool(world)
        won = search(pool, world.task(BUDGET, 0.6, top=2))
        assert won is not None
        fits = world.cost(1) <= BUDGET
        assert won.cost == pytest.approx(world.cost(won.n)[won.cell], rel=0.15)
        assert world.cost(won.n)[won.cell] <= 1.05 * BUDGET
        lost.append(world.chance.mean(axis=1)[fits].max() - world.chance[won.cell].mean())
        curse.append(won.score - world.chance[won.cell].mean())
        assert pool.spent <= 0.6
    assert np.mean(lost) < 0.04
    assert abs(np.mean(curse)) < 0.1


@pytest.mark.parametrize("budget", [4e-4, 1e-3, 2e-3])
def test_what_is_clearly_too_dear_is_never_returned(budget: float) -> None:
    """The large model costs from .003 USD a request and is the best one by far."""
    for seed in range(4):
        world = World(seed)
        won = search(FakePool(world), world.task(budget, 0.2))
        large = [index for index, cell in enumerate(CELLS) if cell["model"] == "large"]
        assert min(world.cost(1)[large]) > budget
        assert won is None or (won.cell not in large and world.cost(won.n)[won.cell] <= 1.05 * budget)


def test_where_nothing_fits_nothing_is_returned() -> None:
    world = World(0)
    pool = FakePool(world)
    assert search(pool, world.task(1e-6, 0.2)) is None
    assert pool.spent < 0.02


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 50),
    total=st.floats(1e-3, 0.15),
    parallel=st.sampled_from([1, 3, 32]),
    failing=st.integers(0, 3),
)
def test_the_total_is_never_overspent(seed: int, total: float, parallel: int, failing: int) -> None:
    """The pool refuses nothing and fails some requests."""
    world = World(seed % 5)
    pool = FakePool(world, fails=lambda cell, example: (cell * 7 + example * 3 + seed) % 4 < failing)
    search(pool, world.task(BUDGET, total), seed=seed, parallel=parallel)
    assert pool.spent <= total
    assert pool.largest_batch <= parallel


def test_a_search_that_ignores_what_it_holds_would_overspend() -> None:
    """The companion of the test above: the same pool, asked for all at once without reserving, passes the total."""

    class Blind(FakePool):
        def worst(self, cell: Ints, example: Ints, n: Ints) -> Floats:
            return np.zeros_like(super().worst(cell, example, n))

    world = World(0)
    pool = Blind(world)
    search(pool, world.task(BUDGET, 0.02), parallel=32)
    assert pool.spent > 0.02


@pytest.mark.parametrize("parallel", [1, 8])
def test_the_same_seed_makes_the_same_requests(parallel: int) -> None:
    def asked(seed: int) -> tuple[list[Request], Winner | None]:
        world = World(1)
        pool = FakePool(world)
        won = search(pool, world.task(BUDGET, 0.1), seed=seed, parallel=parallel)
        return pool.asked, won

    assert asked(3) == asked(3)
    assert asked(3)[0] != asked(4)[0]


def test_many_workers_wait_seldom_and_find_as_much() -> None:
    def found(parallel: int) -> tuple[int, float]:
        rounds, scores = 0, []
        for seed in range(4):
            world = World(seed)
            pool = Counting(world)
            won = search(pool, world.task(BUDGET, 0.6), parallel=parallel)
            rounds += pool.rounds
            scores.append(0.0 if won is None else float(world.chance[won.cell].mean()))
        return rounds, float(np.mean(scores))

    class Counting(FakePool):
        rounds = 0

        def buy(self, requests: Sequence[Request]) -> Sequence[Fate]:
            self.rounds += 1
            return super().buy(requests)

    (alone, score), (together, other) = found(1), found(32)
    assert together < alone / 6
    assert other > score - 0.05


def test_nothing_is_asked_twice() -> None:
    world = World(2)
    pool = FakePool(world)
    search(pool, world.task(BUDGET, 0.3), parallel=16)
    assert pool.taken.max() <= 5
    assert sum(request.n for request in pool.asked) == pool.taken.sum()


def test_what_failed_is_not_asked_again() -> None:
    """Each cell fails on some examples, too few in a row for its arm to be closed."""
    world = World(2)
    pool = FakePool(world, fails=lambda cell, example: (cell + example) % 6 == 0)
    won = search(pool, world.task(BUDGET, 0.3, top=2))
    assert won is not None
    failed = [request for request in pool.asked if not pool.taken[request.cell, request.example]]
    assert len(failed) > 5
    assert len({(request.cell, request.example) for request in failed}) == len(failed)


def test_an_arm_that_always_fails_is_left_alone() -> None:
    world = World(0)
    small = [index for index, cell in enumerate(CELLS) if cell["model"] == "small"]
    pool = FakePool(world, fails=lambda cell, example: cell in small)
    won = search(pool, world.task(BUDGET, 0.3, top=2))
    assert won is not None
    assert won.cell not in small
    assert sum(request.cell in small for request in pool.asked) <= 3


def test_where_all_fail_the_search_ends_without_a_winner() -> None:
    world = World(0)
    pool = FakePool(world, fails=lambda cell, example: True)
    assert search(pool, world.task(BUDGET, 0.3)) is None
    assert len(pool.asked) <= 9


def test_a_refusal_ends_the_cell() -> None:
    class Poor(FakePool):
        def buy(self, requests: Sequence[Request]) -> Sequence[Fate]:
            self.asked += requests
            return ["refused"] * len(requests)

    world = World(0)
    pool = Poor(world)
    assert search(pool, world.task(BUDGET, 0.3)) is None
    assert len({request.cell for request in pool.asked}) == len(pool.asked)


def test_scores_that_cannot_be_told_are_left_out() -> None:
    class Partly(FakePool):
        def score(self, cell: Ints, example: Ints, n: Ints) -> Floats:
            return np.where(example % 3 == 0, np.nan, super().score(cell, example, n))

    world = World(0)
    won = search(Partly(world), world.task(BUDGET, 0.3, top=2))
    assert won is not None
    assert np.isfinite([won.score, won.error, won.cost, won.keep]).all()


def test_a_metric_to_minimise_finds_the_same() -> None:
    world = World(0)
    more, less = FakePool(world), FakePool(world, sign=-1)
    # At most two samples: their means, and what remains to 1, are exact, so no rounding can part the two searches.
    best = search(more, world.task(BUDGET, 0.2, top=2))
    worst = search(less, world.task(BUDGET, 0.2, top=2, mode="min"))
    assert best is not None
    assert worst is not None
    assert (best.cell, best.n) == (worst.cell, worst.n)
    assert worst.score == pytest.approx(1 - best.score)


def test_the_range_of_a_metric_is_a_matter_of_units() -> None:
    class Percent(FakePool):
        def score(self, cell: Ints, example: Ints, n: Ints) -> Floats:
            return 100 * super().score(cell, example, n) - 20

    world = World(0)
    task = world.task(BUDGET, 0.2, top=2)
    plain, scaled = search(FakePool(world), task), search(Percent(world), replace(task, low=-20.0, high=80.0))
    assert plain is not None
    assert scaled is not None
    assert (plain.cell, plain.n) == (scaled.cell, scaled.n)
    assert scaled.score == pytest.approx(100 * plain.score - 20)
    assert scaled.error == pytest.approx(100 * plain.error)


@pytest.mark.parametrize(
    ("space", "cells"),
    [
        ({"model": Choice(("small",))}, [{"model": "small"}]),
        ({"temperature": Float(0.0, 1.0)}, [{"temperature": t} for t in (0.0, 0.5, 1.0)]),
        ({"model": Choice(("small", "large"))}, [{"model": "small"}, {"model": "large"}]),
    ],
    ids=["one cell", "one model", "no order"],
)
@pytest.mark.parametrize("examples", [1, 8])
def test_degenerate_spaces(space: Space, cells: list[dict[str, object]], examples: int) -> None:
    world = World(0, space, cells, examples)
    pool = FakePool(world)
    won = search(pool, world.task(0.1, 0.5, top=3))
    assert pool.spent <= 0.5
    assert won is not None
    assert np.isfinite([won.score, won.error, won.cost, won.cost_error]).all()


def test_free_models_are_searched_to_the_end() -> None:
    world = World(0)
    world.rates = replace(world.rates, prompt=0 * world.rates.prompt, answer=0 * world.rates.answer)
    pool = FakePool(world)
    won = search(pool, world.task(BUDGET, 0.1, top=2), parallel=32)
    assert won is not None
    assert won.cost == 0
    assert world.chance[won.cell].mean() > world.chance.mean(axis=1).max() - 0.1


def test_a_search_goes_on_from_the_pool_it_left() -> None:
    world = World(3)
    pool = FakePool(world)
    search(pool, world.task(BUDGET, 0.05))
    paid = len(pool.asked)
    won = search(pool, world.task(BUDGET, 0.3))
    assert won is not None
    assert len(pool.asked) > paid
    assert sum(request.n for request in pool.asked) == pool.taken.sum()


def test_other_budgets_are_read_off_the_same_pool() -> None:
    world = World(1)
    pool = FakePool(world)
    found = PoolSearch(world.task(BUDGET, 0.6, top=2), pool)
    found.run()
    spent = pool.spent
    costs = [won.cost for budget in (5e-4, 2e-3, BUDGET) if (won := found.best(budget)) is not None]
    assert costs
    assert all(cost <= budget for cost, budget in zip(costs[::-1], (BUDGET, 2e-3, 5e-4), strict=False))
    assert pool.spent == spent
    assert found.best(1e-6) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"counted": np.ones((2, 3))},
        {"counted": np.ones((len(CELLS), 0))},
        {"top": 0},
        {"budget": 0.0},
        {"total": float("nan")},
        {"low": 1.0, "high": 1.0},
    ],
)
def test_tasks_are_checked(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        replace(World(0).task(BUDGET, 0.1), **changes)  # type: ignore[arg-type]
