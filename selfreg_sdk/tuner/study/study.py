"""A study: a tuning with a name, which can be taken up again by anybody who asks for the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

from selfreg_sdk.errors import ConfigError
from selfreg_sdk.store.studies import Studies, StudyRecord
from selfreg_sdk.tuner.examples.examples import Example
from selfreg_sdk.tuner.study.plan import Plan

_FORMAT = 1
_FREE = frozenset({"budget", "workers", "searcher"})
"""What may differ when a study is taken up again: more money, and what stays the study's whatever is asked for."""


def spec_of(plan: Plan, endpoint: str) -> dict[str, Any]:
    """Everything that decides what a study proposes, as JSON; no keys, and no text of an example.

    Args:
        endpoint: where the models answer, without secrets.
    """
    spec = plan.spec
    written = {
        "format": _FORMAT,
        "task": spec.name,
        "method": plan.method,
        "seed": spec.seed,
        "workers": plan.workers,
        "searcher": plan.searcher if plan.method == "ecooptigen" else None,
        "budget": str(plan.total),
        "inference_budget": None if plan.inference_budget is None else str(plan.inference_budget),
        "endpoint": endpoint,
        "models": spec.models,
        "prompts": {prompt.name: prompt.messages for prompt in plan.task.prompts},
        "space": spec.varied.model_dump(mode="json", exclude_none=True),
        "metric": spec.metric.model_dump(mode="json", by_alias=True),
        "scorer": None if plan.scorer is None else _named(plan.scorer),
        "baseline": spec.baseline.model_dump(mode="json", exclude_none=True),
        "cascade": None if spec.cascade is None else spec.cascade.model_dump(mode="json", by_alias=True),
        "answer": spec.answer,
        "holdout": spec.holdout,
        "test": spec.test,
        "examples": fingerprint(plan.task.examples),
    }
    return dict(json.loads(json.dumps(written, allow_nan=False)))


def fingerprint(examples: tuple[Example, ...]) -> str:
    """What a set of examples says, whatever their order."""
    said = sorted((example.id, example.fingerprint) for example in examples)
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def open_study(studies: Studies, plan: Plan, endpoint: str, *, resume: bool | None) -> tuple[StudyRecord, Plan]:
    """The study of the plan's name, and the plan as the study goes on with it.

    Args:
        resume: True requires a study that was begun; False refuses one; None takes what there is.

    Raises:
        ConfigError: a study of this name was begun with something else, or there is one, or none, against ``resume``.
    """
    spec = spec_of(plan, endpoint)
    known = studies.find(plan.study)
    if resume is True and known is None:
        studies.get(plan.study)  # raises, naming those there are
    if resume is False and known is not None:
        raise ConfigError(
            f"study {plan.study!r} exists; leave resume out to go on with it, or give another name=, which starts anew"
        )
    record = known or studies.ensure(plan.study, task_key=plan.spec.name, spec=spec, seed=plan.spec.seed)
    if differing := [key for key in spec if key not in _FREE and record.spec.get(key) != spec[key]]:
        raise ConfigError(
            f"study {plan.study!r} was begun with another {' and another '.join(differing)} "
            f"({'; '.join(_change(key, record.spec, spec) for key in differing)}); give name= for a study of its own, or "
            f"take the change back to go on with this one"
        )
    begun = Decimal(str(record.spec["budget"]))
    if plan.total < begun:
        raise ConfigError(
            f"study {plan.study!r} was begun with a budget of {begun} USD, some of which may be spent; it can be raised, not "
            f"lowered to {plan.total} USD"
        )
    if plan.total > begun:
        # It has not come to its end then, whatever it came to before.
        studies.update(record.id, spec={**record.spec, "budget": str(plan.total)}, state="running")
    # With another number of calls in flight, or another searcher, another search would be made: the study's own count.
    plan = replace(plan, workers=int(record.spec["workers"]))
    return record, plan if plan.method != "ecooptigen" else replace(plan, searcher=record.spec["searcher"])


def _named(scorer: object) -> str:
    function = getattr(scorer, "func", scorer)  # of a partial
    return f"{getattr(function, '__module__', '')}:{getattr(function, '__qualname__', type(function).__name__)}"


def _change(key: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    if key == "examples":
        return "the examples say something else"
    return f"{key}: {_shown(old.get(key))} before, {_shown(new[key])} now"


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:117]}..."
