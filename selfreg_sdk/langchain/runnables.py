"""Chains whose every chat model regulates itself, each step with a configuration of its own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, Unpack, cast

from langchain_core.language_models import BaseLanguageModel
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.runnables import Runnable, RunnableLambda, RunnableWithFallbacks
from langchain_core.runnables.base import RunnableBindingBase, RunnableLike, coerce_to_runnable
from langchain_core.runnables.configurable import RunnableConfigurableAlternatives
from pydantic import BaseModel

from selfreg_sdk.errors import ConfigError
from selfreg_sdk.langchain.regulate import (
    Options,
    Regulation,
    check_options,
    is_regulated,
    regulated,
    regulation_of,
    task_of_run,
)

I = TypeVar("I")  # noqa: E741 - LangChain's order: input, output
O = TypeVar("O")  # noqa: E741 - LangChain's order: input, output

_log = logging.getLogger(__name__)


def with_selfreg(chain: RunnableLike[I, O], **options: Unpack[Options]) -> Runnable[I, O]:
    """The same chain with every chat model in it regulated: one store, one budget, and a task for every step.

    A step's task is what ``config["metadata"]["selfreg_task"]`` says, else the name that ``with_config(run_name=...)`` gives the step
    or the nearest chain around that step alone, else a hash of its prompt template. Sequences, parallels, branches, routers,
    fallbacks, retries, bindings and alternatives are looked into. Models that regulate themselves already stay as they
    are; language models that do not chat are left alone, and a log line says so.

    Args:
        chain: any runnable, or what LangChain takes for one; it is not changed.
        options: as of `regulate`, for all models; a task has to be named per step.

    Raises:
        ConfigError: there is no chat model, or one hides in a function, where its calls would be neither regulated nor counted.
    """
    check_options(options)
    if options.get("task") is not None:
        raise ConfigError(f"task={options['task']!r}: the steps of a chain are named with .with_config(run_name=...)")
    whole = cast(Runnable[I, O], coerce_to_runnable(chain))
    if not list(_models(whole)):
        raise ConfigError(
            f"no chat model found in this {type(whole).__name__}: what functions and graph nodes call cannot be reached; "
            "wrap it where it is made, with regulate(model), or give an agent SelfRegulationMiddleware"
        )
    return _Rebuilding(options).of(whole, None)


class _Rebuilding:
    """Puts regulated models in the place of models; the same model under the same name becomes one."""

    def __init__(self, options: Options) -> None:
        self._regulation = Regulation(options=options, named_by_run=True)
        self._made: dict[tuple[int, str | None], BaseChatModel] = {}

    def of(self, part: Runnable[Any, Any], name: str | None) -> Runnable[Any, Any]:
        """``part`` with its models regulated, for the step called ``name``."""
        if isinstance(part, BaseChatModel):
            return part if is_regulated(part) else self._model(part, name)
        if not isinstance(part, BaseModel) or isinstance(part, BaseLanguageModel):
            return part
        if isinstance(part, RunnableBindingBase) and (run := part.config.get("run_name")):
            name = task_of_run(run)
        if _steps(part) > 1:
            name = None
        changed = {
            place: new
            for place, old in _fields(part)
            if (new := _mapped(old, lambda inner: self.of(inner, name))) is not old
        }
        return part.model_copy(update=changed) if changed else part

    def _model(self, model: BaseChatModel, name: str | None) -> BaseChatModel:
        if (id(model), name) not in self._made:
            made = regulated(model, self._regulation.with_options(task=name))
            # The next ones spend from the same budgets and learn from the same store, also when that is in memory.
            self._regulation = regulation_of(made)
            self._made[id(model), name] = made
        return self._made[id(model), name]


def _models(part: Any, seen: set[int] | None = None) -> Iterator[BaseChatModel]:
    """Every chat model in ``part``.

    Raises:
        ConfigError: a function calls one that is not regulated.
    """
    seen = set() if seen is None else seen
    if id(part) in seen:
        return
    seen.add(id(part))
    if isinstance(part, BaseChatModel):
        yield part
    elif isinstance(part, BaseLanguageModel):
        _log.warning(
            "with_selfreg leaves %s alone: it is no chat model, and is neither regulated nor counted", type(part)
        )
    elif isinstance(part, RunnableLambda):
        for model in (model for used in part.deps for model in _models(used, seen)):
            if not is_regulated(model):
                raise ConfigError(
                    f"{part!r:.60} calls a {type(model).__name__} that with_selfreg cannot replace there: "
                    "let the function use regulate(model)"
                )
            yield model
    else:
        for inner in _parts(part):
            yield from _models(inner, seen)


def _steps(part: Any) -> int:
    """How many steps of a chain ``part`` is; alternatives for one another are one."""
    if isinstance(part, BaseChatModel):
        return 1
    counts = [_steps(inner) for inner in _parts(part)]
    alternatives = isinstance(part, RunnableWithFallbacks | RunnableConfigurableAlternatives)
    return max(counts, default=0) if alternatives else sum(counts)


def _parts(part: Any) -> list[Runnable[Any, Any]]:
    """The runnables that a runnable is made of."""
    parts: list[Runnable[Any, Any]] = []

    def noted(inner: Runnable[Any, Any]) -> Runnable[Any, Any]:
        parts.append(inner)
        return inner

    if isinstance(part, BaseModel) and not isinstance(part, BaseLanguageModel):
        for _, value in _fields(part):
            _mapped(value, noted)
    return parts


def _fields(part: BaseModel) -> list[tuple[str, Any]]:
    return [(name, part.__dict__[name]) for name in type(part).model_fields if name in part.__dict__]


def _mapped(value: Any, change: Callable[[Runnable[Any, Any]], Runnable[Any, Any]]) -> Any:
    """``value`` with every runnable in it changed; itself where that changes nothing."""
    if isinstance(value, Runnable):
        return change(value)
    if isinstance(value, dict):
        changed: Any = {key: _mapped(inner, change) for key, inner in value.items()}
        return changed if any(changed[key] is not value[key] for key in value) else value
    if type(value) in (list, tuple):
        changed = [_mapped(inner, change) for inner in value]
        return type(value)(changed) if any(a is not b for a, b in zip(changed, value, strict=True)) else value
    return value
