"""What n samples are worth, and what a pool of N says of every n: closed forms against full enumeration."""

from __future__ import annotations

import math
import random
from itertools import permutations
from typing import Any, get_args

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from policies import Aggregation
from selfreg_sdk.aggregate import ranking
from selfreg_sdk.errors import ConfigError
from selfreg_sdk.tuner.scoring.metrics import Metric, MetricName, elected, metric

NAMES = get_args(MetricName)
VOTE = Aggregation.parse("vote of 9")
samples = st.lists(
    st.tuples(st.sampled_from([0.0, 0.25, 0.5, 1.0, -2.0]), st.sampled_from(["a", "b", "c", "d", None])),
    min_size=1,
    max_size=6,
)
right_or_wrong = st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=40)
every = pytest.mark.parametrize("name", NAMES)


def split(drawn: list[tuple[float, str | None]]) -> tuple[list[float], list[str | None]]:
    return [score for score, _ in drawn], [ballot for _, ballot in drawn]


def enumerated(one: Metric, scores: list[float], ballots: list[Any], n: int) -> float:
    """The definition: the mean over all arrangements of n of the samples."""
    values = [
        one.of([scores[i] for i in order], [ballots[i] for i in order]) for order in permutations(range(len(scores)), n)
    ]
    return math.fsum(values) / len(values)


def test_the_values_of_one_example() -> None:
    scores, ballots = [0.0, 1.0, 0.75, 0.0], ["x", "y", "y", "x"]
    expected = {
        "first": 0.0,
        "mean": 0.4375,
        "success": 1.0,
        "expected_success": 1 - 0.5**4,
        "vote": 0.0,
        "best": 1.0,
    }
    assert {name: metric(name).of(scores, ballots) for name in NAMES} == expected
    assert metric("vote").of([0.0, 1.0, 0.75], ["x", "y", "y"]) == 1.0
    assert metric("best", mode="min").of([3.0, 1.5, 2.0]) == 1.5


def test_a_threshold_says_what_success_is() -> None:
    assert metric("success", threshold=0.8).of([0.7, 0.79]) == 0.0
    assert metric("success", threshold=0.7).of([0.7, 0.1]) == 1.0
    assert metric("expected_success", threshold=0.7).of([0.7, 0.1]) == 0.75


@settings(max_examples=200)
@given(right_or_wrong)
def test_expected_success_lies_between_mean_and_success(scores: list[float]) -> None:
    mean, success, expected = (metric(name).of(scores) for name in ("mean", "success", "expected_success"))
    assert mean - 1e-12 <= expected <= success
    n, s = len(scores), sum(scores)
    assert expected == pytest.approx(1 - ((n - s) / n) ** n, abs=1e-12)
    for means, wins, smooth in zip(
        *(metric(m).expected(scores).values() for m in ("mean", "success", "expected_success")), strict=True
    ):
        assert means - 1e-12 <= smooth <= wins + 1e-12


@settings(max_examples=200)
@given(st.lists(st.none() | st.sampled_from(["4", "5", "6 ", " 6", "7"]), min_size=1, max_size=9))
def test_a_vote_elects_the_sample_that_runs_elect(texts: list[str | None]) -> None:
    ballots = [None if text is None else text.strip() for text in texts]
    assert elected(ballots) == ranking(texts, VOTE, vote_key=str.strip)[0]


@settings(max_examples=60)
@given(samples, st.sampled_from(NAMES), st.sampled_from(["max", "min"]))
@example([(1.0, "a"), (0.0, "b"), (0.0, "b"), (1.0, "a"), (0.5, None), (0.0, "c")], "vote", "max")
def test_the_closed_forms_are_the_mean_over_all_arrangements(drawn: Any, name: str, mode: Any) -> None:
    scores, ballots = split(drawn)
    one = metric(name, mode="max" if "success" in name else mode)
    found = one.expected(scores, ballots)
    assert list(found) == list(range(1, len(scores) + 1))
    for n, value in found.items():
        assert value == pytest.approx(enumerated(one, scores, ballots, n), abs=1e-9)


@settings(max_examples=100)
@given(samples, st.sampled_from(NAMES), st.randoms(use_true_random=False))
def test_the_order_of_the_pool_does_not_count(drawn: Any, name: str, source: random.Random) -> None:
    shuffled = list(drawn)
    source.shuffle(shuffled)
    assert metric(name).expected(*split(shuffled)) == pytest.approx(metric(name).expected(*split(drawn)), abs=1e-9)


