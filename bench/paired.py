"""Differences of scores that come in pairs, with a bootstrap interval."""

from __future__ import annotations

import random
from collections.abc import Sequence


def paired_difference(
    ours: Sequence[float], peer: Sequence[float], *, seed: int = 0, draws: int = 2000
) -> tuple[float, float, float]:
    """Mean of ours minus peer with a 95 % interval over the pairs: (mean, low, high)."""
    gaps = [a - b for a, b in zip(ours, peer, strict=True)]
    dice = random.Random(seed)
    means = sorted(sum(dice.choices(gaps, k=len(gaps))) / len(gaps) for _ in range(draws))
    return sum(gaps) / len(gaps), means[int(draws * 0.025)], means[int(draws * 0.975)]
