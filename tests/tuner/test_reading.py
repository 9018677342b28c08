"""What is read out of answers, wherever it stands in them and however it is written."""

from __future__ import annotations

import time
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfreg_sdk.tuner.scoring.reading import code_in, json_in, last_number, shown, without_markdown

HANG = 10.0

NUMBERS = {
    "so it is 42.": "42",
    "#### 1,234": "1234",
    "12,345,678 of them": "12345678",
    "1\u202f000": "1000",
    "1, 2, 3": "3",
    "is...42": "42",
    "first 7, then -3": "-3",
    "x=\u22125": "-5",
    "5-3": "3",
    "between 10-20": "20",
    "$-5.50": "-5.5",
    "-$5.50 in all": "-5.5",
    "$1,200.50 per month": "1200.5",
    "3.0e5": "300000",
    r"3 \times 10^{-4}": "0.0003",
    "2 x 10^3": "2000",
    "3/4": "0.75",
    "1/3": "1/3",
    "1 1/2 cups": "1.5",
    "45%": "45",
    r"45\%": "45",
    "50 percent": "50",
    r"\boxed{\frac{3}{4}} or 9": "0.75",
    r"\boxed{1\frac12}": "1.5",
    r"-\dfrac{12}{5}": "-2.4",
    r"\boxed{1{,}000}": "1000",
    r"\boxed{\text{x} = \boxed{7}} 3": "7",
    r"\boxed{\text{none}}, 5 tries": None,
    "H2O and v1x": None,
    "divided: 3/0": None,
    "": None,
    ".5": "0.5",
    "-.25": "-0.25",
    "9" * 5000: None,
    "1e999": "1" + "0" * 999,
}


@pytest.mark.parametrize("text", NUMBERS, ids=lambda text: text[:20])
def test_the_number_an_answer_ends_on(text: str) -> None:
    found = last_number(text)
    assert (None if found is None else shown(found)) == NUMBERS[text]


def test_a_share_is_a_hundredth_of_its_percentage() -> None:
    assert last_number("45%", percent="share") == Fraction(9, 20)


@settings(max_examples=200)
@given(st.fractions(max_denominator=10**6, min_value=-(10**9), max_value=10**9))
def test_what_is_shown_of_a_number_is_read_as_that_number(number: Fraction) -> None:
    assert last_number(f"It is {shown(number)}") == number


@settings(max_examples=100)
@given(st.from_regex(r"\A[-0-9.,/ $]{0,30}\Z"), st.sampled_from(["7 ", "$1,234.5 / 3", "1 1/2"]), st.integers(1, 300))
def test_where_a_number_stands_in_a_long_text_does_not_count(end: str, before: str, distance: int) -> None:
    text = f"{before} {'x ' * distance}{end}"
    assert last_number(text) == last_number(f"{before} x {end}")
    assert last_number("so " * 200 + text) == last_number(text)


@settings(max_examples=200)
@given(st.decimals(allow_nan=False, allow_infinity=False, places=4, min_value=-(10**9), max_value=10**9))
def test_thousands_separators_change_nothing(number: Any) -> None:
    assert last_number(f"{number:,f}") == last_number(f"{number:f}") == Fraction(number)


@pytest.mark.parametrize(
    "piece", ["`", "*a ", "{", "[", "1", "1 ", "-", "1,", "\\frac{", "```\n", "1/", "_", '"', "(", "\\boxed{"]
)
def test_no_answer_takes_for_ever(piece: str) -> None:
    started, text = time.monotonic(), piece * 20_000
    last_number(text)
    without_markdown(text)
    code_in(text)
    list(json_in(text))
    assert time.monotonic() - started < HANG
