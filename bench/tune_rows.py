"""What runs of tuners on the replayed task say: rows that are held to targets, and a table for people."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median, quantiles
from typing import Literal

from bench.replay_scores import Metric
from bench.rows import Row, paired_difference, ratio_of_medians, versions

FREE, BEST = REFERENCES = ("free choice", "best on all")
POOL, ECO, UNPRUNED = OURS = ("pool", "ecooptigen", "ecooptigen without pruning")

_SURE_FROM = 1.0
"""USD of tuning from which the pool is to be ahead of every peer beyond doubt."""
_FREE_AT, _BEST_AT, _BEST_SHARE = 3.0, 10.0, 0.9
_FEWEST = 10
"""Seeds below which scores are shown but not held to anything: two splits tell nothing."""
_KEPT = 0.99
"""Share of runs whose choice has to keep the budget per request."""
_PRUNING, _SHARING = 2.0, 10.0
"""Configurations tried per USD with pruning to without; and scored per USD from one pool to one by one."""
_ENDLESS = 1e6
"""Stands for the ratio to nothing, for which JSON has no number."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A tuner's run and what became of it.

    Attributes:
        score: mean value on the held-out problems, 0 where the budget per request is broken.
        feasible: whether it is kept.
        billed: USD by the endpoint; ``over`` is what of it exceeds the total.
        tried, scored: configurations proposed, and evaluated in full.
        requests: that the endpoint answered.
    """

    tuner: str
    seed: int
    metric: Metric
    per_request: float
    total: float
    score: float
    feasible: bool
    billed: float = 0.0
    over: float = 0.0
    tried: int = 0
    scored: int = 0
    requests: int = 0
    chosen: dict[str, object] = field(default_factory=dict)

    @property
    def case(self) -> tuple[int, Metric, float, float]:
        """What the run was about, whoever made it."""
        return self.seed, self.metric, self.per_request, self.total


def rows(runs: Sequence[Run]) -> list[Row]:
    """Every claim about our methods that the runs can speak to."""
    names = {each.tuner for each in runs}
    ours = [name for name in OURS if name in names]
    others = sorted(names - set(OURS) - set(REFERENCES)) + [name for name in REFERENCES if name in names]
    made = [row for name in ours for other in others for row in compare(runs, name, other)]
    if {POOL, ECO} <= names:
        made += compare(runs, POOL, ECO)
    made += [row for name in ours for row in conduct(runs, name)]
    if {ECO, UNPRUNED} <= names:
        made += pruning(runs)
    if {POOL, ECO} <= names:
        made.append(sharing(runs))
    return made


def compare(runs: Sequence[Run], ours: str, other: str) -> list[Row]:
    """Mean scores over budgets per request, paired by seed: a row per total, and one per total and metric."""
    made = []
    for total in sorted({each.total for each in runs}):
        at = [each for each in runs if each.total == total]
        enough = len({each.seed for each in at}) >= _FEWEST
        target, above = _target(ours, other, total) if enough else (None, None)
        made.append(
            _row(at, ours, other, case=f"{ours}, {total:g} USD", metric="held-out score", target=target, above=above)
        )
        metrics = sorted({each.metric for each in at})
        for metric in metrics if len(metrics) > 1 else ():
            of = [each for each in at if each.metric == metric]
            made.append(_row(of, ours, other, case=f"{ours}, {total:g} USD", metric=f"held-out {metric}"))
    return made


def conduct(runs: Sequence[Run], ours: str) -> list[Row]:
    """Over all runs of ours: how many choices keep the budget per request, how many searches the total."""
    mine = [each for each in runs if each.tuner == ours]

    def row(metric: str, asked: float, of: Callable[[Run], bool]) -> Row:
        seeds = _by_seed(mine, ours, lambda made: float(of(made)))
        _, low, high = paired_difference(list(seeds.values()), [asked] * len(seeds))
        share = fmean(float(of(each)) for each in mine)
        return Row(
            bench="tune_replay",
            case=f"{ours}, all runs",
            metric=metric,
            unit="share of runs",
            ours=share,
            peer=asked,
            peer_name="asked for",
            ratio=share / asked,
            low=low,
            high=high,
            n=len(mine),
            seeds=tuple(seeds),
            versions=_versions(),
            target=1.0,
            better="higher",
        )

    return [
        row("choices within the budget per request", _KEPT, lambda made: made.feasible),
        row("bills within the total", 1.0, lambda made: made.over == 0),
    ]


def pruning(runs: Sequence[Run]) -> list[Row]:
    """Configurations tried per USD by the same search with and without pruning: how their ratio is distributed over runs."""
    pairs = _pairs(runs, ECO, UNPRUNED, lambda made: made.tried / made.billed if made.billed else 0.0)
    ratios = [(seed, a / b) for seed, a, b in pairs if b]
    if len(ratios) < 2:
        return []
    by_seed: dict[int, list[float]] = {}
    for seed, ratio in ratios:
        by_seed.setdefault(seed, []).append(ratio)
    _, low, high = ratio_of_medians([ratio for _, ratio in ratios], [1.0])
    first, middle, third = quantiles((ratio for _, ratio in ratios), n=4)
    shown = {"lower quartile": first, "median": middle, "upper quartile": third, "most": max(r for _, r in ratios)}
    return [
        Row(
            bench="tune_replay",
            case=f"{ECO}, all runs, {name}",
            metric="configurations tried per USD",
            unit="ratio of two runs",
            ours=value,
            peer=1.0,
            peer_name=UNPRUNED,
            ratio=value,
            low=low if name == "median" else value,
            high=high if name == "median" else value,
            n=len(ratios),
            seeds=tuple(by_seed),
            versions=_versions(),
            target=_PRUNING if name == "median" else None,
            better="higher",
        )
        for name, value in shown.items()
    ]


def sharing(runs: Sequence[Run]) -> Row:
    """Configurations scored per USD, all n read off one pool beside one configuration at a time."""
    pairs = _pairs(runs, POOL, ECO, lambda made: made.scored / made.billed if made.billed else 0.0)
    mine, theirs = [a for _, a, _ in pairs], [b for _, _, b in pairs]
    ratio, low, high = ratio_of_medians(mine, theirs)
    return Row(
        bench="tune_replay",
        case=f"{POOL}, all runs",
        metric="configurations scored per USD",
        unit="1/USD",
        ours=median(mine),
        peer=median(theirs),
        peer_name=ECO,
        ratio=ratio,
        low=low,
        high=high,
        n=len(pairs),
        seeds=tuple(sorted({seed for seed, _, _ in pairs})),
        versions=_versions(),
        target=_SHARING,
        better="higher",
    )


def table(runs: Sequence[Run]) -> str:
    """Markdown: mean scores by tuner and total, what of them the pool is ahead, choices over budget and money over totals."""
    totals = sorted({each.total for each in runs})
    present = {each.tuner for each in runs}
    names = [name for name in OURS if name in present]
    names += sorted(present - set(OURS) - set(REFERENCES), key=lambda name: -_mean(runs, name, totals[-1]))
    names += [name for name in REFERENCES if name in present]
    lines = [
        " | ".join(["| held-out score", *(f"{total:g} USD" for total in totals), "over budget |"]),
        "|---" * (len(totals) + 2) + "|",
    ]
    for name in names:
        mine = [each for each in runs if each.tuner == name]
        broken = sum(not each.feasible for each in mine)
        scores = [f"{_mean(runs, name, total):.3f}" for total in totals]
        lines.append(" | ".join([f"| {name}", *scores, f"{broken} of {len(mine)} |"]))
    for name in names if POOL in present else ():
        if name == POOL:
            continue
        gaps = []
        for total in totals:
            made = _row([each for each in runs if each.total == total], POOL, name, case="", metric="")
            gaps.append(f"{made.ours - made.peer:+.3f} [{made.low:+.3f}, {made.high:+.3f}]")
        lines.append(" | ".join([f"| {POOL} - {name}", *gaps, " |"]))
    most = max((each.over for each in runs if each.tuner in OURS), default=0.0)
    return "\n".join([*lines, "", f"Most that one of ours was billed above its total: {most:g} USD."])


def _target(ours: str, other: str, total: float) -> tuple[float | None, float | None]:
    """What is promised of a mean score beside another's: the ratio, and what the interval of the difference lies above."""
    if ours != POOL or other in (ECO, UNPRUNED):
        return None, None
    if other == FREE:
        return (1.0, None) if total == _FREE_AT else (None, None)
    if other == BEST:
        return (_BEST_SHARE, None) if total == _BEST_AT else (None, None)
    return 1.0, 0.0 if total >= _SURE_FROM else None


