"""How much sooner a search ends with many calls in flight: method "pool" with 32 workers beside one, same total.

The replay endpoint makes every answer 200 ms late, and the store lies on the disk and is synced, as users' stores are. Searches with one
worker wait nine tenths of their time, so a few of them run at once; those with many run alone, one after another.

A search with many workers decides in larger steps and buys a little else, so what is compared is money spent per second. The
less there is to spend, the fewer calls are known to be worth making before the answers to the first are there.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from statistics import median

from bench import replay_data
from bench.replay_client import Endpoint, serving
from bench.replay_data import Recorded
from bench.replay_scores import METRICS, Metric
from bench.replay_task import Budgets, offer, problems_of
from bench.rows import Row, ratio_of_medians, versions
from bench.tune_ours import Ours
from bench.tune_rows import POOL

LATENCY = 0.2
WORKERS = 32
_SLOW_AT_ONCE = 4
"""Of the searches with one worker: more would wait for each other's computing too, which would flatter the many workers."""
_TARGET, _TARGET_FROM = 15.0, Decimal(3)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What is searched: all combinations at each total."""

    totals: tuple[Decimal, ...] = (Decimal(1), Decimal(3), Decimal(10))
    seeds: tuple[int, ...] = (0, 1, 2)
    metrics: tuple[Metric, ...] = METRICS
    per_request: Decimal = Decimal(".004")


QUICK = Sizes(totals=(Decimal(".5"),), seeds=(0,), metrics=("vote",))


@dataclass(frozen=True, kw_only=True)
class _Case:
    workers: int
    total: Decimal
    seed: int
    metric: Metric


def run(quick: bool, data: Path | None = None) -> list[Row]:
    """A row per total; without the data folder a line on standard error, and none."""
    if reason := replay_data.missing(data):
        print(f"tune_speed is skipped: {reason}", file=sys.stderr)
        return []
    assert data is not None
    return measure(data, QUICK if quick else Sizes())


def measure(data: Path, sizes: Sizes, *, latency: float = LATENCY) -> list[Row]:
    """A row per total, the smallest first."""
    recorded = replay_data.load(data)
    with serving(data, offer(recorded)) as endpoint:

        def rate(case: _Case) -> float:
            return _rate(case, sizes.per_request, recorded, endpoint, latency)

        def cases(workers: int) -> list[_Case]:
            return [
                _Case(workers=workers, total=total, seed=seed, metric=metric)
                for total in sizes.totals
                for seed in sizes.seeds
                for metric in sizes.metrics
            ]

        with ThreadPoolExecutor(max_workers=_SLOW_AT_ONCE) as threads:
            slow = list(threads.map(rate, cases(1)))
        fast = [rate(case) for case in cases(WORKERS)]
    many = len(sizes.seeds) * len(sizes.metrics)
    return [
        _row(total, sizes, fast[at * many : (at + 1) * many], slow[at * many : (at + 1) * many])
        for at, total in enumerate(sizes.totals)
    ]


def _rate(case: _Case, per_request: Decimal, recorded: Recorded, endpoint: Endpoint, latency: float) -> float:
    """USD per second of one search."""
    tuner = Ours(name=POOL, method="pool", workers=case.workers, durable=True)
    problems = problems_of(recorded, replay_data.split(recorded, case.seed).tuning.tolist())
    budgets = Budgets(per_request=per_request, total=case.total)
    with closing(endpoint.another(f"{case.workers}-{case.total}-{case.seed}-{case.metric}")) as own:
        own.reset(case.seed, latency=latency)
        began = time.perf_counter()
        tuner.tune(problems, budgets, case.metric, case.seed, own)
        return float(own.bill()) / (time.perf_counter() - began)


def _row(total: Decimal, sizes: Sizes, fast: Sequence[float], slow: Sequence[float]) -> Row:
    ratio, low, high = ratio_of_medians(fast, slow)
    return Row(
        bench="tune_speed",
        case=f"{POOL}, {total} USD in all, {WORKERS} workers, {LATENCY * 1000:g} ms a call",
        metric="spent per second of wall time",
        unit="USD/s",
        ours=median(fast),
        peer=median(slow),
        peer_name="1 worker",
        ratio=ratio,
        low=low,
        high=high,
        n=len(fast),
        seeds=sizes.seeds,
        versions=versions("numpy", "aiohttp"),
        target=_TARGET if total >= _TARGET_FROM else None,
        better="higher",
    )
