"""What views do to a choice: nothing for the worse where they are useless, much where they save or help."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from selfreg_sdk.tuner.pool.grid import Floats
from selfreg_sdk.tuner.pool.method import PoolSearch
from selfreg_sdk.tuner.pool.task import Method, Winner
from selfreg_sdk.tuner.pool.view_effects import Pairs, Prejudice, effect
from tests.tuner.pool_world import World
from tests.tuner.view_world import Knife, ViewPool

BUDGET, TOTAL, TOP = 6e-4, 0.1, 5
"""The small model fits once or twice as it is drawn."""
USELESS = Knife(often=0.5, lost=0.45, won=0.15, left=1.0)
"""Turns many answers around, more of them for the worse, and saves nothing: only luck makes it look good."""
TRUSTING = Prejudice(mean=0.0, spread=10.0, weight=0.01, wary=0.0)
"""Believes what it sees: the best of several views by the difference of means."""


def pairs(changed: list[float], gain: list[float], score: float = 0.5) -> Pairs:
    count = len(changed)
    return Pairs(
        arm=np.zeros(count, np.int64),
        example=np.arange(count),
        whole=np.full(count, score),
        changed=np.array(changed),
        gain=np.array(gain),
    )


def believed(changed: list[float], gain: list[float]) -> tuple[float, float]:
    mean, error, offered = effect(pairs(changed, gain), 1, Prejudice())
    assert offered[0]
    return float(mean[0]), float(error[0])


def choices(knives: list[Knife], seeds: range, method: Method | None = None) -> tuple[Floats, Floats, list[Winner]]:
    """True scores of what is chosen without and with views, and the choices with views."""
    plain, seen, won = [], [], []
    for seed in seeds:
        world = World(seed, examples=12)
        task = world.task(BUDGET, TOTAL, top=TOP)
        pool = ViewPool(world, knives, top=TOP)
        plain.append(pool.truth(PoolSearch(task, pool).run(), BUDGET))
        pool = ViewPool(world, knives, top=TOP)
        found = PoolSearch(task, pool, method=method, seen=pool).run()
        assert found is not None
        assert pool.spent <= TOTAL
        seen.append(pool.truth(found, BUDGET))
        won.append(found)
    return np.array(plain), np.array(seen), won


def test_what_was_never_cut_may_be_cut_yet() -> None:
    few, many = believed([0.0] * 3, [0.0] * 3), believed([0.0] * 40, [0.0] * 40)
    assert few[0] < many[0] < 0
    assert many[0] > -0.01
    assert many[1] < few[1]


def test_an_effect_is_believed_as_far_as_examples_show_it() -> None:
    few, many = believed([1.0] * 3, [0.3] * 3), believed([1.0] * 60, [0.3] * 60)
    assert few[0] < 0.15
    assert many[0] == pytest.approx(0.3, abs=0.05)
    assert many[1] < few[1]


def test_readings_of_one_example_are_one_example() -> None:
    same = replace(pairs([1.0] * 30, [0.3] * 30), example=np.zeros(30, np.int64))
    assert effect(same, 1, Prejudice())[0][0] < believed([1.0] * 30, [0.3] * 30)[0]


def test_a_view_whose_scores_are_not_all_known_is_not_offered() -> None:
    """A judge is not paid for cut answers: were only the untouched ones counted, every cut would look harmless."""
    unknown = effect(pairs([0.0, 0.0, 1.0], [0.0, 0.0, np.nan]), 1, Prejudice())
    assert not unknown[2][0]
    cannot_be_sent = effect(pairs([0.0, np.nan], [0.0, np.nan]), 1, Prejudice())
    assert not cannot_be_sent[2][0]


def test_useless_views_do_no_harm() -> None:
    plain, seen, _ = choices([USELESS] * 6, range(6))
    assert float(np.mean(seen - plain)) > -0.01


def test_a_search_that_believes_what_it_sees_would_mine_noise() -> None:
    """The companion of the test above: the same views fool a choice by the difference of means."""
    plain, seen, won = choices([USELESS] * 6, range(6), Method(prejudice=TRUSTING))
    assert float(np.mean(seen - plain)) < -0.01
    assert sum(found.view > 0 for found in won) > 3


def test_a_view_that_saves_pays_for_more_samples() -> None:
    plain, seen, won = choices([Knife(often=0.95, lost=0.0, won=0.0, left=0.35)], range(4))
    assert float(np.mean(seen - plain)) > 0.1
    assert all(found.view == 1 and found.n >= 3 for found in won)


def test_a_view_that_helps_is_used_among_others_that_harm() -> None:
    helps = Knife(often=0.6, lost=0.0, won=0.4, left=0.8)
    harms = [Knife(often=often, lost=0.6, won=0.05, left=0.7) for often in (0.2, 0.5)]
    plain, seen, won = choices([*harms, helps], range(4))
    assert float(np.mean(seen - plain)) > 0.05
    assert sum(found.view == 3 for found in won) >= 3


def test_one_view_is_as_good_as_none() -> None:
    world = World(3)
    task, first, second = world.task(BUDGET, TOTAL), *(ViewPool(world, [], top=TOP) for _ in range(2))
    assert PoolSearch(task, first).run() == PoolSearch(task, second, seen=second).run()
    assert first.spent == second.spent
    assert np.array_equal(first.taken, second.taken)


def test_samples_drawn_in_a_way_the_space_forbids_are_used_through_a_view() -> None:
    world = World(0)
    pool = ViewPool(world, [Knife(often=0.3, lost=0.5, won=0.0, left=1.0)], top=TOP)
    pool.views = (replace(pool.views[0], offered=False), *pool.views[1:])
    won = PoolSearch(world.task(BUDGET, TOTAL, top=TOP), pool, seen=pool).run()
    assert won is not None
    assert won.view == 1


def test_where_no_view_can_be_sent_none_is_used() -> None:
    class Mute(ViewPool):
        def view_changed(self, view: int) -> Floats:
            return np.full(self.taken.shape, np.nan) if view else super().view_changed(view)

    world = World(0)
    pool = Mute(world, [Knife(often=0.95, lost=0.0, won=0.0, left=0.35)], top=TOP)
    won = PoolSearch(world.task(BUDGET, TOTAL, top=TOP), pool, seen=pool).run()
    assert won is not None
    assert won.view == 0
