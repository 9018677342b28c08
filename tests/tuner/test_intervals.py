"""Intervals of means: against tables, and how often they hold the truth."""

from __future__ import annotations

import math
import random
from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfreg_sdk.errors import ConfigError
from selfreg_sdk.tuner.measuring.intervals import Interval, mean_interval, student_quantile

TABLE = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 10: 2.228, 29: 2.045, 100: 1.984, 1000: 1.962, 10**6: 1.960}


@pytest.mark.parametrize("freedom", TABLE)
def test_student_is_as_in_the_tables(freedom: int) -> None:
    assert student_quantile(0.95, freedom) == pytest.approx(TABLE[freedom], abs=1e-3)


def test_student_at_another_level() -> None:
    assert student_quantile(0.99, 5) == pytest.approx(4.032, abs=1e-3)
    assert student_quantile(0.5, 3) == pytest.approx(0.765, abs=1e-3)


def test_right_or_wrong_is_wilson() -> None:
    """The figures of Wilson's interval for 8 of 10 and 0 of 10."""
    found = mean_interval([1.0] * 8 + [0.0] * 2, low=0, high=1)
    assert (found.mean, found.low, found.high) == pytest.approx((0.8, 0.4902, 0.9433), abs=1e-4)
    none = mean_interval([0.0] * 10, low=0, high=1)
    assert (none.low, none.high) == pytest.approx((0.0, 0.2775), abs=1e-4)


@pytest.mark.parametrize("chance", [0.05, 0.2, 0.5, 0.7, 0.9])
def test_right_or_wrong_holds_the_truth_19_times_in_20(chance: float) -> None:
    """Exactly, by summing over all outcomes; Wilson's interval may be a little below at single points, never much."""
    for count in (6, 10, 30, 100):
        held = 0.0
        for right in range(count + 1):
            found = mean_interval([1.0] * right + [0.0] * (count - right), low=0, high=1)
            if found.low <= chance <= found.high:
                held += math.comb(count, right) * chance**right * (1 - chance) ** (count - right)
        assert held > 0.88, count


def coverage(draw: object, truth: float, count: int, **bounds: float) -> float:
    """Share of 1000 samples whose interval holds the truth."""
    source = random.Random(5)
    found = [mean_interval([draw(source) for _ in range(count)], **bounds) for _ in range(1000)]  # type: ignore[operator]
    return sum(one.low <= truth <= one.high for one in found) / len(found)


def test_shares_hold_the_truth() -> None:
    """Values between the ends, among them very skewed ones, of few examples."""
    assert coverage(lambda source: source.betavariate(4, 1), 0.8, 8, low=0, high=1) > 0.93
    assert coverage(lambda source: 1 - source.random() ** 8, 8 / 9, 10, low=0, high=1) > 0.9
    assert coverage(lambda source: source.gauss(3, 2), 3, 5) > 0.93


def test_without_the_two_values_at_the_ends_shares_would_not_hold_it() -> None:
    """What `mean_interval` is spared: of answers that are right but for a rare slip, most samples have no spread."""

    def slips(source: random.Random) -> float:
        return 0.99 if source.random() < 0.9 else 0.2

    truth = 0.9 * 0.99 + 0.1 * 0.2
    assert coverage(slips, truth, 8, low=0, high=1) > 0.9
    assert coverage(slips, truth, 8) < 0.8


def test_equal_shares_leave_doubt_and_more_of_them_less() -> None:
    widths = []
    for count in (1, 5, 20, 80):
        found = mean_interval([0.5] * count, low=0, high=1)
        assert found.low < 0.5 < found.high
        widths.append(found.high - found.low)
    assert widths == sorted(widths, reverse=True)


def test_of_one_number_without_a_range_nothing_is_known() -> None:
    assert mean_interval([3.0]) == Interval(mean=3.0, low=-math.inf, high=math.inf)
    assert mean_interval([3.0], low=0.0) == Interval(mean=3.0, low=0.0, high=math.inf)


def test_of_no_number_nothing_is_known() -> None:
    found = mean_interval([], low=0, high=1)
    assert math.isnan(found.mean)
    assert (found.low, found.high) == (0, 1)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.sampled_from([0.5, 0.8, 0.95, 0.99]))
def test_the_mean_lies_inside_and_the_interval_within_the_range(values: list[float], level: float) -> None:
    found = mean_interval(values, low=0, high=1, level=level)
    assert 0 <= found.low <= found.mean <= found.high <= 1
    wider = mean_interval(values, low=0, high=1, level=0.999)
    assert wider.low <= found.low
    assert wider.high >= found.high


def test_a_large_sample_is_the_normal_one() -> None:
    source = random.Random(1)
    values = [source.random() for _ in range(5000)]
    found = mean_interval(values, low=0, high=1)
    half = NormalDist().inv_cdf(0.975) * math.sqrt(1 / 12 / 5000)
    assert found.high - found.mean == pytest.approx(half, rel=0.05)


@pytest.mark.parametrize(
    ("values", "bounds"),
    [
        ([2.0], {"low": 0, "high": 1}),
        ([math.nan], {}),
        ([0.5], {"low": 1, "high": 1}),
        ([0.5], {"level": 1.0}),
        ([0.5], {"level": 0.0}),
    ],
)
def test_what_makes_no_interval_is_refused(values: list[float], bounds: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        mean_interval(values, **bounds)
