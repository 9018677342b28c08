"""How several samples become one answer, and when that is certain."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies import Aggregation
from selfreg_sdk.aggregate import Tally, ballot_of, plain, ranking, voted
from selfreg_sdk.errors import ConfigError
from selfreg_sdk.tuner.scoring.metrics import elected

FIRST, ANY, VOTE, BEST = (Aggregation.parse(text) for text in ("first", "any of 4", "vote of 4", "best of 4"))
texts_of_samples = st.lists(st.none() | st.sampled_from(["a", "A ", "b", "c", ""]) | st.text(max_size=4), max_size=8)
ballots_of_samples = st.lists(st.sampled_from([None, "a", "b", "c", ""]), min_size=1, max_size=9)


def test_first_keeps_the_order_of_arrival() -> None:
    assert ranking(["b", "a", "b"], FIRST) == [0, 1, 2]


def test_a_vote_is_won_by_the_most_frequent_ballot() -> None:
    assert ranking(["4", "5", " 5 ", "3"], VOTE) == [1, 2, 0, 3]


def test_a_tied_vote_goes_to_the_sample_that_came_first() -> None:
    assert ranking(["x", "y", "y", "x"], VOTE) == [0, 1, 2, 3]


def test_ballots_are_what_the_vote_key_says() -> None:
    worked = ["2+2=5", "so 4", "it is 4", "2+2 = 5?"]

    assert ranking(worked, VOTE, vote_key=lambda text: text.rstrip("?")[-1])[0] == 0
    assert ranking(worked[1:], VOTE, vote_key=lambda text: text.rstrip("?")[-1])[0] == 0
    assert ranking(["one", *worked[1:3]], VOTE, vote_key=lambda text: text.rstrip("?")[-1])[0] == 1


def test_who_abstains_never_wins_against_a_ballot() -> None:
    def digits(text: str) -> str | None:
        return text if text.isdecimal() else None

    assert ranking(["no idea", "no idea", None, "7"], VOTE, vote_key=digits) == [3, 0, 1, 2]
    assert ranking(["  ", "\n", "x"], VOTE) == [2, 0, 1]  # without text there is nothing to vote with
    assert ranking([None, "no idea"], VOTE, vote_key=digits) == [0, 1]  # nobody votes


@pytest.mark.parametrize("aggregation", [BEST, ANY])
def test_the_scorer_decides_and_sees_every_text_once(aggregation: Aggregation) -> None:
    seen: list[str] = []

    def length(text: str) -> float:
        seen.append(text)
        return len(text)

    assert ranking(["aa", "aaaa", "aa", None], aggregation, scorer=length) == [1, 0, 2, 3]
    assert seen == ["aa", "aaaa"]


def test_any_without_a_scorer_is_the_first() -> None:
    assert ranking(["b", "a"], ANY) == [0, 1]


def test_best_needs_a_scorer() -> None:
    with pytest.raises(ConfigError, match="scorer"):
        ranking(["a"], BEST)


@pytest.mark.parametrize("aggregation", [FIRST, ANY, VOTE])
def test_a_sample_without_text_comes_last(aggregation: Aggregation) -> None:
    assert ranking([None, None, "a"], aggregation) == [2, 0, 1]


@settings(max_examples=50)
@given(texts_of_samples, st.sampled_from([FIRST, ANY, VOTE, BEST]))
def test_no_sample_is_lost_and_none_is_invented(texts: list[str | None], aggregation: Aggregation) -> None:
    assert sorted(ranking(texts, aggregation, scorer=len)) == list(range(len(texts)))


@settings(max_examples=200)
@given(texts_of_samples.filter(bool))
def test_who_is_elected_is_who_the_metric_of_the_tuner_elects(texts: list[str | None]) -> None:
    ballots = [ballot_of(text) for text in texts]

    assert ranking(texts, VOTE)[0] == elected(ballots) == voted(ballots)[0]


@settings(max_examples=50)
@given(texts_of_samples)
def test_the_elected_ballot_has_the_most_votes(texts: list[str | None]) -> None:
    ballots = [plain(text) for text in texts if text is not None and text.strip()]

    if ballots:
        chosen = texts[ranking(texts, VOTE)[0]]
        assert chosen is not None
        assert ballots.count(plain(chosen)) == max(map(ballots.count, ballots))


# -- when a vote is over -----------------------------------------------------------------------------------------------


def tally_of(ballots: list[Any]) -> Tally:
    tally = Tally()
    tally.add(ballots)
    return tally


def sure(ballots: list[Any], left: int) -> bool:
    """By trying everything that the others may say: what was said, two new ballots, and nothing."""
    said = [*dict.fromkeys(ballots), "new", "newer", None]
    return len({elected([*ballots, *rest]) for rest in product(said, repeat=left)}) == 1


@settings(max_examples=150)
@given(ballots_of_samples, st.integers(0, 4))
def test_a_vote_is_over_when_nothing_can_change_it_and_not_before(ballots: list[Any], left: int) -> None:
    if all(ballot is None for ballot in ballots) and left:
        assert not tally_of(ballots).decided(left)
    else:
        assert tally_of(ballots).decided(left) == sure(ballots, left)


@settings(max_examples=100)
@given(ballots_of_samples, st.integers(1, 4))
def test_so_many_more_can_decide_it_and_no_fewer(ballots: list[Any], left: int) -> None:
    tally = tally_of(ballots)
    said = [*tally.counts, "new"]

    needed = tally.needed(left)
    decisive = [
        more for more in range(left + 1) for one in said if tally_of([*ballots, *[one] * more]).decided(left - more)
    ]
    assert needed == min(decisive)


@pytest.mark.parametrize(("n", "first"), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (7, 4), (10, 5)])
def test_the_first_samples_that_can_decide(n: int, first: int) -> None:
    assert Tally().needed(n) == first
