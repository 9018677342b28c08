"""Tuners on recorded answers of real models: same problems, budgets and draws for all, scored on problems they did not see.

The exam comprehensive-100 of jhu_temperature is served on loopback (`bench.replay_endpoint`). A seed splits its 50 problems in
halves and orders the draws. A tuner gets one half, a mean USD that a request may cost and a total to spend; its choice is scored on the
other half, and scores 0 if its mean cost over all problems is more than 5 % above the budget per request. What was spent is
what the endpoint billed. Two references spend nothing: "free choice" is the argmax of the whole grid on the tuning problems, a
naive tuner's limit; "best on all" is the best feasible configuration when everything is known, the ceiling.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Literal

from platformdirs import user_cache_path

from bench import replay_data
from bench.paired import paired_difference
from bench.replay_client import Endpoint, serving
from bench.replay_scores import METRICS, Metric
from bench.replay_task import Budgets, Configuration, Tuner, nearest, offer, problems_of
from bench.replay_truth import Pick, Truth
from bench.rows import Row, versions
from bench.tune_peers import FLAML, flaml, random_search, tpe

REFERENCES = ("free choice", "best on all")
_FLAML_RUNS = (
    ("FLAML with pruning", True, False),
    ("FLAML with pruning, choice checked", True, True),
    ("FLAML without pruning", False, False),
)
_HERE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Which runs a measurement makes: all combinations."""

    seeds: tuple[int, ...] = tuple(range(20))
    per_request: tuple[Decimal, ...] = tuple(map(Decimal, (".001", ".002", ".004", ".008", ".03")))
    totals: tuple[Decimal, ...] = tuple(map(Decimal, (".5", "1", "3", "10")))
    metrics: tuple[Metric, ...] = METRICS

    def __iter__(self) -> Iterator[tuple[int, Metric, Budgets]]:
        """Seed, metric and budgets of each run."""
        for seed in self.seeds:
            for metric in self.metrics:
                for per_request in self.per_request:
                    for total in self.totals:
                        yield seed, metric, Budgets(per_request=per_request, total=total)


QUICK = Plan(seeds=(0, 1), per_request=(Decimal(".002"), Decimal(".004")), totals=(Decimal(1),))


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


def run(quick: bool, data: Path | None = None, ours: Sequence[Tuner] = ()) -> list[Row]:
    """Rows of each of ``ours`` beside each peer and reference; without the data folder a line on standard error, and none."""
    if reason := replay_data.missing(data):
        print(f"tune_replay is skipped: {reason}", file=sys.stderr)
        return []
    assert data is not None
    runs = measure(data, QUICK if quick else Plan(), ours=ours)
    names = [tuner.name for tuner in ours]
    peers = sorted({each.tuner for each in runs} - set(names))
    rows = [row for name in names for peer in peers for row in compare(runs, name, peer)]
    return rows + [
        row for name in names for peer in peers if peer not in REFERENCES for row in conduct(runs, name, peer)
    ]


def measure(data: Path, plan: Plan, *, ours: Sequence[Tuner] = (), cache: Path | None = None) -> list[Run]:
    """All runs of ours, the peers and the references.

    Peers decide by the seed alone, so their runs are kept in ``cache`` (default: the user's) and not repeated until the
    data or the code they run on changes. A peer that cannot be had here is left out, with a line on standard error.
    """
    cache = cache or user_cache_path("selfreg") / "bench"
    recorded = replay_data.load(data)
    truth = Truth(recorded)
    with ExitStack() as stack:
        endpoint = stack.enter_context(serving(data, offer(recorded)))
        peers: list[Tuner] = [random_search()]
        if by_optuna := tpe():
            peers.append(by_optuna)
        else:
            print("tune_replay goes without Optuna: pip install 'selfreg[bench]'", file=sys.stderr)
        try:
            for name, prune, checked in _FLAML_RUNS:
                peers.append(stack.enter_context(flaml(name, prune=prune, checked=checked, folder=cache)))
        except RuntimeError as error:
            print(f"tune_replay goes without FLAML: {error}", file=sys.stderr)
        kept = _Kept(cache / f"peers-{_digest(data)}.jsonl")
        threads = stack.enter_context(ThreadPoolExecutor(max_workers=len(peers) + 1))
        waiting = [threads.submit(_runs, [peer], plan, truth, endpoint, kept) for peer in peers]
        made = _runs(ours, plan, truth, endpoint, None)
        for each in waiting:
            made += each.result()
    return made + list(references(plan, truth))


