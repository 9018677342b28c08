"""A small world with a known truth, for tests of method "pool"."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from selfreg_sdk.tuner.pool.grid import Floats, Grid, Ints
from selfreg_sdk.tuner.pool.spend import Rates
from selfreg_sdk.tuner.pool.task import Fate, PoolTask, Request
from selfreg_sdk.tuner.search.dimensions import Choice, Float, Space
from selfreg_sdk.tuner.search.search import Mode

SPACE: Space = {"model": Choice(("small", "middle", "large")), "temperature": Float(0.0, 2.0)}
PRICE = {"small": 1e-6, "middle": 4e-6, "large": 20e-6}
CELLS = tuple({"model": m, "temperature": t} for m in PRICE for t in (0.0, 0.2, 0.5, 1.0, 1.5, 2.0))
LONGEST = 400


class World:
    """C cells, P examples: each sample is right with a chance of its cell and example; lengths vary with both."""

    def __init__(self, seed: int, space: Space = SPACE, cells: Sequence[dict[str, object]] = CELLS, examples: int = 20):
        random = np.random.default_rng(seed)
        self.grid = Grid.of(space, cells)
        shape = (len(cells), examples)
        level = np.array([{"small": 0.35, "middle": 0.5, "large": 0.7}.get(str(c.get("model")), 0.5) for c in cells])
        heat = np.array([float(str(c.get("temperature", 0.5))) for c in cells])
        mean = level - 0.08 * (heat - 0.5) ** 2 + random.normal(0, 0.02, len(cells))
        hard = random.normal(0, 0.2, examples)
        self.truth = mean
        self.chance = np.clip(mean[:, None] + hard[None, :] - hard.mean(), 0.02, 0.98)
        self.length = np.clip(random.lognormal(4.5, 0.3, examples)[None, :] * np.ones(shape), 10, LONGEST / 2)
        self.counted = np.clip(random.lognormal(5.0, 0.3, examples), 20, 600)[None, :] * np.ones(shape)
        price = np.array([PRICE.get(str(c.get("model")), 1e-6) for c in cells])
        self.rates = Rates(prompt=price, answer=2 * price, request=np.zeros(len(cells)))
        self.seed = seed

    def cost(self, n: int) -> Floats:
        """True mean USD of one request, (C,)."""
        return np.asarray(
            (self.counted * self.rates.prompt[:, None] + n * self.length * self.rates.answer[:, None]).mean(1)
        )

    def task(self, budget: float, total: float, *, top: int = 5, mode: Mode = "max") -> PoolTask:
        return PoolTask(
            grid=self.grid, counted=self.counted, rates=self.rates, top=top, budget=budget, total=total, mode=mode
        )


class FakePool:
    """Draws from a world; the metric is the mean. It refuses nothing, so that only the search guards the money."""

    def __init__(self, world: World, *, fails: Callable[[int, int], bool] = lambda cell, example: False, sign: int = 1):
        self._world, self._fails, self._sign = world, fails, sign
        shape = world.counted.shape
        self.taken: Ints = np.zeros(shape, np.int64)
        self.tokens: Floats = np.zeros(shape)
        self.billed: Floats = np.zeros(shape)
        self.spent = 0.0
        self.largest_batch = 0
        self.asked: list[Request] = []
        self._right: dict[tuple[int, int], list[float]] = {}

    def worst(self, cell: Ints, example: Ints, n: Ints) -> Floats:
        rates = self._world.rates
        return np.asarray(self._world.counted[cell, example] * rates.prompt[cell] + n * LONGEST * rates.answer[cell])

    def score(self, cell: Ints, example: Ints, n: Ints) -> Floats:
        rows = zip(cell, example, n, strict=True)
        means = np.array([np.mean(self._right[int(c), int(e)][: int(k)]) for c, e, k in rows], float)
        return means if self._sign > 0 else 1 - means

    def buy(self, requests: Sequence[Request]) -> Sequence[Fate]:
        self.asked += requests
        self.largest_batch = max(self.largest_batch, len(requests))
        return [self._buy(request) for request in requests]

    def _buy(self, request: Request) -> Fate:
        at = request.cell, request.example
        if self._fails(*at):
            return "failed"
        right = self._right.setdefault(at, [])
        random = np.random.default_rng([self._world.seed, *at, len(right)])
        right += (random.random(request.n) < self._world.chance[at]).astype(float).tolist()
        tokens = np.minimum(self._world.length[at] * random.lognormal(-0.02, 0.2, request.n), LONGEST)
        rates = self._world.rates
        self.spent += float(self._world.counted[at] * rates.prompt[at[0]] + tokens.sum() * rates.answer[at[0]])
        old = self.taken[at]
        self.tokens[at] = (self.tokens[at] * old + tokens.sum()) / (old + request.n)
        self.billed[at] = self._world.counted[at]
        self.taken[at] = old + request.n
        return "bought"
