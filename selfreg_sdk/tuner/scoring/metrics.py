"""From the scores of n samples to the value of one example, and the same for every smaller n at no further cost.

A pool of N recorded samples holds C(N, n) ways to have drawn n of them. The mean of a metric over all of them is the
unbiased estimate with the least variance of what n fresh samples would bring (a U-statistic; for success it is pass@k,
arXiv 2107.03374), so one pool serves all n. Order counts where a metric looks at it: every arrangement is as likely.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import permutations
from typing import Literal, get_args

from policies.task import Kind
from selfreg_sdk.errors import ConfigError

Mode = Literal["max", "min"]
MetricName = Literal["first", "mean", "success", "expected_success", "vote", "best"]
Ballots = Sequence[str | None]
Reduce = Callable[[Sequence[float], Ballots], float]
OverSubsets = Callable[[Sequence[float], Ballots, Sequence[int]], Mapping[int, float] | None]

_EXACT_VOTE = 2_000_000
"""Most steps of arithmetic for which a vote is worked out exactly: less than a second, and usually a part of that."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What n samples of one example are worth.

    Attributes:
        name: for people and records.
        mode: whether more or less of it is better.
        reduce: n scores and n ballots, in order of arrival, to the value.
        aggregation: how samples become one answer when a configuration chosen by this metric runs.
        rate: the value is a share in [0, 1] whatever the scores are; else it lies between the lowest and the highest score.
            None if nothing is known.
        needs_ballots: a vote is taken.
        over_subsets: closed form of `expected`; None there where it would take too long.
    """

    name: str
    mode: Mode = "max"
    reduce: Reduce = field(repr=False)
    aggregation: Kind = "first"
    rate: bool | None = None
    needs_ballots: bool = False
    over_subsets: OverSubsets | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise ConfigError(f"metric {self.name!r}: mode={self.mode!r} must be 'max' or 'min'")

    def of(self, scores: Sequence[float], ballots: Ballots | None = None) -> float:
        """The value of one example.

        Args:
            scores: one per sample, in order of arrival.
            ballots: one per sample; None among them abstains (see `selfreg_sdk.aggregate.ballot_of`).

        Raises:
            ConfigError: no scores, as many ballots as scores are missing, or a vote without ballots.
        """
        return float(self.reduce(scores, self._ballots(scores, ballots)))

    def expected(
        self,
        scores: Sequence[float],
        ballots: Ballots | None = None,
        *,
        sizes: Iterable[int] | None = None,
        draws: int = 256,
        seed: int = 0,
    ) -> dict[int, float]:
        """The expected value for each n, over all ways to draw n of the N samples in some order, without replacement.

        Exact for all metrics of `metric`; a vote over very many different ballots, and metrics of users beyond few samples,
        are means over ``draws`` arrangements, the same ones for the same seed.

        Args:
            scores, ballots: of the N samples, as in `of`.
            sizes: which n; None is 1 to N.

        Raises:
            ConfigError: an n outside 1 to N, or as in `of`.
        """
        given = self._ballots(scores, ballots)
        wanted = tuple(range(1, len(scores) + 1) if sizes is None else sizes)
        if any(not 1 <= n <= len(scores) for n in wanted):
            raise ConfigError(
                f"metric {self.name!r}: sizes={wanted!r} must lie in 1 to {len(scores)}, the samples there are"
            )
        exact = None if self.over_subsets is None else self.over_subsets(scores, given, wanted)
        if exact is not None:
            return dict(exact)
        return {n: self._resampled(scores, given, n, draws, seed) for n in wanted}

    def _resampled(self, scores: Sequence[float], ballots: Ballots, n: int, draws: int, seed: int) -> float:
        count, ways = len(scores), math.perm(len(scores), n)
        if ways <= draws:
            drawn: list[Sequence[int]] = list(permutations(range(count), n))
        else:
            source = random.Random(f"{seed}/{n}/{count}")
            drawn = [source.sample(range(count), n) for _ in range(draws)]
        return math.fsum(self.reduce([scores[i] for i in d], [ballots[i] for i in d]) for d in drawn) / len(drawn)

    def _ballots(self, scores: Sequence[float], ballots: Ballots | None) -> Ballots:
        if not scores:
            raise ConfigError(f"metric {self.name!r} of no samples: give at least one score")
        if ballots is None:
            if self.needs_ballots:
                raise ConfigError(f"metric {self.name!r} takes a vote: give one ballot per score")
            return [None] * len(scores)
        if len(ballots) != len(scores):
            raise ConfigError(f"metric {self.name!r}: {len(scores)} scores, but {len(ballots)} ballots")
        return ballots


def metric(name: str, *, mode: Mode = "max", threshold: float = 0.5) -> Metric:
    """A built-in metric.

    first: the score of the first sample. mean: of all. success: 1 if any score reaches ``threshold``, else 0.
    expected_success: 1 - (1 - s/n)^n with s such scores of n, EcoOptiGen's smooth form of success (arXiv 2303.04673).
    vote: the score of the sample that `selfreg_sdk.aggregate` elects. best: the highest score, with mode "min" the lowest.

    Args:
        mode: "min" where scores are losses; not for the two rates of success, which are always maximised.
        threshold: from which score on a sample is a success.

    Raises:
        ConfigError: an unknown name, or a mode or threshold that does not fit it.
    """
    if not math.isfinite(threshold):
        raise ConfigError(f"metric {name!r}: threshold={threshold!r} must be a finite number")
    if name in ("success", "expected_success") and mode == "min":
        raise ConfigError(
            f"metric {name!r} is a rate of success and always maximised, got mode='min'; for losses use first, mean, vote or best"
        )
    return _built_in(name, mode, threshold)


@lru_cache(maxsize=64)  # the same metric is one object, so that what was measured by it can be compared
def _built_in(name: str, mode: Mode, threshold: float) -> Metric:
    match name:
        case "first":
            return Metric(
                name=name, mode=mode, reduce=lambda scores, _: scores[0], rate=False, over_subsets=_mean_of_all
            )
        case "mean":
            return Metric(
                name=name, mode=mode, reduce=lambda scores, _: _mean(scores), rate=False, over_subsets=_mean_of_all
            )
        case "success":
            return _rate(name, threshold, lambda s, n: float(s > 0))
        case "expected_success":
            return _rate(name, threshold, lambda s, n: 1.0 - (1.0 - s / n) ** n)
        case "vote":
            return Metric(
                name=name,
                mode=mode,
                reduce=lambda scores, ballots: scores[elected(ballots)],
                aggregation="vote",
                rate=False,
                needs_ballots=True,
                over_subsets=_votes,
            )
        case "best":
            return _best(mode)
    raise ConfigError(
        f"metric {name!r} is not known: use one of {', '.join(get_args(MetricName))}, or a `Metric` of your own"
    )


def elected(ballots: Ballots) -> int:
    """Index of the sample that wins a vote: the first one of the most frequent ballot, of several such the earliest.

    None abstains; if all do, the first wins. The same sample as ``ranking(texts, vote)[0]`` of `selfreg_sdk.aggregate`.
    """
    counts = Counter(ballot for ballot in ballots if ballot is not None)
    most = max(counts.values(), default=0)
    return next((i for i, ballot in enumerate(ballots) if ballot is not None and counts[ballot] == most), 0)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _mean_of_all(scores: Sequence[float], _: Ballots, sizes: Sequence[int]) -> dict[int, float]:
    return dict.fromkeys(sizes, _mean(scores))


def _rate(name: str, threshold: float, value: Callable[[int, int], float]) -> Metric:
    """A metric that depends only on how many of the n scores are successes."""

    def successes(scores: Sequence[float]) -> int:
        return sum(score >= threshold for score in scores)

    def over_subsets(scores: Sequence[float], _: Ballots, sizes: Sequence[int]) -> dict[int, float]:
        total, good = len(scores), successes(scores)
        # Hypergeometric: k of the n drawn are among the good ones. Integers, so nothing cancels.
        return {
            n: math.fsum(
                value(k, n) * (math.comb(good, k) * math.comb(total - good, n - k) / math.comb(total, n))
                for k in range(max(0, n - total + good), min(n, good) + 1)
            )
            for n in sizes
        }

    return Metric(
        name=name,
        reduce=lambda scores, _: value(successes(scores), len(scores)),
        aggregation="any",
        rate=True,
        over_subsets=over_subsets,
    )


def _best(mode: Mode) -> Metric:
    def over_subsets(scores: Sequence[float], _: Ballots, sizes: Sequence[int]) -> dict[int, float]:
        # The i-th from the worst is the best of n when the other n - 1 are among the i before it.
        ordered, total = sorted(scores, reverse=mode == "min"), len(scores)
        return {
            n: math.fsum(
                score * (math.comb(i, n - 1) / math.comb(total, n)) for i, score in enumerate(ordered) if i >= n - 1
            )
            for n in sizes
        }

    pick = max if mode == "max" else min
    return Metric(
        name="best",
        mode=mode,
        reduce=lambda scores, _: pick(scores),
        aggregation="best",
        rate=False,
        over_subsets=over_subsets,
    )


def _votes(scores: Sequence[float], ballots: Ballots, sizes: Sequence[int]) -> dict[int, float] | None:
    """The expected score of the elected sample, by counting the draws in which each ballot has most votes.

    Whichever of a ballot's samples comes first is any of them with equal chance, and so is, among ballots with equally many
    votes, the one that is seen first. So a draw's value is the mean, over the ballots with most votes, of their mean score.
    For each possible number of most votes, the draws are counted by size and by how many ballots share it, ballot by ballot.

    Returns:
        None where that takes too long.
    """
    kinds: dict[str | None, list[float]] = {}
    for score, ballot in zip(scores, ballots, strict=True):
        kinds.setdefault(ballot, []).append(score)
    silent = kinds.pop(None, [])
    groups = [(len(group), _mean(group)) for group in kinds.values()]
    top, most = max(sizes, default=0), max((size for size, _ in groups), default=0)
    if top > 500 or sum(_steps(m, groups, top) for m in range(1, most + 1)) > _EXACT_VOTE:
        return None  # beyond 500 the counts leave the range of floats
    value = dict.fromkeys(sizes, 0.0)
    for m in range(1, most + 1):
        for n, part in _led_by(m, groups, len(silent), top).items():
            if n in value:
                value[n] += part
    for n in sizes:
        if silent and n <= len(silent):  # nobody votes
            value[n] += math.comb(len(silent), n) * _mean(silent)
        value[n] /= math.comb(len(scores), n)
    return value


def _steps(m: int, groups: Sequence[tuple[int, float]], top: int) -> int:
    """At most so much arithmetic has `_led_by` to do."""
    leading = min(top // m, sum(size >= m for size, _ in groups))
    return top * (leading + 1) * sum(min(m, size) + 1 for size, _ in groups)


def _led_by(m: int, groups: Sequence[tuple[int, float]], silent: int, top: int) -> dict[int, float]:
    """For each n: the sum of values over all draws of n samples in which most votes of a ballot are exactly ``m``."""
    # (drawn so far, ballots with m votes) -> (number of draws, sum over them of the mean scores of those ballots)
    table = {(c, 0): (float(math.comb(silent, c)), 0.0) for c in range(min(silent, top) + 1)}
    for size, worth in groups:
        grown: dict[tuple[int, int], tuple[float, float]] = {}
        ways = [math.comb(size, c) for c in range(min(m, size) + 1)]
        for (drawn, leading), (draws, sum_of) in table.items():
            for c, number in enumerate(ways[: top - drawn + 1]):
                leads = c == m
                key = (drawn + c, leading + leads)
                before, sum_before = grown.get(key, (0.0, 0.0))
                gain = sum_of + worth * draws if leads else sum_of
                grown[key] = (before + number * draws, sum_before + number * gain)
        table = grown
    result: dict[int, float] = {}
    for (drawn, leading), (_, sum_of) in table.items():
        if leading:
            result[drawn] = result.get(drawn, 0.0) + sum_of / leading
    return result
