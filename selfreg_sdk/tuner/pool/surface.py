"""The score as a smooth surface over cells and n: what neighbouring configurations tell about one another.

The argmax of noisy means is cursed: of many configurations the luckiest wins, not the best. Here the means of all
configurations are estimated together by a Gaussian process whose prior says which of them are alike (the equations of
Rasmussen and Williams 2006, chapter 2; the kernel and the noise model are our own, derived below), so that a mean
without support from its neighbours shrinks towards them. Scores are in units of a range [0, 1].

The model of a reading, the metric on the first n samples of cell c (of arm a) on example i:

    y = f(c, log n) + b_i + u_(a,i) + e,   var u = shared², var e = single²
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from selfreg_sdk.tuner.pool.grid import Floats, Grid, Ints

ROUNDS = 6
"""Alternations between examples' effects and groups' means: enough where sets of examples overlap well."""
PULL = 1.0
"""Readings at zero that shrink each example's effect: half of what one reading says is believed. Never swept."""
GUESS_WEIGHT = 30.0
"""Readings that the guessed noise is worth: a guess .6 as large changed scores by +.003."""
ALONE_WEIGHT = 5.0
"""Examples that the guessed spread over examples is worth where one arm is fitted alone: few, as there are few."""


@dataclass(frozen=True, kw_only=True)
class Likeness:
    """Prior standard deviations of a surface's parts, in units of the score's range, and the reach of neighbours.

    Round numbers set by hand. All halved costs .03 of the score at 3 USD, all doubled .01, which is within noise; where
    every reading is known a factor from 1/2 to 4 moves it by .005 only. ``reach`` was never swept.

    Attributes:
        level: of the overall mean: half the range, so nothing is believed of it.
        choice: of each unordered value, shared by all cells that have it.
        arm: of each combination of unordered values.
        trend: of the change per e-fold of price.
        ordered: of the curve along the ordered dimensions that all arms share.
        curve: of an arm's own departure from it; .04 lost what arms bend, .01 lost .01 of the score.
        cell: of a single cell: what no neighbour tells.
        repeat: of the change per e-fold of n that all arms share.
        own_repeat: of an arm's own departure from it, bending along the ordered dimensions.
        reach: distance, as a share of an ordered dimension's scale, at which neighbours still inform.
    """

    level: float = 0.5
    choice: float = 0.12
    arm: float = 0.08
    trend: float = 0.05
    ordered: float = 0.05
    curve: float = 0.08
    cell: float = 0.03
    repeat: float = 0.06
    own_repeat: float = 0.04
    reach: float = 0.35

    def over(self, grid: Grid, price: Floats) -> tuple[Floats, Floats]:
        """Prior covariance between all cells of the surface at n = 1, and of its change per e-fold of n, (C, C) each.

        At n = 1: level² + Σ choice² [same value] + trend² p p' + ordered² near + [same arm] (arm² + curve² near)
        + cell² [same cell]. Its change: repeat² + own_repeat² [same arm] near.
        near = exp(-d² / 2 reach²), d the distance of two cells' places.

        Args:
            price: (C,) logarithm of each cell's price, centred.
        """
        same = grid.same_arm.astype(float)
        still = np.full(same.shape, self.level**2)
        for code in grid.codes.T:
            still += self.choice**2 * (code[:, None] == code[None, :])
        still += self.trend**2 * np.outer(price, price)
        gap = np.zeros(same.shape)
        for place in grid.places.T:
            gap += (place[:, None] - place[None, :]) ** 2
        near = np.exp(-0.5 * gap / self.reach**2)
        still += self.ordered**2 * near + same * (self.arm**2 + self.curve**2 * near)
        still += self.cell**2 * np.eye(len(same))
        return still, self.repeat**2 + self.own_repeat**2 * same * near


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Standard deviations around the surface: ``shared`` of an arm on an example, ``single`` of one reading."""

    shared: float
    single: float


@dataclass(frozen=True, kw_only=True)
class Readings:
    """Scores seen, parallel arrays (R,): cell, n >= 1, example, score; one row for each (cell, example)."""

    cell: Ints
    n: Ints
    example: Ints
    score: Floats


@dataclass(frozen=True, kw_only=True)
class Belief:
    """What is believed before any reading.

    Attributes:
        still, slope: (C, C) as `Likeness.over`.
        centre: (C,) mean of the surface.
        kin: (C, C), 0 to 1, how far two cells share an example's surprises; None where all cells read are of one arm.
        noise: a guess, worth `GUESS_WEIGHT` readings.
        drift: standard deviation by which new examples may treat an arm unlike the examples seen, however many.
        wander: the same of a single cell.
    """

    still: Floats
    slope: Floats
    centre: Floats
    kin: Floats | None
    noise: Noise
    drift: float = 0.0
    wander: float = 0.0

    def between(self, left: Ints, right: Ints, log_left: Floats, log_right: Floats) -> Floats:
        """Prior covariance of the surface at cells and log n, (A, B)."""
        at = np.ix_(left, right)
        return np.asarray(self.still[at] + np.outer(log_left, log_right) * self.slope[at])


@dataclass(frozen=True, kw_only=True)
class Surface:
    """Posterior of the mean score at A asked (cell, n): mean (A,), covariance (A, A), and the noise around it."""

    mean: Floats
    cover: Floats
    noise: Noise

    @property
    def error(self) -> Floats:
        """(A,) standard deviation of the posterior."""
        return np.sqrt(np.maximum(np.diag(self.cover), 0.0))


def kinship(grid: Grid) -> Floats:
    """(C, C): cells of one arm share all of an example's surprises, others half the share of codes in common."""
    same = grid.same_arm.astype(float)
    parts = [(code[:, None] == code[None, :]).astype(float) for code in grid.codes.T]
    return np.asarray((np.sum(parts, axis=0) / len(parts) + same) / 2) if parts else same


