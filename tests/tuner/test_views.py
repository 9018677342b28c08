"""Which views a space has, and what they leave of a sample."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfreg_sdk.errors import ConfigError
from selfreg_sdk.tuner.pool.views import MOST_VIEWS, View, cut, shared_tokens, views_of
from selfreg_sdk.tuner.search.dimensions import Choice, Float, Int, Space
from selfreg_sdk.tuner.search.drawing import Sample

TEXTS = st.text(st.characters(codec="utf-8"), max_size=60)
STOPS = st.lists(st.sampled_from(["a", "\n\n", "END", "é"]), max_size=2, unique=True).map(tuple)


def caps(*views: View) -> list[int | None]:
    return [view.max_tokens for view in views]


def test_samples_are_drawn_with_the_longest_cap_and_no_stop() -> None:
    space: Space = {
        "max_tokens": Choice((100, 400, 200)),
        "stop": Choice((["END"], None)),
        "temperature": Float(0.0, 1.0),
    }
    views = views_of(space)
    assert views[0] == View(max_tokens=400)
    assert caps(*views) == [400, 200, 100] * 2
    assert [view.stop for view in views] == [()] * 3 + [("END",)] * 3
    assert all(view.offered for view in views)


def test_a_range_of_caps_is_a_lattice_with_both_ends() -> None:
    found = caps(*views_of({"max_tokens": Int(64, 1024, log=True)}))
    assert found == [1024, 588, 338, 194, 111, 64]
    assert caps(*views_of({"max_tokens": Int(5, 7)})) == [7, 6, 5]


def test_the_only_stop_is_sent_and_several_are_read_off_samples_without_one() -> None:
    assert views_of({"stop": Choice((["END"],))}) == (View(stop=("END",)),)
    several = views_of({"stop": Choice((["END"], ["\n"]))})
    assert several[0] == View(offered=False)
    assert [view.stop for view in several[1:]] == [("END",), ("\n",)]


def test_a_space_without_either_has_one_view() -> None:
    assert views_of({"temperature": Float(0.0, 1.0)}) == (View(),)


@pytest.mark.parametrize(
    "space",
    [
        {"max_tokens": Choice((0,))},
        {"max_tokens": Float(1.0, 9.0)},
        {"max_tokens": Choice(("many",))},
        {"stop": Int(1, 2)},
        {"max_tokens": Choice(tuple(range(1, MOST_VIEWS + 2)))},
    ],
)
def test_what_makes_no_views_is_refused(space: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        views_of(space)


def test_settings_are_what_is_sent() -> None:
    assert View(max_tokens=9, stop=("x",)).settings() == {"max_tokens": 9, "stop": ["x"]}
    assert View().settings() == {}


def test_a_stop_ends_the_text_before_itself_and_is_billed() -> None:
    left = cut(Sample(text="abcdENDxyz", tokens=10), View(stop=("END",)))
    assert (left.text, left.tokens, left.changed) == ("abcd", 7, True)


def test_whichever_comes_first_counts() -> None:
    sample = Sample(text="abcdENDxyz", tokens=10)
    assert cut(sample, View(max_tokens=3, stop=("END",))).text == "abc"
    assert cut(sample, View(max_tokens=9, stop=("END",))).text == "abcd"
    # The cap comes while the sequence is still being written: it is no stop yet.
    assert cut(sample, View(max_tokens=6, stop=("END",))).text == "abcdEN"
    assert cut(sample, View(stop=("xyz", "END"))).text == "abcd"


def test_an_answer_as_long_as_the_cap_is_untouched() -> None:
    sample = Sample(text="abcd", tokens=10)
    assert cut(sample, View(max_tokens=10)).changed is False
    assert cut(sample, View(max_tokens=9)).changed is True


def test_reasoning_that_is_not_shown_uses_up_the_cap_first() -> None:
    sample = Sample(text="abcdefghij", tokens=110)
    assert cut(sample, View(max_tokens=105), hidden=100).text == "abcde"
    assert cut(sample, View(max_tokens=60), hidden=100).text == ""
    stopped = cut(sample, View(stop=("c",)), hidden=100)
    assert (stopped.text, stopped.tokens) == ("ab", 103)


def test_tokens_have_to_be_known() -> None:
    with pytest.raises(ConfigError):
        cut(Sample(text="abc"), View(max_tokens=2))


@given(text=TEXTS, tokens=st.integers(0, 50), cap=st.none() | st.integers(1, 60), stop=STOPS)
def test_a_cut_is_a_beginning_and_never_dearer(text: str, tokens: int, cap: int | None, stop: tuple[str, ...]) -> None:
    left = cut(Sample(text=text, tokens=tokens), View(max_tokens=cap, stop=stop))
    assert text.startswith(left.text)
    assert 0 <= left.tokens <= tokens
    assert cap is None or left.tokens <= cap
    assert not any(mark in left.text for mark in stop)
    if not left.changed:
        assert (left.text, left.tokens) == (text, tokens)


@given(text=TEXTS, tokens=st.integers(0, 50), cap=st.integers(1, 50), stop=STOPS)
def test_a_smaller_cap_leaves_less(text: str, tokens: int, cap: int, stop: tuple[str, ...]) -> None:
    sample = Sample(text=text, tokens=tokens)
    small, large = (cut(sample, View(max_tokens=size, stop=stop)) for size in (cap, cap + 5))
    assert large.text.startswith(small.text)
    assert small.tokens <= large.tokens
    assert small.changed or not large.changed


@given(texts=st.lists(TEXTS, min_size=1, max_size=8), total=st.integers(0, 500))
def test_shares_sum_to_what_was_billed(texts: list[str], total: int) -> None:
    shares = shared_tokens(texts, total)
    assert sum(shares) == total
    assert min(shares) >= 0


def test_equal_texts_get_equal_shares_and_longer_ones_more() -> None:
    assert shared_tokens(["abc", "abc"], 10) == (5, 5)
    short, long = shared_tokens(["abc", "abc" * 10], 100)
    assert long > 5 * short
