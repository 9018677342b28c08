"""What a configuration was worth and did cost on some examples, each one by one.

An example that failed (its call was refused, or its answers could not be scored) is never left out: in use it would have
failed too. It counts as the worst value the metric has; where that is not known, as the worst value that was seen.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from statistics import median
from typing import Literal

from selfreg_sdk.tuner.measuring.intervals import LEVEL, Interval, mean_interval
from selfreg_sdk.tuner.scoring.metrics import Metric, Mode
from selfreg_sdk.tuner.search.dimensions import Point

Range = tuple[float, float]
"""The least and the largest value of a metric."""

Stop = Literal["done", "money"]
"""Why a measurement ended: all examples were tried, or the worst case of the next did not fit what may be spent."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One example.

    Attributes:
        example: its id.
        value: of the metric; None if it failed, for the ``reason``.
        cost: USD of the request where nobody drew a part of it before, without what scoring it cost.
        prompt_tokens, output_tokens: billed.
        seconds: of the request; None if nothing was answered.
        scores: of the single samples, in order.
    """

    example: str
    value: float | None
    cost: Decimal
    prompt_tokens: int = 0
    output_tokens: int = 0
    seconds: float | None = None
    scores: tuple[float, ...] = ()
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A configuration, measured.

    Attributes:
        config: it; with model, prompt and n.
        metric: how it was measured; its aggregation made one answer of the samples.
        span: range of the metric's values, None if it is not known.
        outcomes: of the examples that were tried, in their order.
        wanted: examples that were to be tried.
        spent: USD that the study paid for all of it, scoring included; what others had paid for is free.
        ending: why it ended.
        level: of the intervals.
    """

    config: Point
    metric: Metric
    span: Range | None
    outcomes: tuple[Outcome, ...]
    wanted: int
    spent: Decimal
    ending: Stop = "done"
    level: float = LEVEL

    @property
    def examples(self) -> int:
        """How many were tried."""
        return len(self.outcomes)

    @property
    def failed(self) -> int:
        """How many of them failed; they are in every mean, as the worst value."""
        return sum(outcome.value is None for outcome in self.outcomes)

    @property
    def mode(self) -> Mode:
        """Whether more or less of the score is better."""
        return self.metric.mode

    @cached_property
    def values(self) -> Mapping[str, float]:
        """The value of each example by its id, failed ones as the worst; none at all if nothing tells what that is."""
        worst = worst_of((self,))
        return {} if worst is None else valued(self, worst)

    @property
    def score(self) -> float:
        """Mean value; NaN if nothing was measured."""
        return self._scored.mean

    @property
    def low(self) -> float:
        """Lower end of the score's interval."""
        return self._scored.low

    @property
    def high(self) -> float:
        """Upper end of the score's interval."""
        return self._scored.high

    @property
    def cost(self) -> float:
        """Mean USD of a request; NaN if nothing was measured."""
        return self._billed.mean

    @property
    def cost_low(self) -> float:
        """Lower end of the cost's interval."""
        return self._billed.low

    @property
    def cost_high(self) -> float:
        """Upper end of the cost's interval."""
        return self._billed.high

    @property
    def prompt_tokens(self) -> float:
        """Mean of a request; NaN if nothing was measured."""
        return _mean(outcome.prompt_tokens for outcome in self.outcomes)

    @property
    def output_tokens(self) -> float:
        """Mean of a request, all samples together; NaN if nothing was measured."""
        return _mean(outcome.output_tokens for outcome in self.outcomes)

    @property
    def seconds(self) -> float | None:
        """Median of the requests that were answered; None without any."""
        known = [outcome.seconds for outcome in self.outcomes if outcome.seconds is not None]
        return median(known) if known else None

    @cached_property
    def _scored(self) -> Interval:
        low, high = self.span or (-math.inf, math.inf)
        return mean_interval(list(self.values.values()), low=low, high=high, level=self.level)

    @cached_property
    def _billed(self) -> Interval:
        return mean_interval([float(outcome.cost) for outcome in self.outcomes], low=0.0, level=self.level)


def worst_of(measured: Sequence[Measured]) -> float | None:
    """What a failed example counts as where these are compared; None if nothing tells.

    Args:
        measured: by the same metric.
    """
    first = measured[0]
    if first.span is not None:
        return first.span[0] if first.mode == "max" else first.span[1]
    seen = [outcome.value for one in measured for outcome in one.outcomes if outcome.value is not None]
    return (min(seen) if first.mode == "max" else max(seen)) if seen else None


def valued(measured: Measured, worst: float) -> dict[str, float]:
    """The value of each example by its id, failed ones as ``worst``."""
    return {one.example: worst if one.value is None else one.value for one in measured.outcomes}


def _mean(values: Iterable[float]) -> float:
    known = list(values)
    return math.fsum(known) / len(known) if known else math.nan