def fit(grid: Grid, belief: Belief, seen: Readings, examples: int, cells: Ints, n: Ints) -> Surface:
    """Posterior of the surface at ``cells`` asked ``n`` times each, (A,) and (A,).

    Examples' effects b_i leave by `effects_of_examples`. What remains is averaged per group (cell, n) of m readings,
    and the means r are conditioned on: mean = centre + K* (K + V)^-1 (r - centre), likewise the covariance, with

        V = kin (shared² overlap + drift²) + diag(single² / m + wander²),
        overlap of two groups = examples read by both / (m m').

    In a fit of one arm alone its surprises are the examples' effects, and are gone from V.

    Args:
        examples: how many there are, read or not.
    """
    asked = np.log(n)
    prior = belief.between(cells, cells, asked, asked)
    if not len(seen.score):
        return Surface(mean=belief.centre[cells], cover=prior, noise=belief.noise)
    base = int(seen.n.max()) + 1
    kinds, group = np.unique(seen.cell * base + seen.n, return_inverse=True)
    group = np.asarray(group, np.int64).ravel()
    effect = effects_of_examples(seen, group, examples)
    rest = seen.score - effect[seen.example]
    size = np.bincount(group).astype(float)
    mean = np.bincount(group, rest) / size
    noise = components(grid.arm[seen.cell] * examples + seen.example, rest - mean[group], belief.noise)
    where, times = kinds // base, np.log(kinds % base)
    spread = np.diag(noise.single**2 / size + belief.wander**2)
    if belief.kin is None:
        read = np.bincount(seen.example, minlength=examples) > 0
        level = (effect[read] ** 2).sum() + ALONE_WEIGHT * belief.noise.shared**2
        noise = Noise(shared=float(np.sqrt(level / (read.sum() + ALONE_WEIGHT))), single=noise.single)
    else:
        member = np.zeros((len(kinds), examples))
        member[group, seen.example] = 1.0 / size[group]
        spread += belief.kin[np.ix_(where, where)] * (noise.shared**2 * (member @ member.T) + belief.drift**2)
    cross = belief.between(cells, where, asked, times)
    gain = np.linalg.solve(belief.between(where, where, times, times) + spread, cross.T).T
    return Surface(
        mean=belief.centre[cells] + gain @ (mean - belief.centre[where]), cover=prior - gain @ cross.T, noise=noise
    )


def effects_of_examples(seen: Readings, group: Ints, examples: int) -> Floats:
    """How much easier than others each example is, (examples,), by alternating least squares with the groups' means.

    It makes means over unequal sets of examples comparable. An example never read has effect 0.

    Args:
        group: (R,) of each reading, from 0.
    """
    effect = np.zeros(examples)
    groups = int(group.max()) + 1
    size = np.maximum(np.bincount(group, minlength=groups), 1)
    count = np.bincount(seen.example, minlength=examples) + PULL
    for _ in range(ROUNDS):
        mean = np.bincount(group, seen.score - effect[seen.example], groups) / size
        effect = np.bincount(seen.example, seen.score - mean[group], examples) / count
    return effect


def components(owner: Ints, rest: Floats, guess: Noise) -> Noise:
    """Noise by the method of moments, each part pulled by `GUESS_WEIGHT` readings of the guess.

    single² is the residuals' variance within an owner; shared² the mean square of owners' mean residuals beyond what
    single² alone explains, over owners of more than one reading.

    Args:
        owner: (R,) a number for each pair of arm and example.
        rest: (R,) readings less their example's effect and their group's mean.
    """
    _, where = np.unique(owner, return_inverse=True)
    where = np.asarray(where, np.int64).ravel()
    size = np.bincount(where).astype(float)
    mean = np.bincount(where, rest) / size
    inner = (rest - mean[where]) ** 2
    single = (inner.sum() + GUESS_WEIGHT * guess.single**2) / (len(rest) - len(size) + GUESS_WEIGHT)
    many = size > 1
    excess = max(float((mean[many] ** 2 - single / size[many]).sum()), 0.0)
    shared = (excess + GUESS_WEIGHT * guess.shared**2) / (many.sum() + GUESS_WEIGHT)
    return Noise(shared=float(np.sqrt(shared)), single=float(np.sqrt(single)))
