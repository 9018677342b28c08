"""The configuration that somebody names: a version in the store, the baseline of a task, or one written down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from policies import Aggregation
from selfreg_sdk.errors import ConfigError
from selfreg_sdk.store.configs import ConfigRecord, Configs
from selfreg_sdk.tuner.cascade.config import CascadeConfig
from selfreg_sdk.tuner.examples.prompts import Prompt
from selfreg_sdk.tuner.search.dimensions import Point
from selfreg_sdk.tuner.study.plan import Plan

AnyConfig = int | str | Mapping[str, Any]
"""Id of a version, "baseline", settings with a model, or a cascade as it is written."""


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """A configuration in full.

    Attributes:
        name: for people: "version 7", "baseline", or the model.
        point: with "model", "prompt" and "n"; of a cascade its two stages, its filter and "prompt".
        prompt: by which it asks.
        cascade: if it is one.
    """

    name: str
    point: Point
    prompt: Prompt
    cascade: CascadeConfig | None = None

    @property
    def stages(self) -> tuple[Point, ...]:
        """What is sent: itself, or both configurations of a cascade."""
        return (self.point,) if self.cascade is None else (self.cascade.first.config, self.cascade.second.config)


def configuration(named: AnyConfig, plan: Plan, configs: Configs) -> Configuration:
    """The configuration that is meant; reads the store for versions.

    Args:
        named: what somebody gave.
        plan: the task it is for.
        configs: the versions there are.

    Raises:
        ConfigError: there is no such version, it makes one answer of its samples in another way than the task's metric, or
            its prompt is not known; or the settings name no model.
    """
    if isinstance(named, str) and named.strip() == "baseline":
        point = plan.baseline
        return Configuration(name="baseline", point=point, prompt=plan.task.prompt(point["prompt"]))
    if isinstance(named, Mapping):
        return _written(named, plan)
    if isinstance(named, bool) or not str(named).strip().isdecimal():
        raise ConfigError(
            f"{named!r} is no configuration: give the number of a version ('selfreg configs list' shows them), 'baseline', or "
            f"settings like {{'model': {plan.spec.models[0]!r}, 'temperature': 0.2}}"
        )
    return _version(configs.get(int(named)), plan)


def _written(settings: Mapping[str, Any], plan: Plan) -> Configuration:
    given = {name: value for name, value in settings.items() if name != "prompt"}
    if "cascade" in given:
        return _cascade(given, _named_prompt(settings, plan, "the cascade"), plan, "cascade")
    if not isinstance(given.get("model"), str):
        raise ConfigError(f"configuration {dict(settings)!r} names no model; add 'model'")
    prompt = _named_prompt(settings, plan, str(given["model"]))
    return Configuration(name=given["model"], point={"n": 1, **given, "prompt": prompt.name}, prompt=prompt)


def _version(record: ConfigRecord, plan: Plan) -> Configuration:
    name = f"version {record.id}"
    prompt = _tuned_prompt(record, plan, name) or _named_prompt({}, plan, name)
    if (cascade := record.provenance.get("cascade")) is not None:
        return _cascade(cascade, prompt, plan, name)
    aggregation = Aggregation.parse(record.aggregation)
    n = int(record.params.get("n") or aggregation.n)
    if n > 1:
        _measurable(aggregation, plan, name)
    point = {**record.params, "model": record.model, "prompt": prompt.name, "n": n}
    return Configuration(name=name, point=point, prompt=prompt)


def _cascade(written: Mapping[str, Any], prompt: Prompt, plan: Plan, name: str) -> Configuration:
    cascade = CascadeConfig.read(written)
    for stage in (cascade.first, cascade.second):
        if stage.aggregation.n > 1:
            _measurable(stage.aggregation, plan, name)
    point = {**cascade.written(), "prompt": prompt.name}
    return Configuration(name=name, point=point, prompt=prompt, cascade=cascade)


def _measurable(aggregation: Aggregation, plan: Plan, name: str) -> None:
    if aggregation.kind != plan.metric.aggregation:
        raise ConfigError(
            f"{name} makes '{aggregation}' its answer, which the metric {plan.metric.name!r} of task {plan.spec.name!r} does "
            f"not measure; score it on a task whose metric does"
        )


def _tuned_prompt(record: ConfigRecord, plan: Plan, version: str) -> Prompt | None:
    """The very text that a version was tuned with, which the task may have changed since."""
    messages = record.provenance.get("messages")
    if not messages:
        return None
    said = tuple((role, text) for role, text in messages)
    same = next((prompt for prompt in plan.task.prompts if prompt.messages == said), None)
    return same or Prompt(name=f"{record.provenance.get('prompt', 'prompt')} of {version}", messages=said)


def _named_prompt(settings: Mapping[str, Any], plan: Plan, name: str) -> Prompt:
    """The prompt that settings name; without a name, the only one."""
    if settings.get("prompt") is not None:
        return plan.task.prompt(str(settings["prompt"]))
    if len(plan.task.prompts) > 1:
        names = ", ".join(repr(prompt.name) for prompt in plan.task.prompts)
        raise ConfigError(f"{name}: the task has several prompts; name one of {names} as 'prompt'")
    return plan.task.prompts[0]
