"""Method "pool" on the journal of a study."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from selfreg_sdk.tuner.cascade.config import CascadeCandidate
from selfreg_sdk.tuner.journal.doors import Doors
from selfreg_sdk.tuner.pool.cells import cells_of, sendable
from selfreg_sdk.tuner.pool.frontier import FrontierPoint, at, by_label, frontier
from selfreg_sdk.tuner.pool.method import Asking, PoolSearch
from selfreg_sdk.tuner.pool.samples import Purchases, Samples
from selfreg_sdk.tuner.pool.task import Fate, PoolTask, Request
from selfreg_sdk.tuner.scoring.scoring import Scoring
from selfreg_sdk.tuner.search.trials import Ending
from selfreg_sdk.tuner.study.cascade_search import find_cascade
from selfreg_sdk.tuner.study.plan import Plan
from selfreg_sdk.tuner.study.results import Candidate
from selfreg_sdk.tuner.study.searched import Searched, SoFar, Tell, aggregation_of
from selfreg_sdk.tuner.study.task_scoring import span_of
from selfreg_sdk.tuner.task.filters import Filter

T = TypeVar("T")


class PoolRun:
    """One search.

    The search itself is CPU work of up to seconds and runs in a thread; purchases are awaited on the loop.

    Args:
        plan: what is tuned.
        journal: of the study.
        doors: to the models, as they are known now.
        scoring: of the task.
    """

    def __init__(self, plan: Plan, journal: Purchases, doors: Doors, scoring: Scoring) -> None:
        self._plan = plan
        self._capabilities = {model: doors[model].capabilities for model in plan.spec.models}
        self.cells = cells_of(plan.task.space, plan.task.prompts, self._capabilities)
        rates = self.cells.rates(doors.prices)
        low, high = span = span_of(plan.task, plan.scorer) or (0.0, 1.0)
        alone = {model: _prompt_in_answers(doors, model) for model in plan.spec.models if not doors[model].takes_n}
        self.samples = Samples(
            journal,
            self.cells,
            plan.examples,
            plan.messages,
            plan.metric,
            alone=alone,
            span=None if plan.metric.rate else span,
            rule=scoring if plan.task.rule is not None and plan.scorer is None else None,
            parallel=plan.workers,
        )
        counted = self.cells.counted(plan.messages)
        counted[[config["model"] in alone for config in self.cells.configs]] = 0.0
        self.task = PoolTask(
            grid=self.cells.grid,
            counted=counted,
            rates=rates,
            top=self.cells.sizes[-1],
            sizes=self.cells.sizes,
            # Where a request may cost anything, the total is what none can exceed.
            budget=float(plan.search_total if plan.inference_budget is None else plan.inference_budget),
            total=float(plan.search_total),
            mode=plan.metric.mode,
            low=low,
            high=high,
        )
        asked = plan.spec.cascade
        # What it names is loaded now: nothing is spent where that fails.
        self._gate = None if asked is None else Filter(asked.filter, folder=plan.task.folder)
        seen = self.samples if len(self.cells.views) > 1 else None
        self.search = PoolSearch(self.task, self.samples, seed=plan.spec.seed, parallel=plan.workers, seen=seen)

    async def run(self, tell: Tell) -> Searched:
        """Search until nothing affordable is left to learn.

        Raises:
            SpaceNarrowed: a model refused a setting; what was bought is in the journal.
            SelfregError: an endpoint is out of reach.
        """
        asking, fates = self.search.asking(), None
        try:
            while (requests := await _in_thread(_next, asking, fates)) is not None:
                fates = await self.samples.abuy(requests)
                best = await _in_thread(self._best) if tell.curious else None
                tell(self._so_far(best))
        finally:
            asking.close()
        return await _in_thread(self._found)

    def _found(self) -> Searched:
        labels = [str(config["model"]) for config in self.cells.configs]
        best = by_label(self.search, labels, seconds=self.samples.times)
        return Searched(
            winner=self._best(),
            per_model={model: self.candidate(point) for model, point in best.items() if point is not None},
            frontier=tuple(self.candidate(point) for point in frontier(self.search, seconds=self.samples.times)),
            ending=self._ending(),
            configurations=self._configurations(),
            spent=self.samples.paid,
            cascade=self._cascade(),
            notes=(*self.cells.notes, *self._failures()),
        )

    def candidate(self, point: FrontierPoint) -> Candidate:
        """A configuration as it is sent, with what is known of it."""
        winner = point.winner
        config = {**self.cells.configs[winner.cell], **self.cells.views[winner.view].settings()}
        sent = sendable(config, self._capabilities[config["model"]])
        return Candidate(
            config={"model": config["model"], "prompt": config["prompt"], **sent, "n": winner.n},
            aggregation=aggregation_of(self._plan.metric, winner.n),
            # The surface knows no ends.
            score=min(max(winner.score, self.task.low), self.task.high),
            low=point.low,
            high=point.high,
            cost=winner.cost,
            cost_low=point.cost_low,
            cost_high=point.cost_high,
            keep=winner.keep,
            seconds=point.seconds,
            examples=int((self.samples.taken[winner.cell] > 0).sum()),
            budget=point.budget,
        )

    def _cascade(self) -> CascadeCandidate | None:
        if self._gate is None:
            return None
        metric, seed = self._plan.metric, self._plan.spec.seed
        return find_cascade(self.search, self.samples, self.cells, metric, self._gate, self._capabilities, seed=seed)

    def _best(self) -> Candidate | None:
        best = at(self.search, self.task.budget, seconds=self.samples.times)
        return None if best is None else self.candidate(best)

    def _so_far(self, best: Candidate | None) -> SoFar:
        return SoFar(
            spent=self.samples.paid,
            requests=self.samples.requests,
            samples=self.samples.drawn,
            configurations=self._configurations(),
            best=best,
        )

    def _configurations(self) -> int:
        """(cell, n) with at least one example read n times; smaller n and views come for free."""
        most = self.samples.taken.max(axis=1)
        return int(sum((np.array(self.cells.sizes)[None, :] <= most[:, None]).sum(axis=1)))

    def _failures(self) -> list[str]:
        samples = self.samples
        if not samples.failed:
            return []
        return [f"{samples.failed} of {samples.requests} requests failed, the last one: {samples.last_failure}"]

    def _ending(self) -> Ending:
        left = self.task.total - self.samples.spent
        every = np.arange(len(self.cells.configs))
        cheapest = self.samples.worst(every, np.zeros_like(every), np.ones_like(every)).min()
        return "budget" if self.samples.refused or cheapest > left else "space"


def _prompt_in_answers(doors: Doors, model: str) -> float:
    """What a prompt token costs in answer tokens."""
    price = doors[model].price
    return float(price.input_per_token / price.output_per_token) if price.output_per_token else 0.0


def _next(asking: Asking, fates: Sequence[Fate] | None) -> tuple[Request, ...] | None:
    """The next requests; None at the end."""
    try:
        return next(asking) if fates is None else asking.send(fates)
    except StopIteration:
        return None


async def _in_thread(work: Callable[..., T], *arguments: Any) -> T:
    """Do CPU work beside the loop; whoever is cancelled meanwhile waits for its end, as nothing else may touch it before."""
    task = asyncio.ensure_future(asyncio.to_thread(work, *arguments))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise
