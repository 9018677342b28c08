from __future__ import annotations

from datetime import datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfreg_sdk.errors import ConfigError
from selfreg_sdk.money import Budget, from_pico, to_pico, usd

AMOUNTS = st.decimals(min_value=0, max_value=1_000_000, allow_nan=False, allow_infinity=False)


@pytest.mark.parametrize(
    ("given_value", "amount"),
    [("2", "2"), ("2.00 USD", "2.00"), (" .5usd ", "0.5"), (3, "3"), (Decimal("0.1"), "0.1"), ("1e-6", "0.000001")],
)
def test_usd_reads_amounts_exactly(given_value: str | int | Decimal, amount: str) -> None:
    assert usd(given_value) == Decimal(amount)


BAD = [
    ("-1", "negative"),
    (-1, "negative"),
    (Decimal("-0.01"), "negative"),
    ("nan", "not a finite"),
    ("-inf USD", "not a finite"),
    (Decimal("sNaN"), "not a finite"),
    (Decimal("Infinity"), "not a finite"),
    ("2 EUR", "'EUR'"),
    ("2 €", "'€'"),
    ("two dollars", "not an amount"),
    ("", "not an amount"),
    ("USD", "not an amount"),
    ("1,5", "not an amount"),
    ("1 2 USD", "not an amount"),
    (0.1, "float"),
    (True, "bool"),
    (None, "NoneType"),
    ("2000000", "above"),
    ("1e999999", "above"),
    ("x" * 500, "..."),
    ("2" + "x" * 500, "currency"),
]


@pytest.mark.parametrize(("value", "words"), BAD)
def test_bad_amounts_are_named_with_a_remedy(value: object, words: str) -> None:
    for read in (usd, Budget.parse):
        with pytest.raises(ConfigError) as caught:
            read(value)  # type: ignore[operator]
        message = str(caught.value)
        assert words in message
        assert "write it like" in message or "unit" in message
        assert len(message) < 300


@pytest.mark.parametrize(
    ("text", "cap", "period"),
    [
        ("2.00 USD", "2.00", "total"),
        ("0.50 USD/day", "0.50", "day"),
        ("20/month", "20", "month"),
        (" 20 usd / Month ", "20", "month"),
        ("5 USD/total", "5", "total"),
        (2, "2", "total"),
        (Decimal("0"), "0", "total"),
    ],
)
def test_budgets_are_read(text: str | int | Decimal, cap: str, period: str) -> None:
    budget = Budget.parse(text)
    assert (budget.cap, budget.period) == (Decimal(cap), period)
    assert Budget.parse(str(budget)) == Budget.parse(budget) == budget


@pytest.mark.parametrize("text", ["2 USD/week", "2 USD/", "2 USD/day/day"])
def test_unknown_periods_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="USD/day"):
        Budget.parse(text)


def test_a_budget_made_by_hand_is_checked_too() -> None:
    with pytest.raises(ConfigError, match="negative"):
        Budget(cap=Decimal(-1))
    with pytest.raises(ConfigError, match="'week'"):
        Budget(cap=Decimal(1), period="week")  # type: ignore[arg-type]


def test_an_amount_has_no_period() -> None:
    with pytest.raises(ConfigError, match="period"):
        usd("2 USD/day")


def test_windows_are_read_in_utc() -> None:
    moment = datetime(2026, 1, 1, 1, tzinfo=timezone(timedelta(hours=9)))
    assert Budget.parse("1 USD").scope_key("b", moment) == "b"
    assert Budget.parse("1 USD/day").scope_key("b", moment) == "b@2025-12-31"
    assert Budget.parse("1 USD/month").scope_key("b", moment) == "b@2025-12"
    with pytest.raises(ValueError, match="time zone"):
        Budget.parse("1 USD/day").window(datetime(2026, 1, 1))


@given(AMOUNTS)
def test_charges_are_rounded_up_and_grants_down_by_less_than_a_pico(amount: Decimal) -> None:
    exact = Fraction(amount) * 10**12
    up, down = to_pico(amount), to_pico(amount, round_up=False)
    assert down <= exact <= up
    assert up - exact < 1
    assert exact - down < 1


@given(st.integers(0, 10**18))
def test_picos_come_back_as_they_went(pico: int) -> None:
    assert to_pico(from_pico(pico)) == pico


def test_amounts_are_shown_without_noise() -> None:
    assert [str(from_pico(pico)) for pico in (0, 10**12, 25 * 10**12, 10**11, 120 * 10**12)] == [
        "0",
        "1",
        "25",
        "0.1",
        "120",
    ]
