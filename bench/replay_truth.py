"""What every configuration is worth on the recorded answers, exactly: expectations over all orders of the draws.

Also the two references: the best configuration when everything is known, and the free choice of a tuner that pays nothing.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cache
from math import comb

import numpy as np

from bench.replay_data import NO_ANSWER, PICO, Floats, Ints, Recorded, Split
from bench.replay_scores import Metric

SLACK = 1.05
"""A configuration whose mean cost is above this share of the per-request budget has broken it."""


@dataclass(frozen=True, kw_only=True)
class Pick:
    """A configuration as indices: the cell, n, and the cap on completion tokens."""

    cell: int
    n: int
    max_tokens: int


class Truth:
    """(C, P, K) arrays of one data set, made when they are first asked for: n = 1..K samples of each cell on each problem."""

    def __init__(self, recorded: Recorded) -> None:
        self.recorded = recorded
        self._values: dict[tuple[Metric, int], Floats] = {}
        self._costs: dict[int, Floats] = {}

    def value(self, metric: Metric, max_tokens: int) -> Floats:
        """Expected values under a cap on completion tokens."""
        if (metric, max_tokens) not in self._values:
            self._values[metric, max_tokens] = _values(self.recorded, metric, max_tokens)
        return self._values[metric, max_tokens]

    def cost(self, max_tokens: int) -> Floats:
        """Expected USD of one request under a cap on completion tokens."""
        if max_tokens not in self._costs:
            each = np.minimum(self.recorded.tokens, max_tokens).mean(axis=-1, keepdims=True)
            self._costs[max_tokens] = self._priced(each * np.arange(1, self.recorded.samples + 1))
        return self._costs[max_tokens]

    def keeps(self, pick: Pick, budget: float) -> bool:
        """Whether the mean cost over all problems stays within the budget, give or take what is allowed."""
        return bool(self.cost(pick.max_tokens)[pick.cell, :, pick.n - 1].mean() <= SLACK * budget)

    def score(self, pick: Pick | None, budget: float, metric: Metric, problems: Ints) -> float:
        """The mean value on ``problems``, 0 for nothing and for what breaks the budget."""
        if pick is None or not self.keeps(pick, budget):
            return 0.0
        return float(self.value(metric, pick.max_tokens)[pick.cell, problems, pick.n - 1].mean())

    def best_on_all(self, budget: float, metric: Metric) -> Pick:
        """The feasible configuration with the highest expected value over all problems; ties go to the cheapest."""
        longest = self.recorded.longest
        return self._argmax(self.value(metric, longest).mean(axis=1), self.cost(longest).mean(axis=1), budget)

    def free_choice(self, budget: float, metric: Metric, of: Split) -> Pick:
        """The argmax of the whole grid on the tuning problems, by the samples that a tuner would draw there."""
        drawn = _drawn(self.recorded, of, metric)
        tokens = np.cumsum(np.take_along_axis(self.recorded.tokens, of.order, axis=-1), axis=-1)
        return self._argmax(drawn.mean(axis=1), self._priced(tokens)[:, of.tuning].mean(axis=1), budget)

    def _argmax(self, value: Floats, cost: Floats, budget: float) -> Pick:
        """Of (C, K)."""
        feasible = np.where(cost <= budget, value, -1.0)
        at = int(np.lexsort((cost.ravel(), -feasible.ravel()))[0])
        cell, n = divmod(at, value.shape[1])
        return Pick(cell=cell, n=n + 1, max_tokens=self.recorded.longest)

    def _priced(self, completion: Floats | Ints) -> Floats:
        """USD of one request with (C, P, K) completion tokens."""
        price = self.recorded.price / PICO
        prompt = self.recorded.prompt * price[:, :1]
        return np.asarray(prompt[:, :, None] + completion * price[:, 1, None, None], float)


def _values(data: Recorded, metric: Metric, max_tokens: int) -> Floats:
    said = np.where(data.need <= max_tokens, data.answer, NO_ANSWER)
    made = np.empty(said.shape)
    for c, p in np.ndindex(said.shape[:2]):
        votes = Counter(said[c, p].tolist())
        blank, right = votes.pop(NO_ANSWER, 0), votes.pop(int(data.key[p]), 0)
        if metric == "vote":
            made[c, p] = _wins(right, tuple(sorted(votes.values())), blank)
        else:
            made[c, p] = _successes(right, data.samples)
    return made


@cache
def _successes(right: int, slots: int) -> tuple[float, ...]:
    """Mean of 1 - (1 - s / n) ** n over draws of n = 1..slots of which ``right`` are right."""
    return tuple(
        sum(comb(right, s) * comb(slots - right, n - s) * (1 - (1 - s / n) ** n) for s in range(min(right, n) + 1))
        / comb(slots, n)
        for n in range(1, slots + 1)
    )


@cache
def _wins(right: int, others: tuple[int, ...], blank: int) -> tuple[float, ...]:
    """Chance that the right answer wins the vote of n draws, n = 1..all.

    Given how often each answer is drawn, every order is as likely: of t + 1 tied answers each is the earliest equally often.
    """
    slots = right + sum(others) + blank
    ways = np.zeros(slots + 1)
    for own in range(1, right + 1):
        drawn = {(0, 0): 1}  # (draws of other answers, how many of these tie): in how many ways
        for count in others:
            grown: dict[tuple[int, int], int] = {}
            for (size, tied), old in drawn.items():
                for j in range(min(count, own) + 1):
                    at = (size + j, tied + (j == own))
                    grown[at] = grown.get(at, 0) + old * comb(count, j)
            drawn = grown
        for (size, tied), many in drawn.items():
            for silent in range(blank + 1):
                ways[own + size + silent] += comb(right, own) * many * comb(blank, silent) / (tied + 1)
    return tuple(float(ways[n] / comb(slots, n)) for n in range(1, slots + 1))


def _drawn(recorded: Recorded, of: Split, metric: Metric) -> Floats:
    """(C, tuning, K): the value of the first n samples in the order of the draws."""
    said = np.take_along_axis(recorded.answer, of.order, axis=-1)[:, of.tuning]
    key = recorded.key[of.tuning]
    n = np.arange(1, recorded.samples + 1)
    if metric == "expected_success":
        return np.asarray(1 - (1 - np.cumsum(said == key[None, :, None], axis=-1) / n) ** n)
    made = np.zeros(said.shape)
    for c, p in np.ndindex(said.shape[:2]):
        votes: Counter[int] = Counter()
        for k, code in enumerate(said[c, p].tolist()):
            if code != NO_ANSWER:
                votes[code] += 1  # a Counter keeps the order of arrival, and most_common keeps it in ties
            made[c, p, k] = bool(votes) and votes.most_common(1)[0][0] == key[p]
    return made
