"""Amounts of money: Decimal USD in Python, whole pico-USD (1e-12 USD) in the database.

Pure: no clock, no I/O. Amounts are never floats, and what is charged is never rounded down.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal, InvalidOperation
from typing import Literal, get_args

from selfreg_sdk.errors import ConfigError

Period = Literal["total", "day", "month"]

# Per-token prices have up to 10 decimals and counts up to 9 digits: 80 digits keep every product and sum exact.
EXACT = Context(prec=80)

# One amount stays well inside a signed 64-bit integer of pico-USD (9.2 million USD), so sums of a few cannot overflow.
MAX_USD = Decimal(1_000_000)

_AMOUNT = re.compile(
    r"\s*([+-]?(?:nan|inf|infinity|[^\s/]+?))\s*(?:([a-z$€£¥]+)\s*)?(?:/\s*([a-z]+)\s*)?", re.IGNORECASE
)
_REMEDY = "write it like '2.00 USD', '0.50 USD/day' or '20 USD/month'"


def usd(value: str | int | Decimal) -> Decimal:
    """An amount in USD, exact.

    Args:
        value: "2", "2.00 USD", an int or a Decimal; no float, because 0.1 is not a tenth.

    Raises:
        ConfigError: negative, not finite, above 1,000,000, in another currency, or no number at all.
    """
    amount, period = _split(value)
    if period is not None:
        raise ConfigError(f"{value!r} has a period where an amount alone is wanted; {_REMEDY} only for budgets")
    return amount


def to_pico(amount: Decimal, *, round_up: bool = True) -> int:
    """USD to whole pico-USD; what is charged is rounded up, what is granted (a cap) is rounded down."""
    check_amount(amount, amount)
    scaled = amount.scaleb(12, EXACT)
    return int(scaled.to_integral_value(ROUND_CEILING if round_up else ROUND_FLOOR, EXACT))


def from_pico(pico: int) -> Decimal:
    """Whole pico-USD to USD, exact, without trailing zeros."""
    amount = Decimal(pico).scaleb(-12, EXACT).normalize(EXACT)
    return amount.quantize(Decimal(1), context=EXACT) if amount == amount.to_integral_value() else amount


def check_amount(amount: Decimal, shown: object) -> None:
    """Raise ConfigError, showing ``shown``, unless the amount is finite, not negative and below 1,000,000 USD."""
    if not amount.is_finite():
        raise ConfigError(f"{shown!r} is not a finite amount of USD; {_REMEDY}")
    if amount < 0:
        raise ConfigError(f"{shown!r} is negative; an amount of USD is zero or more; {_REMEDY}")
    if amount > MAX_USD:
        raise ConfigError(f"{shown!r} is above the {MAX_USD} USD that one amount may hold; is the unit right?")


@dataclass(frozen=True, kw_only=True)
class Budget:
    """A hard cap on spending, over all time or in every UTC day or month.

    Attributes:
        cap: USD; zero lets only free calls through.
        period: windows are UTC days and months, whatever the local time zone does.
    """

    cap: Decimal
    period: Period = "total"

    def __post_init__(self) -> None:
        check_amount(self.cap, self.cap)
        if self.period not in get_args(Period):
            raise ConfigError(f"budget period {self.period!r} is not one of {', '.join(get_args(Period))}")

    @classmethod
    def parse(cls, value: Budget | str | int | Decimal) -> Budget:
        """Read "2.00 USD", "0.50 USD/day", "20 USD/month", 2 or a Decimal.

        Raises:
            ConfigError: names the value and shows a correct one.
        """
        if isinstance(value, Budget):
            return value
        amount, period = _split(value)
        match (period or "total").lower():
            case "total" | "day" | "month" as known:
                return cls(cap=amount, period=known)
            case _:
                raise ConfigError(f"{value!r}: the period {period!r} is not known; {_REMEDY}")

    def window(self, now: datetime) -> str:
        """The window that ``now`` falls in: "" for total, "2026-11-21" for a day, "2026-11" for a month.

        Args:
            now: an aware datetime in any zone; it is read in UTC.
        """
        if now.tzinfo is None:
            raise ValueError(f"{now!r} has no time zone; pass an aware datetime")
        if self.period == "total":
            return ""
        return now.astimezone(UTC).strftime("%Y-%m-%d" if self.period == "day" else "%Y-%m")

    def scope_key(self, name: str, now: datetime) -> str:
        """The key under which the store counts this budget: ``name``, or ``name@window`` for a period."""
        window = self.window(now)
        return f"{name}@{window}" if window else name

    def __str__(self) -> str:
        return f"{self.cap} USD" + ("" if self.period == "total" else f"/{self.period}")


def _split(value: str | int | Decimal) -> tuple[Decimal, str | None]:
    """The amount and the period word, if there was one."""
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        raise ConfigError(f"{value!r} ({type(value).__name__}) is not an amount of USD; {_REMEDY}")
    if not isinstance(value, str):
        amount = Decimal(value)
        check_amount(amount, value)
        return amount, None
    shown = value if len(value) <= 80 else value[:77] + "..."
    found = _AMOUNT.fullmatch(value)
    try:
        number, currency, period = found.groups() if found else ("", None, None)
        amount = Decimal(number)
    except InvalidOperation:
        raise ConfigError(f"{shown!r} is not an amount of USD; {_REMEDY}") from None
    if currency is not None and currency.upper() != "USD":
        raise ConfigError(f"{shown!r}: the currency {currency[:20]!r} is not USD; convert it, then {_REMEDY}")
    check_amount(amount, shown)
    return amount, period