def references(plan: Plan, truth: Truth) -> Iterator[Run]:
    """The two references' runs."""
    for seed, metric, budgets in plan:
        of, per_request = replay_data.split(truth.recorded, seed), float(budgets.per_request)
        picks = (truth.free_choice(per_request, metric, of), truth.best_on_all(per_request, metric))
        for name, pick in zip(REFERENCES, picks, strict=True):
            yield Run(
                tuner=name,
                seed=seed,
                metric=metric,
                per_request=per_request,
                total=float(budgets.total),
                score=truth.score(pick, per_request, metric, of.held_out),
                feasible=truth.keeps(pick, per_request),
            )


def judged(tuner: Tuner, seed: int, metric: Metric, budgets: Budgets, truth: Truth, endpoint: Endpoint) -> Run:
    """One run of a tuner, scored by the truth and charged by the endpoint."""
    of, per_request = replay_data.split(truth.recorded, seed), float(budgets.per_request)
    endpoint.reset(seed)
    found = tuner.tune(problems_of(truth.recorded, of.tuning.tolist()), budgets, metric, seed, endpoint)
    facts, billed = endpoint.facts(), endpoint.bill()
    pick = None if found.configuration is None else _pick(found.configuration, truth)
    return Run(
        tuner=tuner.name,
        seed=seed,
        metric=metric,
        per_request=per_request,
        total=float(budgets.total),
        score=truth.score(pick, per_request, metric, of.held_out),
        feasible=pick is not None and truth.keeps(pick, per_request),
        billed=float(billed),
        over=float(max(billed - budgets.total, Decimal(0))),
        tried=found.tried,
        scored=found.scored,
        requests=facts["requests"],
        chosen=asdict(found.configuration) if found.configuration else {},
    )


def compare(runs: Sequence[Run], ours: str, peer: str) -> list[Row]:
    """Ours beside a peer: a row per metric and total, the mean score over budgets per request, paired by seed."""
    return [
        _row(
            [each for each in runs if (each.metric, each.total) == (metric, total)],
            ours,
            peer,
            lambda made: made.score,
            case=f"{ours}, {total:g} USD",
            metric=f"held-out {metric}",
            unit="score",
            better="higher",
        )
        for metric, total in sorted({(each.metric, each.total) for each in runs})
    ]


def conduct(runs: Sequence[Run], ours: str, peer: str) -> list[Row]:
    """Ours beside a peer over all runs: budgets per request that were broken, totals overspent, and what a dollar buys."""

    def row(metric: str, unit: str, better: Literal["lower", "higher"], of: Callable[[Run], float]) -> Row:
        return _row(runs, ours, peer, of, case=f"{ours}, all runs", metric=metric, unit=unit, better=better)

    return [
        row("choices that break the budget per request", "share", "lower", lambda made: float(not made.feasible)),
        row("spent above the total", "USD", "lower", lambda made: made.over),
        row(
            "configurations scored per USD",
            "1/USD",
            "higher",
            lambda made: made.scored / made.billed if made.billed else 0,
        ),
    ]


