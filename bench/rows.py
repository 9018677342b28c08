"""One row per measured claim, and how ratios and differences get their intervals."""

from __future__ import annotations

import json
import platform
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import metadata
from statistics import median
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Row:
    """Ours beside a peer's, from one run.

    Attributes:
        ratio: ours to peer's for speed and cost.
        low, high: 95 % interval: of the ratio for speed and cost, of ours minus peer for quality.
        target: what the ratio should reach, None where nothing is promised.
        better: which side of the target is the right one.
        above: what the whole interval should lie above beside that, None where the ratio alone is promised.
    """

    bench: str
    case: str
    metric: str
    unit: str
    ours: float
    peer: float
    peer_name: str
    ratio: float
    low: float
    high: float
    n: int
    seeds: tuple[int, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    target: float | None = None
    better: Literal["lower", "higher"] = "lower"
    above: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the ratio reaches its target, and the interval its bound; None where there is no target."""
        if self.target is None:
            return None
        reached = self.ratio >= self.target if self.better == "higher" else self.ratio <= self.target
        return reached and (self.above is None or self.low > self.above)

    def to_json(self) -> str:
        """One JSON line."""
        return json.dumps({**asdict(self), "met": self.met})


def ratio_of_medians(
    ours: Sequence[float], peer: Sequence[float], *, seed: int = 0, draws: int = 2000
) -> tuple[float, float, float]:
    """Ratio of medians with a bootstrap interval: (ratio, low, high)."""
    dice = random.Random(seed)

    def resampled(values: Sequence[float]) -> float:
        return median(dice.choices(values, k=len(values)))

    ratios = sorted(resampled(ours) / resampled(peer) for _ in range(draws))
    return median(ours) / median(peer), ratios[int(draws * 0.025)], ratios[int(draws * 0.975)]


def paired_difference(
    ours: Sequence[float], peer: Sequence[float], *, seed: int = 0, draws: int = 2000
) -> tuple[float, float, float]:
    """Mean of ours minus peer with a 95 % bootstrap interval over the pairs: (mean, low, high)."""
    gaps = [a - b for a, b in zip(ours, peer, strict=True)]
    dice = random.Random(seed)
    means = sorted(sum(dice.choices(gaps, k=len(gaps))) / len(gaps) for _ in range(draws))
    return sum(gaps) / len(gaps), means[int(draws * 0.025)], means[int(draws * 0.975)]


@cache
def versions(*packages: str) -> dict[str, str]:
    """Versions of what was measured."""
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in packages}}


Bench = Callable[[bool], list[Row]]
"""A bench: quick or not, to its rows."""
