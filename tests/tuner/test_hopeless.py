"""What is closed by proof, and that nothing else is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from selfreg_sdk.tuner.pool.grid import Floats, Ints
from selfreg_sdk.tuner.pool.hopeless import Proofs, Tally
from selfreg_sdk.tuner.pool.method import PoolSearch
from selfreg_sdk.tuner.pool.task import Fate, Method, PoolTask, Request
from tests.tuner.pool_world import CELLS, FakePool, World

EXAMPLES = 400


def filled(world: World, cells: list[int], n: int) -> FakePool:
    """A pool in which some cells are read on all examples."""
    pool = FakePool(world)
    pool.buy([Request(cell=cell, example=example, n=n) for cell in cells for example in range(world.counted.shape[1])])
    return pool


def proofs(world: World, task: PoolTask, pool: FakePool, limit: float) -> Proofs:
    found = Proofs(task, pool, limit=limit, risk=0.05)
    for cell, example in zip(*np.nonzero(pool.taken), strict=True):
        found.arrived(int(cell), int(example))
    return found


def look(found: Proofs, pool: FakePool, cells: list[int], n: int, *, scores: bool = True) -> None:
    fits = np.ones(len(cells), bool)
    found.look(np.array(cells), np.full(len(cells), n), pool.tokens, fits, scores=scores)


def test_what_costs_far_too_much_is_closed_and_all_above_it() -> None:
    world = World(0, examples=EXAMPLES)
    pool = filled(world, [0], 2)
    mean = float(world.cost(2)[0])
    dear, fair = (proofs(world, world.task(limit, 1.0, top=5), pool, limit) for limit in (mean / 3, mean * 0.95))
    for found in (dear, fair):
        look(found, pool, [0], 2, scores=False)
    assert dear.dear[0] == 2
    assert dear.tally == Tally(dear=4)
    assert fair.tally == Tally()


def test_what_is_clearly_worse_is_closed() -> None:
    world = World(0, examples=EXAMPLES)
    world.chance[0], world.chance[1], world.chance[2] = 0.05, 0.9, 0.85
    pool = filled(world, [0, 1, 2], 1)
    found = proofs(world, world.task(1.0, 1.0, top=2), pool, 1.0)
    look(found, pool, [0, 1, 2], 1)
    assert found.worse[:, 1].tolist() == [True] + [False] * (len(CELLS) - 1)


def test_few_examples_prove_nothing() -> None:
    """The same gap, on as many examples as a task has: honest bounds are wide."""
    world = World(0, examples=12)
    world.chance[0], world.chance[1] = 0.05, 0.9
    pool = filled(world, [0, 1], 1)
    found = proofs(world, world.task(1.0, 1.0, top=2), pool, 1.0)
    look(found, pool, [0, 1], 1)
    assert found.tally == Tally()


def test_scores_are_not_compared_where_a_view_could_raise_them() -> None:
    world = World(0, examples=EXAMPLES)
    world.chance[0], world.chance[1] = 0.05, 0.9
    pool = filled(world, [0, 1], 1)
    found = proofs(world, world.task(1.0, 1.0, top=2), pool, 1.0)
    look(found, pool, [0, 1], 1, scores=False)
    assert found.tally == Tally()


def test_without_a_known_range_nothing_is_closed() -> None:
    class Wild(FakePool):
        def score(self, cell: Ints, example: Ints, n: Ints) -> Floats:
            return 3 * super().score(cell, example, n)

        def worst(self, cell: Ints, example: Ints, n: Ints) -> Floats:
            return 0.1 * super().worst(cell, example, n)

    world = World(0, examples=EXAMPLES)
    world.chance[0], world.chance[1] = 0.05, 0.9
    pool = Wild(world)
    pool.buy([Request(cell=cell, example=example, n=1) for cell in (0, 1) for example in range(EXAMPLES)])
    found = proofs(world, world.task(1e-6, 1.0, top=2), pool, 1e-6)
    look(found, pool, [0, 1], 1)
    assert found.tally == Tally()


@pytest.mark.parametrize("budget", [6e-4, 6e-3])
def test_proofs_change_no_choice(budget: float) -> None:
    """Against a search that may never be wrong, and so closes nothing."""
    for seed in range(2):
        world = World(seed)
        task = world.task(budget, 0.1, top=2)
        careful, plain = (
            PoolSearch(task, FakePool(world)),
            PoolSearch(task, FakePool(world), method=Method(risk=1e-300)),
        )
        assert careful.run() == plain.run()
        assert plain.hopeless == Tally()


def test_nothing_is_spent_on_what_is_closed() -> None:
    class Watched(FakePool):
        search: PoolSearch

        def buy(self, requests: Sequence[Request]) -> Sequence[Fate]:
            for request in requests:
                n = int(self.taken[request.cell, request.example]) + request.n
                assert not self.search.proofs.worse[request.cell, n]
                assert n < self.search.proofs.dear[request.cell]
            return super().buy(requests)

    world = World(0, examples=EXAMPLES)
    world.chance[:6], world.chance[6:12] = 0.95, 0.02
    pool = Watched(world)
    task = world.task(6e-3, 1.0, top=1)
    pool.search = PoolSearch(task, pool)
    FakePool.buy(pool, [Request(cell=c, example=e, n=1) for c in (2, 7, 8) for e in range(EXAMPLES - 50)])
    pool.search = PoolSearch(task, pool)
    won = pool.search.run()
    assert won is not None
    assert won.cell < 6
    assert pool.search.hopeless.worse >= 2
