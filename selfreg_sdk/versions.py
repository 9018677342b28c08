"""What a stored version of a task's configuration says, as the facts policies decide on.

A tuned version stands under a key without a number of samples, ``TASK|MODEL|tuned``, because that number was tuned with the
rest: the record says how samples become the answer. ``TASK|*|tuned`` is the best one over all models.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from policies import Aggregation, Plan, PlanFact, TaskKey, TunedFact, parse_params
from selfreg_sdk.errors import ConfigError
from selfreg_sdk.store.configs import ConfigRecord

ANY_MODEL = "*"
"""In the place of the model: the winner over all."""

TOLD = ("ballot", "waves")
"""Parts of a version's provenance that say how it runs, beside its parameters."""


@lru_cache(maxsize=4096)
def tuned_key(task: str, model: str = ANY_MODEL) -> str:
    """The key under which the tuned versions of a task stand."""
    return f"{task}|{model}|tuned"


def plan_fact(stored: ConfigRecord | None) -> PlanFact | None:
    """The stored plan; None if the row does not hold one this version understands, so that it is planned anew."""
    if stored is None or not _planned(stored):
        return None
    try:
        return PlanFact(plan=Plan(**(stored.plan or {})), cached=True, config_version=stored.id)
    except (TypeError, ValueError):
        return None


def tuned_fact(stored: ConfigRecord | None, *, n: int | None = None) -> TunedFact | None:
    """The stored configuration; None if there is none that this version understands.

    Args:
        stored: the row.
        n: samples to take instead of those that were tuned; None leaves them.
    """
    if stored is None or _planned(stored):
        return None
    notes: dict[str, Any] = {name: stored.provenance[name] for name in TOLD if stored.provenance.get(name) is not None}
    try:
        params = parse_params(stored.params)
        if n is not None and (params.n or 1) != n:
            notes["tuned_n"], params = params.n, params.replace(n=n)
        return TunedFact(params=params, config_version=stored.id or 0, notes=notes)
    except ValueError:
        return None


def tuned_task(
    stored: ConfigRecord, *, model: str, named: str | None, asked: Aggregation | None, most: int
) -> TaskKey | None:
    """The task of a tuned version as it runs; None if it is not a tuned version of this task and model.

    Args:
        stored: the row.
        model: the answering model.
        named: the task that the request names; None takes the version's.
        asked: what the caller insists on; None takes what was tuned.
        most: samples that are allowed; 1 allows what was tuned.

    Raises:
        ConfigError: it was tuned for another model, or is a cascade of two.
    """
    task = stored.task_key.partition("|")[0]
    if named not in (None, task) or stored.task_key not in (tuned_key(task, stored.model), tuned_key(task)):
        return None
    if stored.provenance.get("cascade") is not None:
        raise ConfigError(
            f"config version {stored.id!r} of task {task!r} is a cascade of two models: ChatSelfReg.from_task({task!r}) runs it"
        )
    if stored.model != model:
        raise ConfigError(
            f"config version {stored.id!r} of task {task!r} was tuned for model {stored.model!r}, not for {model!r}; "
            f"pass model={stored.model!r}, or ChatSelfReg.from_task({task!r})"
        )
    try:
        how = asked or _bounded(Aggregation.parse(stored.aggregation), most)
    except ValueError:
        return None
    return TaskKey(task=task, explicit=True, model=model, aggregation=how)


def _bounded(tuned: Aggregation, most: int) -> Aggregation:
    return tuned if tuned.n <= most or most == 1 else Aggregation(kind=tuned.kind, n=most)


def _planned(stored: ConfigRecord) -> bool:
    return stored.provenance.get("kind") == "planned"
