"""How results read: scores with their intervals, money without exponents, times in seconds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from selfreg_sdk.cli.output import settings_text


def score_text(score: float, low: float | None = None, high: float | None = None) -> str:
    """``0.920 [0.840, 0.970]``."""
    if math.isnan(score):
        return "unknown"
    if low is None or high is None:
        return f"{score:.3g}" if abs(score) >= 1 else f"{score:.2f}"
    return f"{score:.3f} [{low:.3f}, {high:.3f}]"


def usd_text(amount: Decimal | float | None) -> str:
    """Three figures of an amount, as people write it: ``0.000413``."""
    if amount is None or not math.isfinite(amount):
        return "unknown"
    value = amount if isinstance(amount, Decimal) else Decimal(repr(amount))
    if not value:
        return "0"
    places = max(2 - value.adjusted(), 2)
    shown = f"{round(value, places):f}"
    return shown.rstrip("0").rstrip(".") if "." in shown else shown


def seconds_text(seconds: float | None) -> str | None:
    """``130 ms``; ``1.3 s`` from a second, ``4:05`` from two minutes on."""
    if seconds is None:
        return None
    if 0 < seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


def config_text(config: Mapping[str, Any]) -> str:
    """A configuration in one line, numbers to four figures: ``model=small temperature=0.3214 n=5``."""
    short = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in config.items()}
    return settings_text(short)
