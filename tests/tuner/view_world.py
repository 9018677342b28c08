"""The small world of `pool_world`, with samples that views cut: what a cut costs or gains is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from selfreg_sdk.tuner.pool.grid import Floats, Ints
from selfreg_sdk.tuner.pool.task import Fate, Request, Winner
from selfreg_sdk.tuner.pool.views import View
from tests.tuner.pool_world import LONGEST, World


@dataclass(frozen=True, kw_only=True)
class Knife:
    """What a view does.

    Attributes:
        often: chance that it changes a sample.
        lost: chance that a right answer which it changes becomes wrong; ``won`` that a wrong one becomes right.
        left: share of the tokens of a changed sample that is left.
    """

    often: float
    lost: float
    won: float
    left: float


class ViewPool:
    """All samples of a world, drawn beforehand; right if any of the first n is. Also its own `Seen`."""

    def __init__(self, world: World, knives: Sequence[Knife], *, top: int, seed: int = 0) -> None:
        self._world, self._knives = world, knives
        self.views = tuple(View(max_tokens=LONGEST - number) for number in range(len(knives) + 1))
        shape = (*world.counted.shape, top)
        random = np.random.default_rng([world.seed, seed, 7])
        right = random.random(shape) < world.chance[:, :, None]
        tokens = np.minimum(world.length[:, :, None] * random.lognormal(-0.02, 0.2, shape), LONGEST)
        self._right, self._tokens, self._changed = [right], [tokens], [np.zeros(shape, bool)]
        for knife in knives:
            changed, fate = random.random(shape) < knife.often, random.random(shape)
            turned = np.where(right, fate < knife.lost, fate < knife.won)
            self._changed.append(changed)
            self._right.append(np.where(changed & turned, ~right, right))
            self._tokens.append(np.where(changed, knife.left * tokens, tokens))
        self.taken: Ints = np.zeros(shape[:2], np.int64)
        self.tokens: Floats = np.zeros(shape[:2])
        self.billed: Floats = world.counted.astype(float)
        self.spent = 0.0

    def worst(self, cell: Ints, example: Ints, n: Ints) -> Floats:
        rates = self._world.rates
        return np.asarray(self._world.counted[cell, example] * rates.prompt[cell] + n * LONGEST * rates.answer[cell])

    def buy(self, requests: Sequence[Request]) -> Sequence[Fate]:
        rates = self._world.rates
        for request in requests:
            at, old = (request.cell, request.example), int(self.taken[request.cell, request.example])
            new = self._tokens[0][at][old : old + request.n]
            self.spent += float(self.billed[at] * rates.prompt[at[0]] + new.sum() * rates.answer[at[0]])
            self.taken[at] = old + request.n
            self.tokens[at] = self._tokens[0][at][: old + request.n].mean()
        return ["bought"] * len(requests)

    def score(self, cell: Ints, example: Ints, n: Ints) -> Floats:
        return self.view_score(0, cell, example, n)

    def view_score(self, view: int, cell: Ints, example: Ints, n: Ints) -> Floats:
        good = self._right[view][cell, example] & (np.arange(self._right[view].shape[2]) < np.asarray(n)[:, None])
        return np.asarray(good.any(axis=1), float)

    def view_tokens(self, view: int) -> Floats:
        return self._mean(self._tokens[view])

    def view_changed(self, view: int) -> Floats:
        return self._mean(self._changed[view].astype(float))

    def _mean(self, values: Floats) -> Floats:
        had = np.arange(values.shape[2]) < self.taken[:, :, None]
        return np.asarray((values * had).sum(axis=2) / np.maximum(self.taken, 1))

    def truth(self, won: Winner | None, budget: float) -> float:
        """The expected score of a choice over draws; 0 of none, or where its true cost breaks the budget by over 5 %."""
        if won is None:
            return 0.0
        world, chance = self._world, self._world.chance[won.cell]
        length = world.length[won.cell] * np.exp(0.5 * 0.2**2 - 0.02)
        if won.view:
            knife = self._knives[won.view - 1]
            chance = chance + knife.often * (knife.won * (1 - chance) - knife.lost * chance)
            length = length * (1 - knife.often * (1 - knife.left))
        rates = world.rates
        cost = (world.counted[won.cell] * rates.prompt[won.cell] + won.n * length * rates.answer[won.cell]).mean()
        return 0.0 if cost > 1.05 * budget else float((1 - (1 - chance) ** won.n).mean())