def _row(
    runs: Sequence[Run],
    ours: str,
    other: str,
    *,
    case: str,
    metric: str,
    target: float | None = None,
    above: float | None = None,
    better: Literal["lower", "higher"] = "higher",
) -> Row:
    mine, theirs = (_by_seed(runs, name, lambda made: made.score) for name in (ours, other))
    seeds = sorted(mine.keys() & theirs.keys())
    a, b = [mine[seed] for seed in seeds], [theirs[seed] for seed in seeds]
    _, low, high = paired_difference(a, b)
    left, right = fmean(a), fmean(b)
    return Row(
        bench="tune_replay",
        case=case,
        metric=metric,
        unit="score",
        ours=left,
        peer=right,
        peer_name=other,
        ratio=left / right if right else _ENDLESS if left else 1.0,
        low=low,
        high=high,
        n=len(seeds),
        seeds=tuple(seeds),
        versions=_versions(),
        target=target,
        better=better,
        above=above,
    )


def _pairs(runs: Sequence[Run], ours: str, other: str, of: Callable[[Run], float]) -> list[tuple[int, float, float]]:
    """(seed, ours, other's) of each case that both ran."""
    values = {(each.tuner, each.case): of(each) for each in runs}
    cases = [each.case for each in runs if each.tuner == ours]
    return [(case[0], values[ours, case], values[other, case]) for case in cases if (other, case) in values]


def _by_seed(runs: Iterable[Run], tuner: str, of: Callable[[Run], float]) -> dict[int, float]:
    values: dict[int, list[float]] = {}
    for each in runs:
        if each.tuner == tuner:
            values.setdefault(each.seed, []).append(of(each))
    return {seed: fmean(found) for seed, found in sorted(values.items())}


def _mean(runs: Iterable[Run], tuner: str, total: float) -> float:
    return fmean(each.score for each in runs if (each.tuner, each.total) == (tuner, total))


def _versions() -> dict[str, str]:
    return versions("numpy", "pyarrow")
