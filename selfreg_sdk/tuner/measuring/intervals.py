"""How sure the mean over some examples is of the mean over all that are like them.

The examples count as drawn independently from those to come. How often each interval holds the truth is held by tests.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

from selfreg_sdk.errors import ConfigError

LEVEL = 0.95
"""Of every interval that does not say otherwise."""

_AS_NORMAL = 1000
"""Degrees of freedom from which on Student's distribution is the normal one, to a part in a thousand."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean and its interval.

    Attributes:
        mean: of the values; NaN without any.
        low, high: infinite on a side of which nothing is known.
    """

    mean: float
    low: float
    high: float


def mean_interval(
    values: Sequence[float], *, low: float = -math.inf, high: float = math.inf, level: float = LEVEL
) -> Interval:
    """The mean of independent values and its interval.

    Values that all lie at the two ends of a finite range (right or wrong) get Wilson's score interval (1927), which for few
    values beats all simple others (Brown, Cai and DasGupta 2001). Other values of a finite range get Student's, as if one
    value more had been seen at each end: without these two, some equal values would leave no doubt at all. Without a
    finite range it is Student's alone, and nothing can be told from one value.

    Args:
        values: finite, within the range.
        low, high: no value can lie beyond.
        level: how often the interval holds the mean.

    Raises:
        ConfigError: a level not in (0, 1), a value beyond the range, or no range at all.
    """
    if not 0 < level < 1:
        raise ConfigError(f"level={level!r} must lie between 0 and 1, like {LEVEL}")
    if not low < high:
        raise ConfigError(f"low={low!r}, high={high!r}: give the range that values lie in, the lower end first")
    for value in values:
        if not low <= value <= high:  # NaN too
            raise ConfigError(f"value {value!r} lies outside [{low!r}, {high!r}]")
    if not values:
        return Interval(mean=math.nan, low=low, high=high)
    mean, closed = math.fsum(values) / len(values), math.isfinite(low) and math.isfinite(high)
    if closed and all(value in (low, high) for value in values):
        share = (mean - low) / (high - low)
        first, last = (low + (high - low) * end for end in _wilson(share, len(values), level))
    else:
        first, last = _student([*values, low, high] if closed else values, level)
    return Interval(mean=mean, low=min(max(first, low), mean), high=max(min(last, high), mean))


def student_quantile(level: float, freedom: int) -> float:
    """So many standard errors a mean lies from the truth at most, with probability ``level``.

    Args:
        freedom: degrees of it, at least 1.
    """
    if freedom > _AS_NORMAL:
        return NormalDist().inv_cdf((1 + level) / 2)
    return _quantile(level, freedom)


@lru_cache(maxsize=256)
def _quantile(level: float, freedom: int) -> float:
    low, high = 0.0, math.pi / 2  # of the angle whose tangent is the quantile over the root of the freedom
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < level else (low, middle)
    return math.tan(high) * math.sqrt(freedom)


def _within(angle: float, freedom: int) -> float:
    """Student's probability of the values up to this angle on both sides, by its finite series.

    Abramowitz and Stegun, Handbook of Mathematical Functions (1964), 26.7.3 and 26.7.4.
    """
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term, total = (cosine if odd else 1.0), 0.0
    for step in range(2 + odd, freedom + 1, 2):
        total += term
        term *= cosine**2 * (step - 1) / step
    return (angle + sine * total) * 2 / math.pi if odd else sine * total


def _wilson(share: float, count: int, level: float) -> tuple[float, float]:
    square = NormalDist().inv_cdf((1 + level) / 2) ** 2
    centre = (share + square / (2 * count)) / (1 + square / count)
    half = math.sqrt(square * (share * (1 - share) / count + square / (4 * count**2))) / (1 + square / count)
    return centre - half, centre + half


def _student(values: Sequence[float], level: float) -> tuple[float, float]:
    count = len(values)
    if count < 2:
        return -math.inf, math.inf
    mean = math.fsum(values) / count
    error = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1) / count)
    half = student_quantile(level, count - 1) * error
    return mean - half, mean + half
