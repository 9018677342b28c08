"""Whether one configuration is better than another: exact where theory says so, and careful where little is known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfreg_sdk.errors import ConfigError
from selfreg_sdk.tuner.measuring.compare import Comparison, compare
from selfreg_sdk.tuner.measuring.measured import Measured
from tests.tuner.measuring import measured


def each(ours: Sequence[Measured], other: Measured) -> tuple[Comparison, ...]:
    """Each of several against one, with intervals that all hold together."""
    return tuple(compare(one, other, together=len(ours)) for one in ours)


def of(*differences: float) -> Comparison:
    """Compares values that differ by these, of a metric without a known range."""
    return compare(measured(differences, span=None), measured([0.0] * len(differences), span=None))


def sign_flips(differences: list[float]) -> float:
    """The sign-flip test as the books have it: how often a sum of other signs is as far from 0."""
    seen = abs(math.fsum(differences))
    sums = [
        abs(math.fsum(s * d for s, d in zip(signs, differences, strict=True)))
        for signs in product((1, -1), repeat=len(differences))
    ]
    return sum(one >= seen - 1e-12 for one in sums) / len(sums)


ROUNDS = 100
SIXTHS = st.integers(-6, 6).map(lambda value: value / 6)


@settings(max_examples=40)
@given(st.lists(SIXTHS, min_size=1, max_size=9))
def test_p_is_that_of_the_sign_flip_test(differences: list[float]) -> None:
    assert of(*differences).p == pytest.approx(sign_flips(differences))


@settings(max_examples=40)
@given(st.lists(SIXTHS, min_size=1, max_size=16))
def test_the_interval_leaves_out_0_just_where_the_test_rejects(differences: list[float]) -> None:
    found = of(*differences)
    assert found.low <= found.difference <= found.high
    assert (found.low > 0 or found.high < 0) == (found.p <= 0.05)
    assert (found.verdict == "better") == (found.difference > 0 and found.p <= 0.05)


@settings(max_examples=40)
@given(st.lists(SIXTHS, min_size=1, max_size=16))
def test_the_other_way_round_it_is_the_opposite(differences: list[float]) -> None:
    one, other = of(*differences), of(*(-value for value in differences))
    assert (one.difference, one.low, one.high) == pytest.approx((-other.difference, -other.high, -other.low))
    assert one.p == other.p


def test_fewer_than_six_examples_never_make_it_sure() -> None:
    for count in range(1, 6):
        found = of(*[1.0] * count)
        assert (found.low, found.high, found.verdict) == (-math.inf, math.inf, "probably better")
    assert of(*[1.0] * 6).verdict == "better"


def test_a_known_range_bounds_what_is_unknown() -> None:
    found = compare(measured([1.0, 1.0]), measured([0.0, 0.0]))
    assert (found.low, found.high) == (-1.0, 1.0)


def test_equal_ones_are_not_better_and_nor_are_worse_ones() -> None:
    equal = compare(measured([0.5] * 20), measured([0.5] * 20))
    assert (equal.difference, equal.p, equal.verdict) == (0, 1, "no better")
    assert of(*[-1.0] * 10).verdict == "no better"


@pytest.mark.parametrize("count", [6, 12, 40])
def test_differences_that_are_all_alike_leave_doubt(count: int) -> None:
    """As much as Clopper and Pearson leave that one to come is the very opposite, or differs at all."""
    share = 1 - 0.025 ** (1 / count)
    right = compare(measured([1.0] * count), measured([0.0] * count))
    assert (right.low, right.high) == pytest.approx((1 - 2 * share, 1.0))
    assert right.low > 0
    assert right.verdict == "better"
    wrong = compare(measured([0.0] * count), measured([1.0] * count))
    assert (wrong.low, wrong.high) == pytest.approx((-1.0, 2 * share - 1))
    equal = compare(measured([1.0] * count), measured([1.0] * count))
    assert (equal.low, equal.high) == pytest.approx((-share, share))
    assert equal.verdict == "no better"
    assert (of(*[0.0] * count).low, of(*[0.0] * count).high) == (0.0, 0.0)  # of no known range


def test_differences_are_paired() -> None:
    """A small gain on every example is sure, though examples differ by far more."""
    hard = [index / 10 for index in range(10)]
    found = compare(measured([value + 0.02 + 0.001 * (i % 3) for i, value in enumerate(hard)]), measured(hard))
    assert found.verdict == "better"
    assert found.low > 0.01
    shuffled = compare(measured([value + 0.02 for value in reversed(hard)]), measured(hard))
    assert shuffled.verdict == "probably better"


def test_only_common_examples_count() -> None:
    found = compare(measured({"a": 1.0, "b": 1.0, "c": 0.0}), measured({"b": 0.0, "c": 0.0, "d": 1.0}))
    assert (found.examples, found.difference) == (2, 0.5)
    none = compare(measured({"a": 1.0}), measured({"b": 0.0}))
    assert (none.examples, none.verdict, none.cost_ratio, none.p) == (0, "no better", None, 1.0)
    assert (math.isnan(none.difference), none.low, none.high) == (True, -1.0, 1.0)


def test_less_is_better_where_the_metric_says_so() -> None:
    losses = measured([1.0] * 10, mode="min", span=None)
    assert compare(losses, measured([3.0] * 10, mode="min", span=None)).difference == 2.0
    assert compare(measured([3.0] * 10, mode="min", span=None), losses).verdict == "no better"


def test_a_failed_example_counts_as_the_worst() -> None:
    assert compare(measured([None, 1.0]), measured([1.0, 1.0])).difference == -0.5
    losses = compare(measured([None, 0.0], mode="min"), measured([0.0, 0.0], mode="min"))
    assert losses.difference == -0.5


def test_where_the_worst_is_not_known_it_is_the_worst_of_both() -> None:
    found = compare(measured([None, 5.0], span=None), measured([5.0, -3.0], span=None))
    assert found.difference == ((-3 - 5) + (5 + 3)) / 2
    nothing = compare(measured([None], span=None), measured([None], span=None))
    assert (nothing.examples, nothing.verdict) == (0, "no better")


def test_the_cost_ratio_is_that_of_the_means_and_paired() -> None:
    ours, other = measured([1.0] * 10, cost=["0.001"] * 10), measured([1.0] * 10, cost=["0.004"] * 10)
    ratio = compare(ours, other).cost_ratio
    assert ratio is not None
    assert (ratio.mean, ratio.low, ratio.high) == pytest.approx((0.25, 0.25, 0.25))
    lengths = [str(Decimal(index + 1) / 1000) for index in range(10)]
    twice = [str(Decimal(length) * 2) for length in lengths]
    same = compare(measured([1.0] * 10, cost=lengths), measured([1.0] * 10, cost=twice)).cost_ratio
    assert same is not None
    assert (same.mean, same.low, same.high) == pytest.approx((0.5, 0.5, 0.5))
    varied = compare(measured([1.0] * 10, cost=list(reversed(lengths))), measured([1.0] * 10, cost=lengths)).cost_ratio
    assert varied is not None
    assert varied.low < varied.mean == 1 < varied.high
    assert compare(ours, measured([1.0] * 10, cost="0")).cost_ratio is None


def test_many_examples_are_seeded() -> None:
    source = np.random.default_rng(0)
    ours, other = (measured(source.random(40).tolist()) for _ in range(2))
    assert compare(ours, other, seed=3) == compare(ours, other, seed=3)
    assert compare(ours, other, seed=3) != compare(ours, other, seed=4)
    gains = np.array(list(ours.values.values())) - np.array(list(other.values.values()))
    mean, error = gains.mean(), gains.std(ddof=1) / math.sqrt(40)
    found = compare(ours, other)
    assert (found.low, found.high) == pytest.approx((mean - 2.02 * error, mean + 2.02 * error), abs=0.15 * error)


def test_of_equally_good_ones_few_are_called_better_and_the_truth_is_held() -> None:
    source = np.random.default_rng(1)
    for count in (8, 15, 40):
        words, held = [], 0
        for _ in range(ROUNDS):
            ours, other = (measured((source.random(count) < 0.6).astype(float).tolist()) for _ in range(2))
            found = compare(ours, other)
            words.append(found.verdict)
            held += found.low <= 0 <= found.high
        assert words.count("better") <= 0.05 * ROUNDS, count
        assert words.count("no better") >= 0.4 * ROUNDS
        assert held >= 0.93 * ROUNDS


def test_of_several_at_once_each_must_be_surer() -> None:
    source = np.random.default_rng(2)
    ours = [measured((0.05 + source.random(12)).clip(0, 1).tolist()) for _ in range(5)]
    base = measured(source.random(12).tolist())
    together = each(ours, base)
    assert [one.together for one in together] == [5] * 5
    assert together[0].level == pytest.approx(0.99)
    for one, alone in zip(together, (compare(each, base) for each in ours), strict=True):
        assert one.low < alone.low
        assert one.high > alone.high
        assert one.difference == alone.difference


def test_without_the_share_of_the_doubt_one_of_ten_equal_ones_would_too_often_be_better() -> None:
    source = np.random.default_rng(3)
    wrong = {True: 0, False: 0}
    for _ in range(60):
        ours = [measured(source.normal(size=10).tolist(), span=None) for _ in range(10)]
        base = measured([0.0] * 10, span=None)
        wrong[True] += any(one.verdict == "better" for one in each(ours, base))
        wrong[False] += any(compare(one, base).verdict == "better" for one in ours)
    assert wrong[True] <= 0.1 * 60
    assert wrong[False] > 0.1 * 60


def test_what_cannot_be_compared_is_refused() -> None:
    one = measured([1.0])
    with pytest.raises(ConfigError, match="same metric"):
        compare(one, measured([1.0], mode="min"))
    with pytest.raises(ConfigError, match="level=1"):
        compare(one, one, level=1.0)
