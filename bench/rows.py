"""One row per measured claim, and how a ratio gets its interval."""

from __future__ import annotations

import json
import platform
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from statistics import median


@dataclass(frozen=True, kw_only=True)
class Row:
    """Ours beside a peer's, from one run.

    Attributes:
        ratio: ours to peer's for speed and cost.
        low, high: 95 % interval: of the ratio for speed and cost, of ours minus peer for quality.
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

    def to_json(self) -> str:
        """One JSON line."""
        return json.dumps(asdict(self))


def ratio_of_medians(
    ours: Sequence[float], peer: Sequence[float], *, seed: int = 0, draws: int = 2000
) -> tuple[float, float, float]:
    """Ratio of medians with a bootstrap interval: (ratio, low, high)."""
    dice = random.Random(seed)

    def resampled(values: Sequence[float]) -> float:
        return median(dice.choices(values, k=len(values)))

    ratios = sorted(resampled(ours) / resampled(peer) for _ in range(draws))
    return median(ours) / median(peer), ratios[int(draws * 0.025)], ratios[int(draws * 0.975)]


def versions(*packages: str) -> dict[str, str]:
    """Versions of what was measured."""
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in packages}}


Bench = Callable[[bool], list[Row]]
"""A bench: quick or not, to its rows."""
