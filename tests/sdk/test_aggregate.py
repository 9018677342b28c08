"""How several samples become one answer."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies import Aggregation
from selfreg_sdk.aggregate import plain, ranking
from selfreg_sdk.errors import ConfigError

FIRST, ANY, VOTE, BEST = (Aggregation.parse(text) for text in ("first", "any of 4", "vote of 4", "best of 4"))
texts_of_samples = st.lists(st.none() | st.sampled_from(["a", "A ", "b", "c", ""]) | st.text(max_size=4), max_size=8)


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


@settings(max_examples=50)
@given(texts_of_samples)
def test_the_elected_ballot_has_the_most_votes(texts: list[str | None]) -> None:
    ballots = [plain(text) for text in texts if text is not None]
    order = ranking(texts, VOTE)

    if ballots:
        chosen = texts[order[0]]
        assert chosen is not None
        assert ballots.count(plain(chosen)) == max(map(ballots.count, ballots))
