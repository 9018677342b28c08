"""The cascade that a finished search of method "pool" leads to, in the words of results: read off its samples, nothing is bought."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import numpy as np

from policies import Capabilities
from selfreg_sdk.tuner.cascade.config import CascadeCandidate, CascadeConfig, Stage
from selfreg_sdk.tuner.cascade.pairs import Doubt, best_cascade
from selfreg_sdk.tuner.cascade.stages import SIZES, First, Recorded, Second, stages
from selfreg_sdk.tuner.pool.cells import Cells, sendable
from selfreg_sdk.tuner.pool.method import PoolSearch
from selfreg_sdk.tuner.scoring.metrics import Metric
from selfreg_sdk.tuner.study.searched import aggregation_of
from selfreg_sdk.tuner.task.filters import Filter


def find_cascade(
    search: PoolSearch,
    samples: Recorded,
    cells: Cells,
    metric: Metric,
    gate: Filter,
    capabilities: Mapping[str, Capabilities],
    *,
    budget: float | None = None,
    doubt: Doubt | None = None,
    seed: int = 0,
) -> CascadeCandidate | None:
    """The cascade that is better than the best single configuration; None where none has shown that.

    CPU work of seconds, and the calls of the filter: not for event loops. The same pool and seed give the same cascade, if
    the filter gives the same verdicts.

    Args:
        search: after its end.
        samples: what it bought.
        cells: of the task.
        metric: of the task.
        gate: the filter.
        capabilities: model to what it accepts.
        budget: USD that a request may cost on average; None is the search's.
    """
    winner = search.best(budget)
    # Samples of other views were never drawn; where the plain one may not be used there is nothing to read.
    if winner is None or not cells.views[0].offered:
        return None
    doubt, task = doubt or Doubt(), search.task
    sizes = {n for n in (*SIZES, winner.n) if n <= task.top and n in (task.sizes or (n,))}
    names = [str(config["prompt"]) for config in cells.configs]
    prompts = np.unique(names, return_inverse=True)[1]
    reading = stages(
        task,
        samples,
        metric,
        gate,
        prompts,
        search.expected,
        sizes=sizes,
        least=doubt.common,
        band=doubt.band,
        single=(winner.cell, winner.n),
        seed=seed,
    )
    firsts, seconds = asyncio.run(reading)
    caution = search.method.caution
    found = best_cascade(task, firsts, seconds, winner, budget=budget, caution=caution, doubt=doubt, seed=seed)
    if found is None:
        return None

    def stage(one: First | Second) -> Stage:
        config = {**cells.configs[one.cell], **cells.views[0].settings()}
        sent = sendable(config, capabilities[config["model"]])
        return Stage.of({"model": config["model"], **sent}, aggregation_of(metric, one.n))

    return CascadeCandidate(
        config=CascadeConfig(first=stage(found.first), second=stage(found.second), gate=gate.at(found.first.level)),
        prompt=names[found.first.cell],
        expected=found.expected,
    )
