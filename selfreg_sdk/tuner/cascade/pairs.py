"""Which cascade of two configurations, if any, is better than the best single one: read off the pool, at no further cost.

A cascade answers with a first configuration, and where a filter does not let that answer pass, with a second one. On an example
its expected score and cost are

    score = E[score of the first, where it passes] + P(it fails) * score of the second
    cost  = cost of the first + P(it fails) * cost of the second

as samples of two configurations are independent of one another. F first stages (a configuration at n samples, and a level of
the filter) and S second ones make F * S cascades, far more than examples, so the best of their means is mostly luck. Three
things stand against that. Gains over the best single configuration are paired, example by example, and shrunk towards
none. A mean cost must fit the budget with the caution of `choose`. And the whole choice is made again on parts of the
examples and scored on the rest: a cascade is offered only if the cascades so chosen gain where they were not chosen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from selfreg_sdk.tuner.cascade.config import Expected
from selfreg_sdk.tuner.cascade.stages import First, Second
from selfreg_sdk.tuner.pool.choose import Caution
from selfreg_sdk.tuner.pool.grid import Bools, Floats
from selfreg_sdk.tuner.pool.task import PoolTask, Winner

_PARTS = 0.02
"""Share of answers that a filter must let pass, and must not, at least: else there is one stage and no cascade."""

_ROWS = 256
"""First stages compared with all second ones at once: bounds the memory."""


@dataclass(frozen=True, kw_only=True)
class Doubt:
    """What a gain must show before it is believed. Scores are in units of the metric's range.

    Attributes:
        band: how far below the best of no higher cost a stage's expected score may lie (see `cascade_stages.stages`).
        common: examples on which both stages and the single configuration must have been read, at least.
        gains: prior standard deviation of gains, around none.
        spread: guessed standard deviation of gains over examples; ``weight`` examples that the guess is worth.
        cost_spread: the same of costs, as a share of their mean.
        folds, repeats: of the check on examples that nothing was chosen by.
        sure: standard errors above 0 that the gain must reach there.
    """

    band: float = 0.05
    common: int = 10
    gains: float = 0.08
    spread: float = 0.3
    weight: float = 5.0
    cost_spread: float = 0.6
    folds: int = 5
    repeats: int = 4
    sure: float = 0.5


@dataclass(frozen=True, kw_only=True, eq=False)
class Cascade:
    """A cascade worth trying on examples that the search did not see: its stages, and what is expected of it."""

    first: First
    second: Second
    expected: Expected


def composed(first: First, second: Second) -> tuple[Floats, Floats]:
    """Expected score, in units of the metric's range, and cost in USD on each example, (P,) each; NaN where not known."""
    fails = 1 - first.passes
    return first.kept + fails * second.score, first.cost + fails * second.cost


def best_cascade(
    task: PoolTask,
    firsts: Sequence[First],
    seconds: Sequence[Second],
    winner: Winner,
    *,
    budget: float | None = None,
    caution: Caution | None = None,
    doubt: Doubt | None = None,
    seed: int = 0,
) -> Cascade | None:
    """The cascade to use instead of the best single configuration; None where none has shown that it is better.

    Args:
        task: what was tuned.
        firsts, seconds: of `cascade_stages.stages`.
        winner: the best single configuration within the budget.
        budget: USD that a request may cost on average; None is the task's.
        seed: of the parts of the check.
    """
    doubt = doubt or Doubt()
    found = next((one for one in seconds if (one.cell, one.n) == (winner.cell, winner.n)), None)
    if found is None:
        return None
    # Through another view it may be better than as it was drawn: then that is what has to be beaten. Else both come of
    # one fit, as the smallest difference between fits would look like a gain on every example.
    through = float(task.units(np.array(winner.score))) if winner.view else -math.inf
    single = replace(found, expected=max(found.expected, through))
    parting = [one for one in firsts if _PARTS < float(np.nanmean(one.passes)) < 1 - _PARTS]
    if not parting:
        return None
    pairs = _Pairs(parting, seconds, single, budget or task.budget, caution or Caution(), doubt)
    chosen = pairs.choose(np.ones(task.counted.shape[1], bool))
    if chosen is None:
        return None
    gain, error = pairs.checked(seed)
    if not gain > doubt.sure * error:
        return None
    first, second = parting[chosen[0]], seconds[chosen[1]]
    _, cost = composed(first, second)
    seen = np.isfinite(cost)
    mean, spread, keep = pairs.bill(cost[seen])
    span = task.high - task.low
    expected = Expected(
        score=winner.score + gain * span * (1 if task.mode == "max" else -1),
        gain=gain * span,
        gain_error=error * span,
        passes=float(first.passes[seen].mean()),
        cost=mean,
        cost_error=spread,
        keep=keep,
        examples=int(seen.sum()),
    )
    return Cascade(first=first, second=second, expected=expected)