def _row(
    runs: Sequence[Run],
    ours: str,
    peer: str,
    of: Callable[[Run], float],
    *,
    case: str,
    metric: str,
    unit: str,
    better: Literal["lower", "higher"],
) -> Row:
    """Means over seeds; a ratio to a peer's zero is 1 where ours is zero too, else 0."""
    mine, theirs = (_by_seed(runs, name, of) for name in (ours, peer))
    seeds = sorted(mine.keys() & theirs.keys())
    a, b = [mine[seed] for seed in seeds], [theirs[seed] for seed in seeds]
    _, low, high = paired_difference(a, b)
    left, right = sum(a) / len(a), sum(b) / len(b)
    return Row(
        bench="tune_replay",
        case=case,
        metric=metric,
        unit=unit,
        ours=left,
        peer=right,
        peer_name=peer,
        ratio=left / right if right else float(left == right),
        low=low,
        high=high,
        n=len(seeds),
        seeds=tuple(seeds),
        versions=versions("numpy", "pyarrow"),
        better=better,
    )


def summary(runs: Iterable[Run]) -> list[dict[str, object]]:
    """Per tuner, metric and total: means over seeds and budgets per request, the share of broken budgets, money over."""
    groups: dict[tuple[str, str, float], list[Run]] = {}
    for each in runs:
        groups.setdefault((each.metric, each.tuner, each.total), []).append(each)
    return [
        {
            "metric": metric,
            "tuner": tuner,
            "total": total,
            "score": round(sum(each.score for each in group) / len(group), 4),
            "infeasible": round(sum(not each.feasible for each in group) / len(group), 4),
            "billed": round(sum(each.billed for each in group) / len(group), 4),
            "most_over": round(max(each.over for each in group), 4),
            "tried": sum(each.tried for each in group) / len(group),
            "scored": sum(each.scored for each in group) / len(group),
            "requests": sum(each.requests for each in group) / len(group),
            "runs": len(group),
        }
        for (metric, tuner, total), group in sorted(groups.items())
    ]


class _Kept:
    """Runs of peers on disk, a JSON line each."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self._runs = {_name(made): made for made in (Run(**json.loads(line)) for line in lines)}

    def get(self, name: tuple[object, ...]) -> Run | None:
        return self._runs.get(name)

    def add(self, made: Run) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(asdict(made)) + "\n")


def _runs(tuners: Sequence[Tuner], plan: Plan, truth: Truth, endpoint: Endpoint, kept: _Kept | None) -> list[Run]:
    made = []
    for tuner in tuners:
        with closing(endpoint.another(hashlib.sha256(tuner.name.encode()).hexdigest()[:8])) as own:
            for seed, metric, budgets in plan:
                name = (tuner.name, seed, metric, float(budgets.per_request), float(budgets.total))
                known = kept.get(name) if kept else None
                if known is None:
                    known = judged(tuner, seed, metric, budgets, truth, own)
                    if kept:
                        kept.add(known)
                made.append(known)
    return made


def _name(made: Run) -> tuple[object, ...]:
    return (made.tuner, made.seed, made.metric, made.per_request, made.total)


def _pick(chosen: Configuration, truth: Truth) -> Pick:
    cells = truth.recorded.cells
    grid = [cell[2] for cell in cells if cell[:2] == (chosen.model, chosen.prompt)]
    at = cells.index((chosen.model, chosen.prompt, nearest(grid, chosen.temperature)))
    return Pick(cell=at, n=chosen.n, max_tokens=chosen.max_tokens)


def _by_seed(runs: Sequence[Run], tuner: str, of: Callable[[Run], float]) -> dict[int, float]:
    values: dict[int, list[float]] = {}
    for each in runs:
        if each.tuner == tuner:
            values.setdefault(each.seed, []).append(of(each))
    return {seed: sum(found) / len(found) for seed, found in values.items()}


def _digest(data: Path) -> str:
    """Of everything that peers' runs depend on."""
    found = hashlib.sha256(" ".join((*FLAML, str(sorted(versions("numpy").items())))).encode())
    code = sorted((*_HERE.glob("replay_*.py"), _HERE / "flaml_runner.py", _HERE / "tune_peers.py"))
    for path in (*code, *sorted((data / replay_data.FOLDER).iterdir())):
        found.update(path.read_bytes())
    return found.hexdigest()[:12]