@settings(max_examples=100)
@given(samples, st.randoms(use_true_random=False))
def test_only_what_looks_at_the_order_depends_on_it(drawn: Any, source: random.Random) -> None:
    shuffled = list(drawn)
    source.shuffle(shuffled)
    for name in ("mean", "success", "expected_success", "best"):
        assert metric(name).of(*split(shuffled)) == pytest.approx(metric(name).of(*split(drawn)), abs=1e-12)


@settings(max_examples=100)
@given(st.lists(st.booleans(), min_size=1, max_size=60), st.data())
def test_success_is_pass_at_k(right: list[bool], data: Any) -> None:
    n = data.draw(st.integers(1, len(right)))
    wrong = len(right) - sum(right)
    value = metric("success").expected([float(one) for one in right], sizes=[n])[n]
    assert value == pytest.approx(1 - math.comb(wrong, n) / math.comb(len(right), n), abs=1e-12)


@every
def test_one_sample_is_worth_its_score_and_all_are_worth_what_they_are(name: str) -> None:
    scores, ballots = [1.0, 0.0, 0.0, 1.0, 1.0], ["a", "b", "c", "a", "d"]
    found = metric(name).expected(scores, ballots)
    assert found[1] == pytest.approx(0.6)
    if name not in ("first", "vote"):
        assert found[5] == pytest.approx(metric(name).of(scores, ballots))
    assert metric("vote").expected(scores, ballots)[5] == 1.0


def test_pools_of_a_hundred_are_exact_and_beyond_them_the_estimate_is_seeded() -> None:
    source = random.Random(5)
    ballots = [str(source.randrange(4)) for _ in range(60)]
    scores = [float(ballot == "1") for ballot in ballots]
    vote = metric("vote")
    exact = vote.expected(scores, ballots, sizes=[7])[7]
    drawn = Metric(name="drawn", reduce=vote.reduce, needs_ballots=True)
    assert drawn.expected(scores, ballots, sizes=[7], draws=20_000)[7] == pytest.approx(exact, abs=0.02)
    many = [str(index // 2) for index in range(600)]
    once, again = (vote.expected([1.0] * 300 + [0.0] * 300, many, sizes=[600]) for _ in range(2))
    assert once == again
    assert 0 <= once[600] <= 1


def test_a_metric_of_a_user_is_enumerated_where_that_is_cheap_and_drawn_by_seed_elsewhere() -> None:
    spread = Metric(name="spread", mode="min", reduce=lambda scores, _: max(scores) - min(scores))
    scores = [0.0, 1.0, 4.0, 9.0]
    found = spread.expected(scores)
    assert found == pytest.approx({n: enumerated(spread, scores, [None] * 4, n) for n in range(1, 5)})
    pool = [float(index) for index in range(30)]
    first, second, other = (spread.expected(pool, sizes=[8], draws=50, seed=seed)[8] for seed in (1, 1, 2))
    assert first == second != other


def test_what_a_configuration_runs_with_follows_from_the_metric() -> None:
    kinds = {name: metric(name).aggregation for name in NAMES}
    assert kinds == {
        "first": "first",
        "mean": "first",
        "success": "any",
        "expected_success": "any",
        "vote": "vote",
        "best": "best",
    }
    assert {name for name in NAMES if metric(name).rate} == {"success", "expected_success"}
    assert {name for name in NAMES if metric(name).needs_ballots} == {"vote"}


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: metric("accuracy"), "'accuracy'.*expected_success"),
        (lambda: metric("success", mode="min"), "always maximised"),
        (lambda: metric("best", mode="up"), "mode='up'"),  # type: ignore[arg-type]
        (lambda: metric("success", threshold=math.nan), "threshold=nan"),
        (lambda: metric("mean").of([]), "no samples"),
        (lambda: metric("vote").of([1.0]), "one ballot per score"),
        (lambda: metric("vote").of([1.0], ["a", "b"]), "1 scores, but 2 ballots"),
        (lambda: metric("mean").expected([1.0, 0.0], sizes=[3]), r"sizes=\(3,\).*1 to 2"),
        (lambda: metric("mean").expected([1.0], sizes=[0]), r"sizes=\(0,\)"),
    ],
)
def test_what_makes_no_sense_is_refused(make: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make()
