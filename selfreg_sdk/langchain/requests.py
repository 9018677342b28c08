"""From what LangChain hands a chat model to a request: which arguments decide, which name the task, which pass through."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import ensure_config
from pydantic import ValidationError

from policies import FIELDS, Aggregation, DecodingParams, merge, parse_params
from selfreg_sdk.errors import ConfigError
from selfreg_sdk.facts import Request
from selfreg_sdk.langchain.messages import to_wire
from selfreg_sdk.langchain.schemas import json_schema_format
from selfreg_sdk.payload import Payload

TASK, AGGREGATION, PLAN, CONFIG = "selfreg_task", "selfreg_aggregation", "selfreg_plan", "selfreg_config"
NAMES = (TASK, AGGREGATION, PLAN, CONFIG)
"""Arguments of a call, or entries of its metadata, that are ours: they are never sent."""

_UNPLANNED = frozenset({"tools", "tool_choice", "functions", "function_call", "response_format"}) | frozenset(
    {"format", "output_config", "output_format", "response_schema", "response_json_schema"}
)
"""Tools and formats of an answer; the second line: as inner models of other vendors name them."""
_LANGCHAIN_ONLY = frozenset({"stream", "stream_usage", "ls_structured_output_format", "structured_output_format"})
_SECRET = frozenset({"api_key", "default_headers"})


def read_request(
    messages: Sequence[BaseMessage],
    stop: Sequence[str] | None,
    kwargs: Mapping[str, Any],
    *,
    model: str,
    explicit: DecodingParams,
    task: str | None,
    aggregation: Aggregation,
    fixed: bool,
) -> tuple[Request, dict[str, Any]]:
    """The request behind a call, and the arguments that pass through to an inner model unchanged.

    A decoding parameter inside ``extra_body`` is as explicit as one beside it: it wins, and it counts for the money.
    Calls with tools or formats of an answer are not planned, unless ``selfreg_plan=True`` says so: a stored configuration
    shapes them all the same.

    Args:
        messages, stop, kwargs: of the call.
        model: id of the answering model.
        explicit, task, aggregation: what holds where the call says nothing.
        fixed: the aggregation is the caller's word, which holds against what was tuned.

    Raises:
        ConfigError: an argument that cannot work.
    """
    rest = {name: value for name, value in kwargs.items() if name not in _LANGCHAIN_ONLY}
    task = rest.pop(TASK, None) or task
    said = rest.pop(AGGREGATION, None)
    how = read_aggregation(said or aggregation)
    plannable = rest.pop(PLAN, None)
    if plannable not in (None, True, False):
        raise ConfigError(f"{PLAN}={plannable!r}: write True to plan also with tools and formats, False to never plan")
    version = _version(rest.pop(CONFIG, None), task)
    extra = dict(rest.pop("extra_body", None) or {})
    given = _decoding_of(extra) | _decoding_of(rest)
    if stop:
        given["stop"] = stop
    if (other := extra.get("model", rest.get("model", model))) != model:
        raise ConfigError(
            f"model={other!r} in extra_body: prices and settings belong to {model!r}; pass model= instead"
        )
    # ChatOpenAI takes a class as response_format. What is sent is its schema, so that is what counts and is remembered.
    body = {
        name: json_schema_format(value) if isinstance(value, type) else value
        for name, value in {**rest, **extra}.items()
    }
    caller = merge(read_params(given), explicit) if given else explicit
    request = Request(
        body=Payload({"model": model, "messages": to_wire(messages), **body}),
        caller=caller,
        task=task,
        aggregation=how,
        open=not (fixed or said) and caller.n is None,
        plannable=not any(body.get(name) for name in _UNPLANNED) if plannable is None else plannable,
        config_version=version,
    )
    return request, {**rest, **({"extra_body": extra} if extra else {})}


def _version(pinned: object, task: str | None) -> int | None:
    """The stored version to use: a number, or for chains of several steps one for each task."""
    version = pinned.get(task) if isinstance(pinned, Mapping) else pinned
    if version is not None and type(version) is not int:
        raise ConfigError(f"{CONFIG}={pinned!r}: give the number of a version, or a mapping of tasks to numbers")
    return version


def _decoding_of(arguments: dict[str, Any]) -> dict[str, Any]:
    """Take the decoding parameters out of ``arguments``; None means not given, and the token cap has two names."""
    if not arguments:  # nearly every call
        return {}
    taken = {name: arguments.pop(name, None) for name in (*FIELDS, "max_completion_tokens")}
    cap = taken.pop("max_completion_tokens")
    found = {name: value for name, value in taken.items() if value is not None}
    return found if cap is None else {"max_tokens": cap, **found}


def read_params(values: Mapping[str, Any]) -> DecodingParams:
    """Decoding parameters from a user.

    Raises:
        ConfigError: names the value and what is allowed.
    """
    try:
        return parse_params(values)
    except ValueError as exc:
        raise ConfigError(str(exc)) from None


def read_aggregation(value: str | Aggregation) -> Aggregation:
    """An aggregation from a user.

    Raises:
        ConfigError: names the value and the accepted forms.
    """
    try:
        return Aggregation.parse(value)
    except ValueError as exc:
        raise ConfigError(str(exc)) from None


def with_names(metadata: Mapping[str, Any] | None, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call; task, aggregation and planning may also be named in the metadata of its config or run."""
    named = {name: metadata[name] for name in NAMES if name in metadata} if metadata else {}
    return {**named, **kwargs}


def named_config(config: RunnableConfig | None) -> RunnableConfig:
    """A config whose metadata also says what its ``configurable`` names: all ways into a call carry the metadata along."""
    config = ensure_config(config)
    named = with_names(config.get("configurable"), {})
    return {**config, "metadata": {**named, **(config.get("metadata") or {})}} if named else config


def of_config(config: RunnableConfig | None, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """`with_names` for the config of a call."""
    return with_names(named_config(config).get("metadata"), kwargs)


def argument_error(exc: ValidationError, known: Iterable[str]) -> ConfigError:
    """One line for a constructor argument that does not fit; values that may be secret are not shown."""
    first = exc.errors(include_url=False)[0]
    name = str(first["loc"][0]) if first["loc"] else "arguments"
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(name, known, n=1)
        return ConfigError(f"unknown argument {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    shown = name if name in _SECRET else f"{name}={reprlib.repr(first['input'])}"
    return ConfigError(f"{shown}: {first['msg']}")
