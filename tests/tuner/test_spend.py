"""What requests cost: means, errors and how they fall."""

from __future__ import annotations

import numpy as np
import pytest

from selfreg_sdk.tuner.pool.grid import Ints
from selfreg_sdk.tuner.pool.spend import UNSEEN_TOKENS, Bill, Costs, Replies
from tests.tuner.pool_world import World

N = np.arange(1, 9, dtype=float)[None, :]


def replies(world: World, cell: Ints, example: Ints, *, seed: int = 0, ratio: float = 1.0) -> Replies:
    tokens = world.length[cell, example] * np.random.default_rng(seed).lognormal(-0.02, 0.2, len(cell))
    return Replies(cell=cell, example=example, tokens=tokens, billed=ratio * world.counted[cell, example])


def all_of(world: World, cells: int, examples: int) -> tuple[Ints, Ints]:
    cell, example = np.nonzero(np.ones((cells, examples), bool))
    return cell, example


def bill(world: World, cell: Ints, example: Ints, *, seed: int = 0, ratio: float = 1.0, share: float = 1.0) -> Bill:
    costs = Costs(world.grid, world.counted, world.rates, share=share)
    return costs.bill(replies(world, cell, example, seed=seed, ratio=ratio))


def test_before_any_reply_prompts_are_known_and_answers_are_not() -> None:
    world = World(0)
    nothing = np.zeros(0, np.int64)
    unheard = bill(world, nothing, nothing)
    assert not unheard.known.any()
    assert unheard.base == pytest.approx((world.counted * world.rates.prompt[:, None]).mean(axis=1))
    assert unheard.each == pytest.approx(UNSEEN_TOKENS * world.rates.answer)
    assert np.all(unheard.error(N) > 0.9 * N * UNSEEN_TOKENS * world.rates.answer[:, None])


def test_the_mean_is_found_and_its_error_falls_to_the_floor() -> None:
    world = World(1)
    errors = []
    for examples in (1, 4, 20):
        found = bill(world, *all_of(world, len(world.truth), examples))
        errors.append(found.error(N)[:, 3])
        assert found.known.all()
        assert np.all(found.floor(N) <= found.error(N) + 1e-18)
    assert found.mean(N)[:, 3] == pytest.approx(world.cost(4), rel=0.1)
    assert np.all(errors[0] > errors[1])
    assert np.all(errors[1] > errors[2])
    assert errors[2] == pytest.approx(found.floor(N)[:, 3], rel=0.25)


def test_the_error_covers_what_new_examples_cost() -> None:
    """The mean over new examples of the same kind lies within 1.645 errors of the estimate nine times of ten."""
    inside = []
    for seed in range(60):
        world, later = World(seed, examples=12), World(1000 + seed, examples=4000)
        found = bill(world, *all_of(world, len(world.truth), 12), seed=seed)
        inside.append(np.mean(np.abs(found.mean(N)[:, 3] - later.cost(4)) < 1.645 * found.error(N)[:, 3]))
    assert 0.8 < np.mean(inside) <= 1.0


def test_an_endpoint_that_counts_otherwise_is_believed() -> None:
    world = World(2)
    cell = np.zeros(6, np.int64)
    odd, plain = (bill(world, cell, np.arange(6), ratio=ratio) for ratio in (5.0, 1.0))
    arm = world.grid.arm == world.grid.arm[0]
    assert odd.base[arm] == pytest.approx(5 * plain.base[arm])
    assert odd.base[~arm] == pytest.approx(plain.base[~arm])
    assert np.all(odd.vague[arm] < 0.1 * odd.base[arm])


def test_an_arm_heard_tells_of_its_other_cells_with_more_doubt() -> None:
    world = World(3)
    found = bill(world, np.zeros(10, np.int64), np.arange(10))
    arm = np.nonzero(world.grid.arm == world.grid.arm[0])[0]
    assert found.known[arm].all()
    assert not found.known[np.setdiff1d(np.arange(len(world.truth)), arm)].any()
    assert np.all(found.doubt[arm[1:]] > found.doubt[0])


def test_long_prompts_that_get_long_answers_leave_more_doubt() -> None:
    world = World(8)
    where = all_of(world, len(world.truth), 20)
    errors = []
    for order in (np.argsort(world.counted[0]), np.argsort(-world.counted[0])):
        world.length[:, order] = np.sort(world.length[0])
        errors.append(bill(world, *where).error(N)[:, 3])
    assert np.all(errors[0] > errors[1])


def test_a_finite_set_of_requests_leaves_less_doubt_than_new_ones() -> None:
    world = World(4)
    where = all_of(world, len(world.truth), 20)
    assert np.all(bill(world, *where, share=0.5).error(N) < bill(world, *where).error(N))


def test_a_bill_does_not_depend_on_the_bills_before_it() -> None:
    world = World(5)
    costs = Costs(world.grid, world.counted, world.rates)
    for examples in (1, 3, 20):
        given = replies(world, *all_of(world, len(world.truth), examples))
        kept, fresh = costs.bill(given), Costs(world.grid, world.counted, world.rates).bill(given)
        assert np.array_equal(kept.mean(N), fresh.mean(N))
        assert np.array_equal(kept.error(N), fresh.error(N))


def test_nothing_billed_or_said_is_no_fault() -> None:
    world = World(6)
    nothing = np.zeros(3)
    cell = np.zeros(3, np.int64)
    costs = Costs(world.grid, 0 * world.counted, world.rates)
    found = costs.bill(Replies(cell=cell, example=np.arange(3), tokens=nothing, billed=nothing))
    assert np.isfinite(found.mean(N)).all()
    assert np.isfinite(found.error(N)).all()