class _Pairs:
    """All cascades of some stages beside one single configuration."""

    def __init__(
        self,
        firsts: Sequence[First],
        seconds: Sequence[Second],
        single: Second,
        budget: float,
        caution: Caution,
        doubt: Doubt,
    ) -> None:
        self._firsts, self._seconds, self._single = firsts, seconds, single
        self._budget, self._caution, self._doubt = budget, caution, doubt
        # Costs in budgets, so that nothing is lost where a request costs a millionth of a cent.
        self._costs = np.array([one.cost for one in firsts]) / budget
        # Levels are believed as the surface has them; which answers pass, as it was seen.
        self._gains = np.array([one.kept + one.passes * _luck(one) for one in firsts]) - single.score - _luck(single)
        self._fails = 1 - np.array([one.passes for one in firsts])
        self._score = np.array([one.score + _luck(one) for one in seconds])
        self._dear = np.array([one.cost for one in seconds]) / budget
        self._prompts = np.array([one.prompt for one in firsts]), np.array([one.prompt for one in seconds])
        self._known = np.isfinite(self._gains) & np.isfinite(self._costs), np.isfinite(self._score)

    def choose(self, examples: Bools) -> tuple[int, int] | None:
        """The cascade of the largest gain, after shrinking, among those that fit the budget; judged by some examples."""
        best: tuple[float, tuple[int, int]] = (0.0, (-1, -1))
        for start in range(0, len(self._firsts), _ROWS):
            value = self._values(slice(start, start + _ROWS), examples)
            at = np.unravel_index(int(value.argmax()), value.shape)
            if value[at] > best[0]:
                best = float(value[at]), (start + int(at[0]), int(at[1]))
        return best[1] if best[0] > 0 else None

    def checked(self, seed: int) -> tuple[float, float]:
        """Mean gain of what is chosen without an example, on that example, and its standard error."""
        doubt, source = self._doubt, np.random.default_rng(seed)
        whole = np.isfinite(self._single.score)
        total, times = np.zeros(len(whole)), np.zeros(len(whole))
        for _ in range(doubt.repeats):
            part = source.permutation(len(whole)) % doubt.folds
            for fold in range(doubt.folds):
                held = whole & (part == fold)
                chosen = self.choose(whole & ~held)
                if chosen is None:  # then the single configuration is used
                    times[held] += 1
                    continue
                # As it was seen: what the surface believes was learned from the held examples, too.
                gain = composed(self._firsts[chosen[0]], self._seconds[chosen[1]])[0] - self._single.score
                told = held & np.isfinite(gain)
                total[told] += gain[told]
                times[told] += 1
        told = times > 0
        gains = total[told] / times[told]
        if not len(gains):
            return 0.0, math.inf
        mean = float(gains.mean())
        return mean, math.sqrt(
            self._variance(float(np.sum((gains - mean) ** 2)), len(gains), doubt.spread) / len(gains)
        )

    def bill(self, cost: Floats) -> tuple[float, float, float]:
        """Mean of some costs in USD, its standard error, and the probability that new ones keep the budget."""
        mean, count = float(cost.mean()), len(cost)
        guess = self._doubt.cost_spread * mean
        error = math.sqrt(self._variance(float(np.sum((cost - mean) ** 2)), count, guess) / count)
        limit = (1 + self._caution.slack) * self._budget
        keep = 0.5 * (1 + math.erf((limit - mean) / max(error, 1e-12 * self._budget) / math.sqrt(2)))
        return mean, error, keep

    def _variance(self, squares: Floats | float, count: Floats | int, guess: Floats | float) -> Floats:
        weight = self._doubt.weight
        return np.asarray((np.maximum(squares, 0.0) + weight * np.square(guess)) / (count - 1 + weight))

    def _values(self, rows: slice, examples: Bools) -> Floats:
        """Shrunk gains of some first stages with all second ones, (rows, S); -inf for what is no choice."""
        doubt, caution = self._doubt, self._caution
        left, right = self._known[0][rows] & examples, self._known[1]
        gains, costs, fails = (np.where(left, one[rows], 0.0) for one in (self._gains, self._costs, self._fails))
        score, dear = (np.where(right, one, 0.0) for one in (self._score, self._dear))
        count = left.astype(float) @ right.T
        size = np.maximum(count, 1.0)

        def moments(own: Floats, other: Floats) -> tuple[Floats, Floats]:
            """Mean, and sum of squares around it, of own + fails * other over the examples that both stages know."""
            mean = (own @ right.T + fails @ other.T) / size
            squares = own**2 @ right.T + 2 * (own * fails) @ other.T + fails**2 @ (other**2).T
            return mean, squares - size * mean**2

        gain, squares = moments(gains, score)
        error = self._variance(squares, size, doubt.spread) / size
        cost, squares = moments(costs, dear)
        doubtful = np.sqrt(self._variance(squares, size, doubt.cost_spread * cost) / size)
        # P(kept) >= least, solved for the mean: one quantile instead of a probability for every pair.
        fits = (cost <= 1.0) & (cost + _quantile(caution.least) * doubtful <= 1 + caution.slack)
        same = self._prompts[0][rows][:, None] == self._prompts[1][None, :]
        value = gain * doubt.gains**2 / (doubt.gains**2 + error)
        return np.where(fits & same & (count >= doubt.common), value, -np.inf)


def _luck(stage: First | Second) -> float:
    """What is to be added to the scores seen, so that their mean is the one expected on new examples."""
    return stage.expected - float(np.nanmean(stage.score))


def _quantile(probability: float) -> float:
    """Of the normal distribution."""
    return NormalDist().inv_cdf(probability)
