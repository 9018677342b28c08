"""Cascades read off a pool: their arithmetic, and that those chosen are truly better, and others are not chosen."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from selfreg_sdk.tuner.cascade.pairs import Cascade, Doubt, best_cascade, composed
from selfreg_sdk.tuner.cascade.stages import First, Second, stages
from selfreg_sdk.tuner.pool.method import PoolSearch
from selfreg_sdk.tuner.pool.task import PoolTask, Winner
from selfreg_sdk.tuner.scoring.metrics import elected, metric
from selfreg_sdk.tuner.task.filters import Filter, agreement, parse_filter
from tests.tuner.cascade_world import PRICE, Shelf, blind, telling

VOTE = metric("vote")
SMALL, LARGE = 0, 1


def gate(at_least: Any = (0.6, 0.8, 1.0), **more: Any) -> Filter:
    return Filter(parse_filter({"kind": "agreement", "at_least": at_least, **more}))


def read(shelf: Shelf, task: PoolTask, asked: Filter | None = None, **more: Any) -> tuple[Any, Any]:
    search = PoolSearch(task, shelf)
    return asyncio.run(stages(task, shelf, VOTE, asked or gate(), [0, 0], search.expected, **more))


def found(shelf: Shelf, task: PoolTask, **more: Any) -> Cascade | None:
    winner = PoolSearch(task, shelf).best()
    assert winner is not None
    firsts, seconds = read(shelf, task, sizes={1, 3, 5, winner.n}, single=(winner.cell, winner.n))
    return best_cascade(task, firsts, seconds, winner, **more)


def truth(
    shelf: Shelf, first: tuple[int, int, float], second: tuple[int, int], draws: int = 200
) -> tuple[float, float]:
    """Score and cost of a cascade, by running it on fresh samples of every example."""
    random = np.random.default_rng(3)
    score = cost = 0.0
    tokens = np.asarray(shelf.tokens)
    for _, example in itertools.product(range(draws), range(shelf.right.shape[1])):
        ballots = said(random, float(shelf.right[first[0], example]), first[1])
        cost += 50 * PRICE[first[0]] + first[1] * tokens[first[0], example] * PRICE[first[0]]
        if agreement(ballots) < first[2] - 1e-9:
            ballots = said(random, float(shelf.right[second[0], example]), second[1])
            cost += 50 * PRICE[second[0]] + second[1] * tokens[second[0], example] * PRICE[second[0]]
        score += ballots[elected(ballots)] == "0"
    return score / draws / shelf.right.shape[1], cost / draws / shelf.right.shape[1]


def said(random: np.random.Generator, right: float, n: int) -> list[str]:
    return ["0" if random.random() < right else str(random.integers(1, 1000)) for _ in range(n)]


def test_arithmetic_is_that_of_running_it() -> None:
    shelf = Shelf(telling(0), samples=30, seed=1)
    task = shelf.task(1.0, top=30)
    firsts, seconds = read(shelf, task, sizes=(1, 3, 5))
    first = next(one for one in firsts if (one.cell, one.n, one.level) == (SMALL, 3, 0.6))
    second = next(one for one in seconds if (one.cell, one.n) == (LARGE, 5))
    score, cost = composed(first, second)
    wanted = truth(shelf, (SMALL, 3, 0.6), (LARGE, 5))
    assert score.mean() == pytest.approx(wanted[0], abs=0.03)
    assert cost.mean() == pytest.approx(wanted[1], rel=0.04)
    alone = next(one for one in seconds if (one.cell, one.n) == (SMALL, 3))
    assert alone.cost == pytest.approx(first.cost)
    assert (first.kept <= first.passes + 1e-12).all()


def test_a_table_of_all_cascades_is_each_of_them() -> None:
    """Gains and costs of all pairs at once, against one pair after another, where some examples are missing."""
    from selfreg_sdk.tuner.cascade.pairs import _Pairs
    from selfreg_sdk.tuner.pool.choose import Caution

    shelf = Shelf(telling(1), seed=2)
    shelf.taken[SMALL, ::5] = 2
    shelf.taken[LARGE, 1::7] = 0
    task = shelf.task(0.01)
    firsts, seconds = read(shelf, task, sizes=(1, 2, 3, 5))
    single = seconds[-1]
    doubt = Doubt(weight=0.0, gains=1e6)  # nothing is shrunk
    pairs = _Pairs(firsts, seconds, single, 0.01, Caution(least=0.5, slack=0.0), doubt)
    table = pairs._values(slice(0, len(firsts)), np.ones(40, bool))

    def luck(one: First | Second) -> float:
        return one.expected - float(np.nanmean(one.score))

    for (i, first), (j, second) in itertools.product(enumerate(firsts), enumerate(seconds)):
        believed = first.kept + first.passes * luck(first)
        gain = believed + (1 - first.passes) * (second.score + luck(second)) - single.score - luck(single)
        _, cost = composed(first, second)
        seen = np.isfinite(gain)
        if seen.sum() < doubt.common or cost[seen].mean() > 0.01:
            assert table[i, j] == -np.inf
        else:
            assert table[i, j] == pytest.approx(gain[seen].mean(), abs=1e-9)


def test_a_cascade_that_is_better_is_chosen_and_is_what_it_says() -> None:
    gains, told, offered = [], [], 0
    for seed in range(7):
        shelf = Shelf(telling(seed), seed=seed)
        task = shelf.task(0.0016)  # one answer of the large model, and a few of the small one
        chosen = found(shelf, task)
        if chosen is None:
            continue
        offered += 1
        first, second = chosen.first, chosen.second
        score, cost = truth(shelf, (first.cell, first.n, first.level), (second.cell, second.n), draws=25)
        assert cost <= 1.05 * 0.0016
        assert cost == pytest.approx(chosen.expected.cost, rel=0.15)
        winner = PoolSearch(task, shelf).best()
        assert winner is not None
        alone, _ = truth(shelf, (winner.cell, winner.n, 0.0), (LARGE, 1), draws=25)
        gains.append(score - alone)
        told.append(chosen.expected.gain)
    assert offered >= 6
    assert np.mean(gains) > 0.06
    assert abs(np.mean(told) - np.mean(gains)) < 0.05


def blind_worlds(**more: Any) -> int:
    """Of twelve worlds in which any cascade is as good as any configuration, those in which one is offered."""
    shelves = [Shelf(blind(), seed=seed, herd=True) for seed in range(12)]
    return sum(found(shelf, shelf.task(0.004), **more) is not None for shelf in shelves)


def test_a_useless_one_is_not() -> None:
    assert blind_worlds() <= 2


def test_without_the_check_luck_is_sold() -> None:
    """The test of the test above: the same choice without a check on other examples offers what is no better."""
    assert blind_worlds(doubt=Doubt(sure=-1e9)) >= 7


def test_stages_of_different_prompts_make_no_cascade() -> None:
    shelf = Shelf(telling(3), seed=3)
    task = shelf.task(0.0016)
    winner = PoolSearch(task, shelf).best()
    assert winner is not None
    search = PoolSearch(task, shelf)
    for prompts, offered in (([0, 0], True), ([0, 1], False)):
        firsts, seconds = asyncio.run(
            stages(task, shelf, VOTE, gate(), prompts, search.expected, sizes={1, 3, 5, winner.n})
        )
        chosen = best_cascade(task, firsts, seconds, winner)
        assert (chosen is not None and chosen.first.cell != chosen.second.cell) is offered


def test_too_few_common_examples_make_no_cascade() -> None:
    shelf = Shelf(telling(3), seed=3)
    task = shelf.task(0.0016)
    assert found(shelf, task) is not None
    shelf.taken[SMALL, 9:] = 0  # read on nine examples only
    firsts, _ = read(shelf, task)
    assert {one.cell for one in firsts} == {LARGE}
    chosen = found(shelf, task)
    assert chosen is None or chosen.first.cell == LARGE


def test_where_nothing_is_known_nothing_is_offered() -> None:
    shelf = Shelf(telling(0))
    task = shelf.task(0.0016)
    winner = Winner(cell=LARGE, n=1, score=0.7, error=0.1, cost=0.0015, cost_error=0.0, keep=1.0)
    assert best_cascade(task, (), (), winner) is None
    shelf.taken[:] = 0
    assert read(shelf, task) == ((), ())


def test_less_may_be_better() -> None:
    """With losses instead of scores the same cascade is chosen, and its gain is still more is better."""
    shelf = Shelf(telling(4), seed=4)
    task = shelf.task(0.0016)
    chosen = found(shelf, task)
    assert chosen is not None

    class Losses(Shelf):
        def marks(self, cell: int, example: int) -> Any:
            return [replace(mark, score=1 - mark.score) for mark in super().marks(cell, example)]

        def score(self, cell: Any, example: Any, n: Any) -> Any:
            return 1 - super().score(cell, example, n)

    losses = Losses(telling(4), seed=4)
    reversed_task = replace(losses.task(0.0016), mode="min")
    winner = PoolSearch(reversed_task, losses).best()
    assert winner is not None
    search = PoolSearch(reversed_task, losses)
    reading = stages(
        reversed_task,
        losses,
        metric("vote", mode="min"),
        gate(),
        [0, 0],
        search.expected,
        sizes={1, 3, 5, winner.n},
    )
    firsts, seconds = asyncio.run(reading)
    same = best_cascade(reversed_task, firsts, seconds, winner)
    assert same is not None
    assert (same.first.cell, same.first.n, same.second.cell, same.second.n) == (
        chosen.first.cell,
        chosen.first.n,
        chosen.second.cell,
        chosen.second.n,
    )
    assert same.expected.gain == pytest.approx(chosen.expected.gain)
    assert same.expected.score == pytest.approx(1 - chosen.expected.score)
