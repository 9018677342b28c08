"""What is proven hopeless: too dear, or worse than another, whatever the model of the surface believes.

The search's own decisions rest on that model. These rest on nothing but known ranges (`selfreg_sdk.tuner.pool.bounds`), hold
at every moment of a search, and so close a configuration for good. They need many examples: what they close, the model has
mostly left already.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from selfreg_sdk.tuner.pool.bounds import betting, empirical_bernstein
from selfreg_sdk.tuner.pool.grid import Bools, Floats, Ints
from selfreg_sdk.tuner.pool.task import Pool, PoolTask

_FEWEST = 3
"""Examples below which no bound can say anything."""
_STRONGEST = 0.5
"""The largest bet of `empirical_bernstein`: after m numbers half a band is log(1/alpha) / (m * bet) wide at least."""


@dataclass(frozen=True, kw_only=True)
class Tally:
    """Configurations (cell, n) closed by proof.

    Attributes:
        dear: their mean cost breaks the promise.
        worse: their score is below that of another one which keeps it.
    """

    dear: int = 0
    worse: int = 0


class Proofs:
    """Collects proofs for one search.

    With probability 1 - ``risk`` nothing is ever wrongly closed: a half is for costs and a half for scores, shared equally
    by all cells and n. A cell's examples count in the order in which they were first answered.

    Args:
        limit: USD that the mean cost may not exceed.
    """

    def __init__(self, task: PoolTask, pool: Pool, *, limit: float, risk: float) -> None:
        self._task, self._pool, self._limit = task, pool, limit
        cells = len(task.grid.cells)
        self._alpha = risk / 2 / (cells * task.top)
        # Two bands that lie apart leave no room for narrower ones; with fewer examples there is nothing to compute.
        least = math.log(2 / self._alpha) / _STRONGEST
        examples = task.counted.shape[1]
        self._for_scores = least / (1 - least / examples) if examples > least else math.inf
        self._for_costs = math.log(1 / self._alpha) / _STRONGEST
        self._order: list[list[int]] = [[] for _ in range(cells)]
        self._known: dict[tuple[int, int], tuple[int, float, float]] = {}
        self.dear = np.full(cells, task.top + 1, np.int64)
        """(C,) the smallest n of each cell that is proven too dear, and so are all above it."""
        self.worse = np.zeros((cells, task.top + 1), bool)
        """(C, top + 1) whether (cell, n) is proven worse than another configuration that fits."""

    def arrived(self, cell: int, example: int) -> None:
        """An example was answered for the first time."""
        self._order[cell].append(example)

    @property
    def tally(self) -> Tally:
        """What was closed so far."""
        return Tally(dear=int((self._task.top + 1 - self.dear).sum()), worse=int(self.worse.sum()))

    def ready(self, cells: Ints, n: Ints, *, scores: bool) -> Bools:
        """(A,) which candidates were read on so many examples that something could be proven of them; else as `look`."""
        heard = np.array([len(order) for order in self._order])[cells]
        found = heard > self._for_costs
        if scores and math.isfinite(self._for_scores):
            found |= (self._pool.taken[cells] >= n[:, None]).sum(axis=1) > self._for_scores
        return np.asarray(found)

    def look(self, cells: Ints, n: Ints, tokens: Floats, fits: Bools, *, scores: bool) -> None:
        """Close what can be closed among candidates.

        Args:
            cells, n: (A,) the candidates.
            tokens: (C, P) answer tokens of each example, the fewest that any view leaves.
            fits: (A,) which of them keep the promise: the best is sought among these.
            scores: whether scores are compared too; not where a view could raise them.
        """
        low, high = np.full(len(cells), -np.inf), np.full(len(cells), np.inf)
        counts = (self._pool.taken[cells] >= n[:, None]).sum(axis=1)
        for at, (cell, samples, heard) in enumerate(zip(cells.tolist(), n.tolist(), counts.tolist(), strict=True)):
            if heard < _FEWEST:
                continue
            before = self._known.get((cell, samples))
            if before is None or before[0] != heard:
                if samples < self.dear[cell] and self._too_dear(cell, samples, tokens):
                    self.dear[cell] = samples
                enough = scores and heard > self._for_scores
                bounds = self._score(cell, samples) if enough else (-np.inf, np.inf)
                before = self._known[cell, samples] = heard, *bounds
            _, low[at], high[at] = before
        if scores and fits.any():
            shut = high < low[fits].max()
            self.worse[cells[shut], n[shut]] = True

    def certain(self, cell: int, n: int, tokens: Floats, score: Floats) -> tuple[float, float]:
        """What is certain of a configuration with the same confidence: its mean cost at most, its mean score at least.

        Args:
            tokens: (P,) answer tokens of each example.
            score: (P,) on its first n samples, in the metric's unit; NaN where it cannot be told.

        Returns:
            (USD, score in units), infinite where nothing is certain.
        """
        examples, dearest = np.array(self._order[cell], np.int64), float("inf")
        if len(examples) >= _FEWEST:
            cost, worst = self._costs(cell, n, examples, tokens)
            if cost.max() <= worst:
                # What is free has no range.
                dearest = float(betting(cost, alpha=self._alpha, high=worst, side="upper").high[-1]) if worst else 0.0
        units = self._task.units(score[examples])
        units = units[np.isfinite(units)]
        if len(units) < _FEWEST or units.min() < 0 or units.max() > 1:
            return dearest, float("-inf")
        return dearest, float(betting(units, alpha=self._alpha, side="lower").low[-1])

    def _costs(self, cell: int, n: int, examples: Ints, tokens: Floats) -> tuple[Floats, float]:
        """Of a request on each example, in USD, and the most that any could cost."""
        rates = self._task.rates
        cost = rates.request[cell] + self._pool.billed[cell, examples] * rates.prompt[cell]
        worst = self._pool.worst(np.array([cell]), np.arange(len(tokens)), np.array([n])).max()
        return np.asarray(cost + n * tokens[examples] * rates.answer[cell]), float(worst)

    def _too_dear(self, cell: int, n: int, tokens: Floats) -> bool:
        cost, worst = self._costs(cell, n, np.array(self._order[cell]), tokens[cell])
        # An endpoint that bills more than it may has no known range.
        if cost.max() - worst * self._for_costs / len(cost) <= self._limit or cost.max() > worst:
            return False
        return bool(empirical_bernstein(cost, alpha=self._alpha, high=worst, side="lower").low[-1] > self._limit)

    def _score(self, cell: int, n: int) -> tuple[float, float]:
        examples = np.array([e for e in self._order[cell] if self._pool.taken[cell, e] >= n], np.int64)
        size = len(examples)
        score = self._pool.score(np.full(size, cell), examples, np.full(size, n))
        units = self._task.units(np.asarray(score, float))
        units = units[np.isfinite(units)]
        if len(units) < _FEWEST or units.min() < 0 or units.max() > 1:
            return -np.inf, np.inf
        band = empirical_bernstein(units, alpha=self._alpha)
        return float(band.low[-1]), float(band.high[-1])
