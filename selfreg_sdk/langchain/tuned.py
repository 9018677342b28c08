"""What was tuned, found by the name of its task: the winning model, and the prompt it won with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from langchain_core.messages import BaseMessage
from langchain_core.prompts import (
    AIMessagePromptTemplate,
    ChatPromptTemplate,
    HumanMessagePromptTemplate,
    SystemMessagePromptTemplate,
)

from selfreg_sdk.config import load_settings
from selfreg_sdk.errors import ConfigError
from selfreg_sdk.runtime import Runtime, runtime
from selfreg_sdk.store.configs import ConfigRecord
from selfreg_sdk.tuner.examples.prompts import Prompt
from selfreg_sdk.versions import ANY_MODEL, tuned_key

_TEMPLATES: dict[str, Any] = {
    "system": SystemMessagePromptTemplate,
    "user": HumanMessagePromptTemplate,
    "assistant": AIMessagePromptTemplate,
}


def tuned_prompt(task: str, *, store: str | Path | None = None) -> ChatPromptTemplate:
    """The prompt that won the tuning of a task: ``tuned_prompt("triage") | ChatSelfReg.from_task("triage")``.

    Args:
        task: its name.
        store: where it was tuned; None as for `ChatSelfReg`.

    Raises:
        ConfigError: nothing was tuned under this name.
    """
    return prompt_of(winner(task, opened(store)))


def opened(store: str | Path | None) -> Runtime:
    """The store that a user means."""
    return runtime(load_settings(store=None if store is None else str(store)).store)


def winner(task: str, shared: Runtime, *, model: str = ANY_MODEL) -> ConfigRecord:
    """The tuned version of a task in production.

    Args:
        task: its name.
        shared: the open store.
        model: the best of this model; else the best of all.

    Raises:
        ConfigError: there is none; names the command that makes one.
    """
    found = shared.configs.current(tuned_key(task, model))
    if found is not None:
        return found
    of = "" if model == ANY_MODEL else f" for model {model!r}"
    if waiting := [str(version.id) for version in shared.configs.list(tuned_key(task, model))]:
        raise ConfigError(
            f"task {task!r} was tuned{of}, but nothing of it is in production: the tuning said to keep the baseline, or found better "
            f"models (versions {', '.join(waiting)}; 'selfreg configs show' tells what they score)"
        )
    known = {key.partition("|")[0] for key, stage in shared.configs.pointers() if key.endswith("|tuned")}
    hint = f"; tuned in this store: {', '.join(sorted(known))}" if known else ""
    raise ConfigError(
        f"task {task!r} was not tuned{of} in this store: run 'selfreg tune TASK.yaml' with it, or pass store={hint}"
    )


def given_by(found: ConfigRecord) -> dict[str, Any]:
    """Arguments of a `ChatSelfReg` that runs a tuned version."""
    base_url = found.provenance.get("base_url")
    return {"model": found.model, **({} if base_url is None else {"base_url": base_url})}


def prompt_of(found: ConfigRecord) -> ChatPromptTemplate:
    """The prompt of a tuned version.

    Raises:
        ConfigError: the version holds none.
    """
    messages = tuple((role, text) for role, text in found.provenance.get("messages") or ())
    if not messages:
        raise ConfigError(f"config version {found.id!r} of task {found.task_key.partition('|')[0]!r} holds no prompt")
    prompt = Prompt(name=str(found.provenance.get("prompt")), messages=messages)
    return TunedPrompt.from_messages([_template(role, text) for role, text in prompt.messages])


class TunedPrompt(ChatPromptTemplate):
    """A prompt as it was tuned: text is filled in as it is, anything else as JSON."""

    def format_messages(self, **kwargs: Any) -> list[BaseMessage]:
        """The messages, filled in."""
        return super().format_messages(**_as_text(kwargs))

    async def aformat_messages(self, **kwargs: Any) -> list[BaseMessage]:
        """`format_messages` for asyncio."""
        return await super().aformat_messages(**_as_text(kwargs))


def _as_text(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in values.items()
    }


def _template(role: str, text: str) -> Any:
    if role == "developer":
        return SystemMessagePromptTemplate.from_template(text, additional_kwargs={"__openai_role__": "developer"})
    return _TEMPLATES[role].from_template(text)
