"""What a tuning is going to do: the task with everything that the caller decided about it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from selfreg_sdk.errors import ConfigError
from selfreg_sdk.money import usd
from selfreg_sdk.tuner.examples.examples import Example
from selfreg_sdk.tuner.measuring.verdict import LEAST
from selfreg_sdk.tuner.scoring.metrics import Metric
from selfreg_sdk.tuner.scoring.scoring import Scorer
from selfreg_sdk.tuner.search.dimensions import Choice, Int, Point
from selfreg_sdk.tuner.search.searchers import SearcherName
from selfreg_sdk.tuner.task.file import Task, load_task, parse_task
from selfreg_sdk.tuner.task.spec import Method, TaskSpec

CHECK_SHARE = Decimal("0.2")
"""Of the total, at most so much is kept for the check on held-out examples."""
CHECK_TIMES = 3
"""As many requests at the budget of a request are kept for each held-out example: one of the winner, one of the baseline, and
room, as what is in flight is held at its worst case."""

AnyTask = Task | Path | str | Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A tuning before its first call.

    Attributes:
        task: with the method and the seed that count.
        study: name of the study.
        total: USD that all of it may cost.
        inference_budget: USD that a request may cost on average; None lets a request cost anything.
        workers: calls in flight at once.
        scorer: a function in place of the task's scorer.
        searcher: who proposes for method "ecooptigen".
    """

    task: Task
    study: str
    total: Decimal
    inference_budget: Decimal | None
    workers: int
    scorer: Scorer | None = None
    searcher: SearcherName = "auto"

    @property
    def spec(self) -> TaskSpec:
        """The task as written."""
        return self.task.spec

    @property
    def method(self) -> Method:
        """How it is searched."""
        return self.spec.method

    @property
    def examples(self) -> tuple[Example, ...]:
        """What is searched on."""
        return self.task.split.search

    @property
    def held_out(self) -> tuple[Example, ...]:
        """What winner and baseline are checked on."""
        return self.task.split.holdout

    @cached_property
    def metric(self) -> Metric:
        """What samples are worth."""
        return self.spec.metric.metric()

    @cached_property
    def aside(self) -> Decimal:
        """USD of the total that the search leaves for the check: `CHECK_TIMES` the budget of a request for each held-out
        example, but no more than `CHECK_SHARE` of the total."""
        most = self.total * CHECK_SHARE
        if not self.held_out:
            return Decimal(0)
        if self.inference_budget is None:
            return most
        return min(most, CHECK_TIMES * len(self.held_out) * self.inference_budget)

    @property
    def search_total(self) -> Decimal:
        """USD that the search may cost."""
        return self.total - self.aside

    @cached_property
    def messages(self) -> dict[str, list[list[dict[str, str]]]]:
        """Prompt name to the filled-in messages of the examples that are searched on."""
        return {prompt.name: [prompt.render(each) for each in self.examples] for prompt in self.task.prompts}

    @property
    def notes(self) -> tuple[str, ...]:
        """What to know before it begins."""
        if not self.held_out:
            return ("no example is held out, so nothing will show whether the winner beats the baseline",)
        if len(self.held_out) < LEAST:
            few = f"only {len(self.held_out)} examples are held out, too few to show that the winner beats the baseline"
            return (f"{few}; give at least {LEAST}, better 30",)
        return ()

    @property
    def baseline(self) -> Point:
        """The configuration to beat, in full: without n one sample, without a cap the longest of the space."""
        given = self.spec.baseline
        caps = self.task.space["max_tokens"]
        longest = caps.high if isinstance(caps, Int) else max(caps.values) if isinstance(caps, Choice) else None
        return {
            "model": given.model or self.spec.models[0],
            "prompt": given.prompt or self.task.prompts[0].name,
            "max_tokens": longest,
            **given.params().as_dict(),
            "n": given.n or 1,
        }


def plan(
    task: AnyTask,
    *,
    budget: str | int | Decimal | None = None,
    inference_budget: str | int | Decimal | None = None,
    method: Method | None = None,
    seed: int | None = None,
    workers: int | None = None,
    name: str | None = None,
    scorer: Scorer | None = None,
) -> Plan:
    """What a tuning is going to do; what is None is as the task says.

    Raises:
        ConfigError: the task is wrong, or there is no total; for "ecooptigen", no budget of a request.
    """
    read = _read(task)
    changes = {"method": method, "seed": seed, "workers": workers}
    given = {key: value for key, value in changes.items() if value is not None}
    if given:
        written = {field: getattr(read.spec, field) for field in read.spec.model_fields_set}
        # Checked as if they stood in the task.
        spec = TaskSpec.model_validate({**written, **given})
        read = replace(read, spec=spec)
    total = read.spec.budget if budget is None else usd(budget)
    if total is None:
        raise ConfigError(
            f"task {read.spec.name!r}: nothing says what the tuning may cost in all; give budget='0.30 USD', or write "
            f"'budget: 0.30 USD' into the task"
        )
    if not total > 0:
        raise ConfigError(
            f"budget={total} USD buys nothing; give more than 0. Where every call is free, write prices for the model into a "
            f"prices file: made-up ones do, as they weigh long answers against short ones"
        )
    per_request = read.spec.inference_budget if inference_budget is None else usd(inference_budget)
    if per_request is not None and not per_request > 0:
        raise ConfigError(
            f"inference_budget={per_request} USD lets no request through; give more than 0, or leave it out"
        )
    if per_request is None and read.spec.method == "ecooptigen":
        raise ConfigError(
            "method 'ecooptigen' stops configurations by their cost; give inference_budget='0.002 USD', what a request may "
            "cost on average, or write it into the task"
        )
    if read.spec.cascade is not None and read.spec.method != "pool":
        raise ConfigError(
            f"a cascade is looked for by the method 'pool' alone, not by {read.spec.method!r}; take that method, or take "
            "'cascade' out of the task"
        )
    _check_told_apart(read)
    return Plan(
        task=read,
        study=name or read.spec.name,
        total=total,
        inference_budget=per_request,
        workers=read.spec.workers,
        scorer=scorer,
        searcher="blendsearch"
        if find_spec("flaml") and find_spec("optuna")
        else "tpe"
        if find_spec("optuna")
        else "local",
    )


def _read(task: AnyTask) -> Task:
    if isinstance(task, Task):
        return task
    return parse_task(task) if isinstance(task, Mapping) else load_task(Path(task))


def _check_told_apart(task: Task) -> None:
    """Answers are kept, and scored, under what was asked: two examples that ask the same must want the same."""
    for prompt in task.prompts:
        asked: dict[str, Example] = {}
        for example in task.examples:
            first = asked.setdefault(json.dumps(prompt.render(example)), example)
            if first.fingerprint != example.fingerprint:
                raise ConfigError(
                    f"examples {first.id!r} and {example.id!r} say different things, but prompt {prompt.name!r} asks the same for "
                    f"both; fill in the field that tells them apart, or remove one"
                )
