"""Worlds whose best cascade is known: two models, easy and hard examples, and an agreement that tells them apart, or not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from selfreg_sdk.tuner.pool.grid import Floats, Grid, Ints
from selfreg_sdk.tuner.pool.spend import Rates
from selfreg_sdk.tuner.pool.task import PoolTask
from selfreg_sdk.tuner.scoring.scoring import Mark
from selfreg_sdk.tuner.search.dimensions import Choice, Space
from selfreg_sdk.tuner.search.drawing import Sample

SPACE: Space = {"model": Choice(("small", "large"))}
CELLS = tuple({"model": model} for model in ("small", "large"))
PRICE = np.array([1e-6, 10e-6])
TOKENS = 100.0


class Shelf:
    """A pool in which everything was bought: K samples of each cell on each example.

    Args:
        right: (C, P) chance that a sample is right.
        herd: wrong answers are all the same one, so that they agree, too.
    """

    def __init__(self, right: Floats, *, samples: int = 7, seed: int = 0, herd: bool = False):
        random = np.random.default_rng(seed)
        cells, examples = right.shape
        self.right = right
        self.taken: Ints = np.full(right.shape, samples)
        self.tokens: Floats = TOKENS * np.exp(random.normal(0, 0.2, right.shape))
        self.billed: Floats = np.full(right.shape, 50.0)
        self.spent = 0.0
        hits = random.random((cells, examples, samples)) < right[:, :, None]
        wrong = np.ones(hits.shape, int) if herd else random.integers(1, 1000, hits.shape)
        self._said = np.where(hits, 0, wrong)
        self.grid = Grid.of(SPACE, CELLS)

    def samples(self, cell: int, example: int) -> Sequence[Sample]:
        return [Sample(text=f"so {said}") for said in self._said[cell, example, : self.taken[cell, example]]]

    def marks(self, cell: int, example: int) -> Sequence[Mark]:
        said = self._said[cell, example, : self.taken[cell, example]]
        return [Mark(score=float(one == 0), ballot=str(one)) for one in said]

    def task(self, budget: float, *, top: int = 7) -> PoolTask:
        rates = Rates(prompt=PRICE, answer=PRICE, request=np.zeros(2))
        return PoolTask(grid=self.grid, counted=self.billed, rates=rates, top=top, budget=budget, total=1.0)

    # -- what a search asks, which has nothing left to buy

    def worst(self, cell: Ints, example: Ints, n: Ints) -> Floats:
        return np.zeros(np.broadcast_shapes(np.shape(cell), np.shape(example), np.shape(n)))

    def score(self, cell: Ints, example: Ints, n: Ints) -> Floats:
        from selfreg_sdk.tuner.scoring.metrics import elected

        rows = zip(cell, example, n, strict=True)
        said = [[str(one) for one in self._said[c, e, :k]] for c, e, k in rows]
        return np.array([float(ballots[elected(ballots)] == "0") for ballots in said])

    def buy(self, requests: Sequence[object]) -> list[str]:
        raise AssertionError(f"everything is bought, but {requests!r} was asked for")


def telling(seed: int, examples: int = 40) -> Floats:
    """The small model knows half of the examples surely and nothing of the rest; the large one knows most of all."""
    random = np.random.default_rng([1, seed])
    easy = random.random(examples) < 0.5
    return np.array([np.where(easy, 0.97, 0.03), np.full(examples, 0.75)])


def blind(examples: int = 40) -> Floats:
    """Right and wrong are equally likely, of both models on all examples: with a herd, no answer tells anything."""
    return np.full((2, examples), 0.5)
