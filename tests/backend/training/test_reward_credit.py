"""Credits lead uphill: their policy gradient is that of the mean score of a set, found by going through all outcomes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from math import prod

import pytest

from local_backend.training.reinforce.credit import credits

RIGHT = 0.3
LETTERS = "ab"

Score = Callable[[Sequence[str]], float]


def once(samples: Sequence[str]) -> float:
    return float("a" in samples)


def majority(samples: Sequence[str]) -> float:
    return float(2 * samples.count("a") > len(samples))


def variety(samples: Sequence[str]) -> float:
    return len(set(samples)) / 2


def chance(outcome: Sequence[str], p: float) -> float:
    return prod(p if letter == "a" else 1 - p for letter in outcome)


def slope(score: Score, n: int) -> float:
    """Of the mean score of n samples, by the chance of an "a"."""

    def mean(p: float) -> float:
        return sum(chance(outcome, p) * score(outcome) for outcome in product(LETTERS, repeat=n))

    return (mean(RIGHT + 1e-5) - mean(RIGHT - 1e-5)) / 2e-5


def estimated(credit: Callable[[Sequence[str]], Sequence[float]], many: int) -> float:
    """The mean over all outcomes of sum_i credit_i * d log p(sample_i) / dp."""
    total = 0.0
    for outcome in product(LETTERS, repeat=many):
        grads = [1 / RIGHT if letter == "a" else -1 / (1 - RIGHT) for letter in outcome]
        total += chance(outcome, RIGHT) * sum(c * g for c, g in zip(credit(outcome), grads, strict=True))
    return total


@pytest.mark.parametrize("score", [once, majority, variety])
@pytest.mark.parametrize(("n", "many"), [(1, 4), (2, 5), (3, 6), (4, 4)])
def test_credits_are_unbiased(score: Score, n: int, many: int) -> None:
    # Each of the K samples carries 1 / n of the slope of a set.
    found = estimated(lambda samples: credits(score, samples, n)[1], many)
    assert found == pytest.approx(slope(score, n) * many / n, abs=1e-6)


def test_a_baseline_that_sees_the_sample_is_biased() -> None:
    def greedy_baseline(samples: Sequence[str]) -> list[float]:
        return [once([sample]) - max(once([other]) for other in samples) for sample in samples]

    assert estimated(greedy_baseline, 4) != pytest.approx(slope(once, 1) * 4, abs=1e-2)


def test_a_random_choice_of_sets_is_unbiased_too() -> None:
    # There are 210 sets of 4 of 10: more than are scored.
    found = estimated(lambda samples: credits(once, samples, 4, seed=3)[1], 10)
    assert found == pytest.approx(slope(once, 4) * 10 / 4, abs=1e-6)


def test_one_sample_alone_is_judged_by_the_others() -> None:
    mean, credit = credits(lambda samples: float(samples[0]), ["1", "0", "0.5"], 1)
    assert mean == pytest.approx(0.5)
    assert credit == pytest.approx([0.75, -0.75, 0.0])


def test_the_only_right_one_of_eight_has_all_the_credit() -> None:
    mean, credit = credits(once, list("bbbabbbb"), 8)
    assert mean == 1
    assert credit == [0, 0, 0, 1, 0, 0, 0, 0]


@pytest.mark.parametrize(("many", "n"), [(1, 1), (3, 4)])
def test_too_few_samples_are_refused(many: int, n: int) -> None:
    with pytest.raises(ValueError, match="draw at least"):
        credits(once, ["a"] * many, n)
