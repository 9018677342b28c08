"""Who in a set of samples deserves what of the set's score.

The mean score of n samples is raised by the gradient of E[score(S)] = E[sum over i in S of score(S) * grad log p(i)]. Any number that
does not depend on sample i may be taken from its factor. So its credit is the mean score of the sets with it minus the mean score of
sets without it: for n = 1 its reward minus the others' mean (leave-one-out, Kool et al. 2019), for "any of n" what it adds to
the chance that one is right, for a set that should be different what it adds to the variety.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from math import comb
from random import Random
from statistics import fmean

_SETS = 128
"""Most sets of a group that are scored; of more, a random choice."""


def credits(
    score: Callable[[Sequence[str]], float], samples: Sequence[str], n: int, *, seed: int = 0
) -> tuple[float, list[float]]:
    """The mean score of n of the samples, and each sample's credit.

    Args:
        score: of a set of samples; asked for sets of n, and of n - 1 where the samples are just n.
        samples: K >= n of one prompt, at least two.
        n: size of a scored set.
        seed: of the choice of sets, where all would be too many.

    Raises:
        ValueError: fewer than n samples, or one alone.
    """
    many = len(samples)
    if many < max(n, 2):
        raise ValueError(f"{many} samples cannot be credited under scores of {n}: draw at least {max(n, 2)}")
    if many == n:
        whole = score(samples)
        return whole, [whole - score([*samples[:i], *samples[i + 1 :]]) for i in range(many)]
    sets = _sets(many, n, seed)
    scores = [score([samples[i] for i in chosen]) for chosen in sets]
    found = []
    for i in range(many):
        inside = [value for value, chosen in zip(scores, sets, strict=True) if i in chosen]
        outside = [value for value, chosen in zip(scores, sets, strict=True) if i not in chosen]
        found.append(fmean(inside) - fmean(outside))
    return fmean(scores), found


def _sets(many: int, n: int, seed: int) -> list[tuple[int, ...]]:
    if comb(many, n) <= _SETS:
        return list(combinations(range(many), n))
    random = Random(seed)
    sets: list[tuple[int, ...]] = []
    # Rotations of a shuffled ring hold every sample equally often.
    while len(sets) + many <= max(_SETS, many):
        ring = random.sample(range(many), many)
        sets += [tuple((ring + ring)[start : start + n]) for start in range(many)]
    return sets
