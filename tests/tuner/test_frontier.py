"""What more money per request buys."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import numpy as np
import pytest

from selfreg_sdk.tuner.pool.frontier import FrontierPoint, at, by_label, frontier
from selfreg_sdk.tuner.pool.method import PoolSearch
from selfreg_sdk.tuner.pool.task import Request
from selfreg_sdk.tuner.search.search import Mode
from tests.tuner.pool_world import CELLS, FakePool, World
from tests.tuner.view_world import Knife, ViewPool

BUDGET = 6e-3
MODELS = [str(cell["model"]) for cell in CELLS]


@lru_cache
def searched(seed: int = 0, *, mode: Mode = "max") -> PoolSearch:
    """A finished search; nothing here changes it."""
    world = World(seed)
    pool = FakePool(world, sign=1 if mode == "max" else -1)
    search = PoolSearch(world.task(BUDGET, 0.4, top=3, mode=mode), pool)
    search.run()
    return search


def key(point: FrontierPoint) -> tuple[int, int, int]:
    return point.winner.cell, point.winner.n, point.winner.view


@pytest.mark.parametrize("mode", ["max", "min"])
def test_every_point_costs_more_and_scores_better_than_the_one_before(mode: Mode) -> None:
    for seed in range(2):
        search = searched(seed, mode=mode)
        points = frontier(search)
        assert 1 < len(points) <= 12
        for left, right in pairwise(points):
            assert left.winner.cost < right.winner.cost
            assert search.task.units(np.array(left.winner.score)) < search.task.units(np.array(right.winner.score))
        for point in points:
            assert 0 <= point.low <= point.winner.score <= point.high <= 1
            assert 0 <= point.cost_low <= point.winner.cost <= point.cost_high
            assert point.winner.cost <= point.budget


def test_the_choice_of_the_search_is_on_it_however_few_points_there_are() -> None:
    search = searched()
    own = search.best()
    assert own is not None
    for most in (12, 2, 1):
        points = frontier(search, most=most)
        assert len(points) <= most
        assert own in [point.winner for point in points]


def test_any_budget_can_be_read_off() -> None:
    search = searched()
    for budget in (4e-4, 1e-3, BUDGET):
        point = at(search, budget)
        assert point is not None
        assert point.winner == search.best(budget)
        assert point.budget == budget
    assert at(search, 1e-7) is None


def test_each_model_has_its_best() -> None:
    search = searched()
    found = by_label(search, MODELS)
    assert set(found) == set(MODELS)
    assert all(point is None or MODELS[point.winner.cell] == model for model, point in found.items())
    best = search.best()
    assert best is not None
    mine = found[MODELS[best.cell]]
    assert mine is not None
    assert mine.winner == best


def test_latency_is_the_median_of_what_was_measured() -> None:
    search = searched()
    seconds = np.full(search.pool.taken.shape, np.nan)
    best = search.best()
    assert best is not None
    seconds[best.cell, :3] = 1.0, 5.0, 2.0
    point = at(search, BUDGET, seconds=seconds)
    assert point is not None
    assert point.seconds == 2.0
    assert at(search, BUDGET, seconds=np.full_like(seconds, np.nan)).seconds is None  # type: ignore[union-attr]
    assert at(search, BUDGET, seconds=np.arange(18.0)).seconds == best.cell  # type: ignore[union-attr]


def test_few_examples_certify_little_and_many_much() -> None:
    search = searched()
    best = search.best()
    assert best is not None
    few = at(search, 1.05 * best.cost)
    assert few is not None
    assert not few.certified
    assert few.certain_cost > 1.5 * few.winner.cost
    world = World(0, examples=1500)
    pool = FakePool(world)
    pool.buy([Request(cell=0, example=example, n=1) for example in range(1500)])
    search = PoolSearch(world.task(BUDGET, 40.0, top=1), pool)
    many = at(search, 6e-4, cells=np.arange(len(CELLS)) == 0)
    assert many is not None
    assert many.certified
    assert many.winner.cost < many.certain_cost < 6e-4
    assert 0 < many.certain_score < many.winner.score


def test_a_frontier_of_nothing_is_empty() -> None:
    world = World(0)
    search = PoolSearch(world.task(BUDGET, 0.4), FakePool(world))
    assert frontier(search) == ()
    assert search.explain() == ()


def test_views_are_on_it() -> None:
    world = World(0)
    pool = ViewPool(world, [Knife(often=0.95, lost=0.0, won=0.0, left=0.35)], top=4)
    search = PoolSearch(world.task(BUDGET, 0.4, top=4), pool, seen=pool)
    search.run()
    points = frontier(search)
    assert any(point.winner.view == 1 for point in points)
    assert len({key(point) for point in points}) == len(points)


def test_the_ranking_says_by_how_much_and_how_surely() -> None:
    search = searched()
    reasons = search.explain(count=4)
    assert [reason.rank for reason in reasons] == [1, 2, 3, 4]
    assert reasons[0].winner == search.best()
    for reason, after in pairwise(reasons):
        assert reason.margin == pytest.approx(reason.winner.score - after.winner.score)
        assert reason.ahead is not None
        assert (reason.ahead >= 0.5) == (reason.margin >= 0)
    assert reasons[-1].margin is None
