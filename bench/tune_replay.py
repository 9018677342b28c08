"""Tuners on recorded answers of real models: same problems, budgets and draws for all, scored on problems they did not see.

The exam comprehensive-100 of jhu_temperature is served on loopback (`bench.replay_endpoint`). A seed splits its 50 problems in
halves and orders the draws. A tuner gets one half, a mean USD that a request may cost and a total to spend; its choice is scored on the
other half, and scores 0 if its mean cost over all problems is more than 5 % above the budget per request. What was spent is
what the endpoint billed. Two references spend nothing: "free choice" is the argmax of the whole grid on the tuning problems, a
naive tuner's limit; "best on all" is the best feasible configuration when everything is known, the ceiling.

All of it is 20 splits of the problems, 5 budgets per request, 4 totals and 2 metrics for each of ours and of the peers. Peers take
hours and are kept; ours are measured anew.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import Path
from typing import NoReturn

from platformdirs import user_cache_path

from bench import replay_data, tune_rows
from bench.replay_client import Endpoint, serving
from bench.replay_scores import METRICS, Metric
from bench.replay_task import Budgets, Configuration, Tuner, nearest, offer, problems_of
from bench.replay_truth import Pick, Truth
from bench.rows import Row, versions
from bench.tune_ours import ours as all_of_ours
from bench.tune_peers import FLAML, flaml, random_search, tpe
from bench.tune_rows import BEST, FREE, Run

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


QUICK = Plan(seeds=(0, 1), per_request=(Decimal(".004"),), totals=(Decimal(1),))


def run(quick: bool, data: Path | None = None, *, jobs: int | None = None, keep: Path | None = None) -> list[Row]:
    """Rows of ours beside peers and references (see `runs`)."""
    return tune_rows.rows(runs(quick, data, jobs=jobs, keep=keep))


def runs(quick: bool, data: Path | None = None, *, jobs: int | None = None, keep: Path | None = None) -> list[Run]:
    """The runs of the full or the quick plan; without the data folder a line on standard error, and none.

    Args:
        quick: of the peers that take minutes, those runs alone that were kept.
        jobs: processes of ours; default: as many as there are cores.
        keep: a file that keeps our runs too, to go on where a measurement was stopped. Nothing tells it that our code
            has changed: for one state of the code alone.
    """
    if reason := replay_data.missing(data):
        print(f"tune_replay is skipped: {reason}", file=sys.stderr)
        return []
    assert data is not None
    plan = QUICK if quick else Plan()
    return measure(data, plan, ours=all_of_ours(), jobs=jobs or os.cpu_count() or 1, keep=keep, patient=not quick)


def measure(
    data: Path,
    plan: Plan,
    *,
    ours: Sequence[Tuner] = (),
    jobs: int = 1,
    cache: Path | None = None,
    keep: Path | None = None,
    patient: bool = True,
) -> list[Run]:
    """All runs of ours, the peers and the references.

    Peers decide by the seed alone, so their runs are kept in ``cache`` (default: the user's) and not repeated until the
    data or the code they run on changes. A peer that cannot be had here is left out, with a line on standard error.

    Args:
        ours: picklable.
        jobs: processes for ours; with 1 they run in this one.
        keep: as `runs`.
        patient: whether FLAML is waited for where a run of it was not kept.
    """
    cache = cache or user_cache_path("selfreg") / "bench"
    recorded = replay_data.load(data)
    truth = Truth(recorded)
    with ExitStack() as stack:
        endpoint = stack.enter_context(serving(data, offer(recorded)))
        kept = _Kept(cache / f"peers-{_digest(data)}.jsonl")
        peers: list[Tuner] = [random_search()]
        if by_optuna := tpe():
            peers.append(by_optuna)
        else:
            print("tune_replay goes without Optuna: pip install 'selfreg[bench]'", file=sys.stderr)
        for name, prune, checked in _FLAML_RUNS:
            if kept.has_all(name, plan):
                peers.append(_Done(name))
                continue
            if not patient:
                print(f"--quick goes without {name}: it takes minutes, and not all its runs were kept", file=sys.stderr)
                continue
            try:
                peers.append(stack.enter_context(flaml(name, prune=prune, checked=checked, folder=cache)))
            except RuntimeError as error:
                print(f"tune_replay goes without {name}: {error}", file=sys.stderr)
        threads = stack.enter_context(ThreadPoolExecutor(max_workers=len(peers)))
        waiting = [threads.submit(_runs, [peer], plan, truth, endpoint, kept) for peer in peers]
        mine = _Kept(keep)
        one = jobs == 1
        made = _runs(ours, plan, truth, endpoint, mine) if one else _by_processes(ours, plan, data, jobs, mine)
        for each in waiting:
            made += each.result()
    return made + list(references(plan, truth))


def references(plan: Plan, truth: Truth) -> Iterator[Run]:
    """The two references' runs."""
    for seed, metric, budgets in plan:
        of, per_request = replay_data.split(truth.recorded, seed), float(budgets.per_request)
        picks = {
            FREE: truth.free_choice(per_request, metric, of),
            BEST: truth.best_on_all(per_request, metric),
        }
        for name, pick in picks.items():
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


Case = tuple[str, int, Metric, float, float]
"""Whose run it is, and about what: tuner, seed, metric, per request, total."""


class _Kept:
    """Runs on disk, a JSON line each; without a path in memory alone."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._runs: dict[Case, Run] = {}
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        for line in path.read_text().splitlines() if path.exists() else []:
            made = Run(**json.loads(line))
            self._runs[(made.tuner, *made.case)] = made

    def get(self, case: Case) -> Run | None:
        return self._runs.get(case)

    def has_all(self, tuner: str, plan: Plan) -> bool:
        return all(_case(tuner, *each) in self._runs for each in plan)

    def add(self, made: Run) -> None:
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(json.dumps(asdict(made)) + "\n")


@dataclass
class _Done:
    """A tuner whose runs are all known."""

    name: str

    def tune(self, *_: object) -> NoReturn:
        raise AssertionError(f"{self.name} was to be looked up")


def _runs(tuners: Sequence[Tuner], plan: Plan, truth: Truth, endpoint: Endpoint, kept: _Kept) -> list[Run]:
    made = []
    for tuner in tuners:
        with closing(endpoint.another(hashlib.sha256(tuner.name.encode()).hexdigest()[:8])) as own:
            for case in plan:
                known = kept.get(_case(tuner.name, *case))
                if known is None:
                    known = judged(tuner, *case, truth, own)
                    kept.add(known)
                made.append(known)
    return made


def _by_processes(ours: Sequence[Tuner], plan: Plan, data: Path, jobs: int, kept: _Kept) -> list[Run]:
    """`_runs` in so many processes, each with an endpoint of its own."""
    wanted = [(tuner, *case) for case in plan for tuner in ours]
    cases = [_case(tuner.name, *case) for case in plan for tuner in ours]
    known = {at: made for at, case in enumerate(cases) if (made := kept.get(case))}
    missing = [at for at in range(len(wanted)) if at not in known]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=spawn, initializer=_begin, initargs=(data,)) as workers:
        for at, made in zip(missing, workers.map(_one, [wanted[at] for at in missing]), strict=True):
            kept.add(made)
            known[at] = made
    return [known[at] for at in range(len(wanted))]


_own: tuple[Truth, Endpoint]
"""What a process that runs ours works with."""


def _begin(data: Path) -> None:
    global _own
    recorded = replay_data.load(data)
    stack = ExitStack()
    atexit.register(stack.close)
    _own = Truth(recorded), stack.enter_context(serving(data, offer(recorded)))


def _one(wanted: tuple[Tuner, int, Metric, Budgets]) -> Run:
    return judged(*wanted, *_own)


def _case(tuner: str, seed: int, metric: Metric, budgets: Budgets) -> Case:
    return tuner, seed, metric, float(budgets.per_request), float(budgets.total)


def _pick(chosen: Configuration, truth: Truth) -> Pick:
    cells = truth.recorded.cells
    grid = [cell[2] for cell in cells if cell[:2] == (chosen.model, chosen.prompt)]
    at = cells.index((chosen.model, chosen.prompt, nearest(grid, chosen.temperature)))
    return Pick(cell=at, n=chosen.n, max_tokens=chosen.max_tokens)


def _digest(data: Path) -> str:
    """Of everything that peers' runs depend on."""
    found = hashlib.sha256(" ".join((*FLAML, str(sorted(versions("numpy").items())))).encode())
    code = sorted((*_HERE.glob("replay_*.py"), _HERE / "flaml_runner.py", _HERE / "tune_peers.py"))
    for path in (*code, *sorted((data / replay_data.FOLDER).iterdir())):
        found.update(path.read_bytes())
    return found.hexdigest()[:12]
