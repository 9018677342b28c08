"""Whether one configuration is better than another: example by example, on those both were tried on.

The interval of the mean difference comes from the means of random halves of the examples, each in or out by the toss of a
coin (Hartigan, "Using subsample values as typical values", 1969). For symmetric differences it is exact for any number of
examples, and that is what the differences of two equally good configurations are, since they could change places. So
of equal configurations at most one in forty is called better. A bootstrap promises that only for many examples; for ten it
errs more often than it says. The same halves give the sign-flip test: the interval leaves 0 out just when it rejects.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from selfreg_sdk.errors import ConfigError
from selfreg_sdk.tuner.measuring.intervals import LEVEL, Interval
from selfreg_sdk.tuner.measuring.measured import Measured, valued, worst_of

Word = Literal["better", "probably better", "no better"]

_ALL_HALVES = 14
"""Most examples of which every half is looked at; of more, as many random ones."""

_DRAWS = 1 << _ALL_HALVES
_AT_ONCE = 1 << 10

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Ours beside another, on the examples both were tried on.

    Attributes:
        difference: mean of the differences; above 0 where ours is better, whatever the metric's mode.
        low, high: its interval; infinite, or the range of the metric, where the examples are too few to tell.
        examples: how many.
        p: probability of a difference at least this far from 0, on either side, if both were equally good.
        verdict: better: the interval lies above 0. probably better: the difference does, the interval does not. no better:
            the difference does not.
        cost_ratio: mean cost of ours over that of the other; None where the other is free.
        level: of the intervals. With several comparisons at once each is wider, so that they hold all together.
        together: how many were made at once.
    """

    difference: float
    low: float
    high: float
    examples: int
    p: float
    verdict: Word
    cost_ratio: Interval | None
    level: float = LEVEL
    together: int = 1


def compare(ours: Measured, other: Measured, *, level: float = LEVEL, seed: int = 0, together: int = 1) -> Comparison:
    """Ours against another.

    Args:
        ours, other: measured by the same metric; a failed example counts as the worst value of both.
        level: how often all intervals together hold their truth.
        seed: of the random halves, where there are too many to look at all; same seed, same result.
        together: comparisons that are made at once. Each gets its share of the doubt (Bonferroni).

    Raises:
        ConfigError: different metrics, or a level not in (0, 1).
    """
    if (ours.metric.name, ours.mode) != (other.metric.name, other.mode):
        raise ConfigError(
            f"one was measured by {ours.metric.name!r} ({ours.mode}), the other by {other.metric.name!r} ({other.mode}); "
            f"measure both by the same metric"
        )
    if not 0 < level < 1 or together < 1:
        raise ConfigError(f"level={level!r} must lie between 0 and 1, together={together!r} be at least 1")
    each = 1 - (1 - level) / together
    worst = worst_of((ours, other))
    mine, theirs = (valued(one, 0.0 if worst is None else worst) for one in (ours, other))
    common = [example for example in mine if example in theirs] if worst is not None else []
    if not common:
        edge = _reach(ours)
        return Comparison(
            difference=math.nan,
            low=-edge,
            high=edge,
            examples=0,
            p=1.0,
            verdict="no better",
            cost_ratio=None,
            level=each,
            together=together,
        )
    sign = 1.0 if ours.mode == "max" else -1.0
    gains = np.array([sign * (mine[example] - theirs[example]) for example in common])
    halves = _Halves(len(common), seed)
    mean = math.fsum(gains) / len(gains)
    low, high = _difference(gains, mean, halves, _reach(ours), 1 - each)
    return Comparison(
        difference=mean,
        low=low,
        high=high,
        examples=len(common),
        p=halves.p(gains),
        verdict="no better" if not mean > 0 else "better" if low > 0 else "probably better",
        cost_ratio=_cost_ratio(ours, other, common, halves, 1 - each),
        level=each,
        together=together,
    )


def _difference(gains: Array, mean: float, halves: _Halves, edge: float, doubt: float) -> tuple[float, float]:
    """The interval of the mean difference, of which none can be beyond ``edge``."""
    low, high = halves.interval(gains, np.ones(len(gains)), doubt)
    if low == high and math.isfinite(edge) and mean in (-edge, 0.0, edge):
        # None was seen that differs from the others; of those to come there may be so many.
        others = 1 - (doubt / 2) ** (1 / len(gains))
        return mean - others * (edge + mean), mean + others * (edge - mean)
    return min(max(low, -edge), mean), max(min(high, edge), mean)


def _reach(measured: Measured) -> float:
    """The largest difference there can be."""
    return math.inf if measured.span is None else measured.span[1] - measured.span[0]


def _cost_ratio(
    ours: Measured, other: Measured, common: Sequence[str], halves: _Halves, doubt: float
) -> Interval | None:
    mine, theirs = (
        np.array([costs[example] for example in common])
        for costs in ({one.example: float(one.cost) for one in side.outcomes} for side in (ours, other))
    )
    if not math.fsum(theirs) > 0:
        return None
    ratio = math.fsum(mine) / math.fsum(theirs)
    low, high = halves.interval(mine, theirs, doubt)
    return Interval(mean=ratio, low=min(max(low, 0.0), ratio), high=max(high, ratio))


class _Halves:
    """Random halves of ``count`` examples, the empty one first."""

    def __init__(self, count: int, seed: int) -> None:
        if count <= _ALL_HALVES:
            self._in = (np.arange(1 << count)[:, None] >> np.arange(count)) & 1 == 1
        else:
            bits = np.random.default_rng([seed, count]).integers(0, 256, (_DRAWS, -(-count // 8)), np.uint8)
            bits[0] = 0
            self._in = np.unpackbits(bits, axis=1, count=count).view(bool)

    def interval(self, above: Array, below: Array, doubt: float) -> tuple[float, float]:
        """The interval of sum(above) / sum(below): the means of the halves but the outermost, ``doubt`` of them."""
        tops, bottoms = self._sums(above), self._sums(below)
        with np.errstate(divide="ignore", invalid="ignore"):
            means = tops / bottoms
        vain = bottoms == 0  # of nothing anything may be the mean
        cut = int(doubt / 2 * len(means))
        lows, highs = np.where(vain, -np.inf, means), np.where(vain, np.inf, means)
        return float(np.sort(lows)[cut]), float(np.sort(highs)[-1 - cut])

    def p(self, gains: Array) -> float:
        """Of the sign-flip test, two-sided: turning the signs of one half leaves twice the sum of the other, less all."""
        sums = self._sums(gains)
        return min(1.0, 2 * min(float(np.mean(sums <= 0)), float(np.mean(sums >= 0))))

    def _sums(self, values: Array) -> Array:
        # A few halves at once: as numbers they take eight times the memory.
        parts = [self._in[start : start + _AT_ONCE] @ values for start in range(0, len(self._in), _AT_ONCE)]
        sums = np.concatenate(parts)
        sums[np.abs(sums) <= 1e-12 * np.abs(values).sum()] = 0.0  # what rounding leaves of nothing
        return np.asarray(sums)
