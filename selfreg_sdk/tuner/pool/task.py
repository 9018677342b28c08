"""What method "pool" is asked, by which door it spends, and what it returns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from selfreg_sdk.errors import ConfigError
from selfreg_sdk.tuner.pool.allocate import Pace
from selfreg_sdk.tuner.pool.choose import Caution
from selfreg_sdk.tuner.pool.grid import Floats, Grid, Ints
from selfreg_sdk.tuner.pool.spend import Rates
from selfreg_sdk.tuner.pool.surface import Likeness, Noise
from selfreg_sdk.tuner.pool.view_effects import Prejudice
from selfreg_sdk.tuner.search.search import Mode

Fate = Literal["bought", "refused", "failed"]
"""Of a request: answered and scored; its worst case did not fit what is left; the call or the scorer failed."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """``n`` more samples of a cell on an example, in one request. Cells and examples are numbers."""

    cell: int
    example: int
    n: int


class Taken(Protocol):
    """What was bought so far.

    Attributes:
        taken: (C, P) samples of each cell and example.
        tokens: (C, P) their mean answer tokens.
        billed: (C, P) prompt tokens billed for the last request.
    """

    @property
    def taken(self) -> Ints: ...  # noqa: D102 - told above

    @property
    def tokens(self) -> Floats: ...  # noqa: D102 - told above

    @property
    def billed(self) -> Floats: ...  # noqa: D102 - told above


class Pool(Taken, Protocol):
    """Samples bought so far, and the only door to money.

    Attributes:
        spent: USD so far; never more than a reservation allowed.
    """

    @property
    def spent(self) -> float: ...  # noqa: D102 - told above

    def worst(self, cell: Ints, example: Ints, n: Ints) -> Floats:
        """The most that one request of each (cell, example, n) can cost, USD; arguments and result broadcast."""
        ...

    def score(self, cell: Ints, example: Ints, n: Ints) -> Floats:
        """The metric on the first n samples of each (cell, example), (R,); NaN where it cannot be told."""
        ...

    def buy(self, requests: Sequence[Request]) -> Sequence[Fate]:
        """Carry out independent requests, all at once if it likes; what became of each."""
        ...


@dataclass(frozen=True, kw_only=True)
class PoolTask:
    """What is tuned.

    Attributes:
        grid: C cells.
        counted: (C, P) prompt tokens of each of P examples, counted without a call.
        rates: prices of the cells.
        top: the largest n.
        budget: USD a request may cost on average.
        total: USD the search may spend.
        mode: whether more or less of the metric is better.
        sizes: the n that may be used; empty is every one up to ``top``.
        low, high: range of the metric. It sets the scale on which likeness and noise are believed; values beyond are
            taken as they are.

    Raises:
        ConfigError: shapes that do not agree, or numbers that make no search.
    """

    grid: Grid
    counted: Floats
    rates: Rates
    top: int
    budget: float
    total: float
    mode: Mode = "max"
    low: float = 0.0
    high: float = 1.0
    sizes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        cells = len(self.grid.cells)
        if self.counted.ndim != 2 or self.counted.shape[0] != cells or not self.counted.shape[1]:
            raise ConfigError(
                f"counted has the shape {self.counted.shape!r}; give ({cells}, examples), at least one example"
            )
        for rate in (self.rates.prompt, self.rates.answer, self.rates.request):
            if rate.shape != (cells,):
                raise ConfigError(f"rates have the shape {rate.shape!r}; give one for each of {cells} cells")
        if self.top < 1 or not (self.budget > 0 and self.total > 0):
            raise ConfigError(f"top={self.top!r}, budget={self.budget!r}, total={self.total!r}: give positive numbers")
        if self.sizes and not (min(self.sizes) >= 1 and max(self.sizes) == self.top):
            raise ConfigError(
                f"sizes={self.sizes!r}: give numbers of samples from 1 to top={self.top}, that one among them"
            )
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ConfigError(f"low={self.low!r}, high={self.high!r}: give the finite range of the metric")

    def units(self, score: Floats) -> Floats:
        """Scores in units of the range, 1 best."""
        share = np.asarray((score - self.low) / (self.high - self.low))
        return share if self.mode == "max" else 1 - share

    def score(self, units: float) -> float:
        """The opposite of `units`."""
        return self.low + (self.high - self.low) * (units if self.mode == "max" else 1 - units)


@dataclass(frozen=True, kw_only=True)
class Method:
    """Every number that is not the user's.

    Attributes:
        likeness, noise: prior of the surface.
        centre: its mean before any reading; far weaker than one block of readings.
        drift, wander: doubt that no number of examples removes, in the final choice alone. It is worth +.002 to +.009
            of the score there; in the search it costs up to .025, as it stops telling arms apart.
        pace: of spending. caution: about the budget per request.
        share: of `Costs`.
        prejudice: about what other views do to the score.
        risk: probability that anything was ever wrongly closed by proof.
        openers: arms asked one example first, to learn what they cost; ``opening`` samples each.
        patience: failed requests of an arm in a row, after which it is asked no more.
    """

    likeness: Likeness = field(default_factory=Likeness)
    noise: Noise = field(default_factory=lambda: Noise(shared=0.25, single=0.25))
    centre: float = 0.5
    drift: float = 0.1
    wander: float = 0.05
    pace: Pace = field(default_factory=Pace)
    caution: Caution = field(default_factory=Caution)
    share: float = 1.0
    prejudice: Prejudice = field(default_factory=Prejudice)
    risk: float = 0.05
    openers: int = 3
    opening: int = 2
    patience: int = 3


@dataclass(frozen=True, kw_only=True)
class Winner:
    """The configuration to use.

    Attributes:
        cell, n: it.
        score: expected on new examples, in the metric's unit; ``error`` its standard deviation.
        cost: expected mean USD per request; ``cost_error`` its standard error.
        keep: probability that the mean cost over new examples keeps the budget, with `Caution.slack`.
        view: which of the views it is used with; 0 is how samples are drawn.
    """

    cell: int
    n: int
    score: float
    error: float
    cost: float
    cost_error: float
    keep: float
    view: int = 0
