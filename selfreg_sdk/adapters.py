"""How decoding parameters reach an arbitrary LangChain model.

A copy of the model with its fields set is the way that works for most integrations: it reaches the wire wherever a field exists,
shares the HTTP clients and leaves the user's object alone. What has no field travels as a keyword argument.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.language_models.chat_models import BaseChatModel

_FIELD_NAMES: Mapping[str, tuple[str, ...]] = {
    "max_tokens": ("max_tokens", "max_output_tokens", "num_predict"),
    "max_completion_tokens": ("max_tokens", "max_output_tokens", "num_predict"),
    "stop": ("stop", "stop_sequences"),
    "n": ("n", "candidate_count"),
    "reasoning_effort": ("reasoning_effort", "thinking_level", "effort"),
    "repetition_penalty": ("repetition_penalty", "repeat_penalty"),
}
"""Names other integrations give a parameter, in order of preference; a parameter not listed keeps its own name."""

_OUTSIDE_PROTOCOL = frozenset({"top_k", "min_p", "repetition_penalty"})
"""Parameters that OpenAI's client refuses as arguments and sends in ``extra_body``."""


def field_for(model: BaseChatModel, parameter: str) -> str | None:
    """The field of ``model`` that holds a decoding parameter, also found by its alias; None if it has none."""
    fields = type(model).model_fields
    for name in _FIELD_NAMES.get(parameter, (parameter,)):
        if name in fields:
            return name
        aliased = next((field for field, info in fields.items() if info.alias == name), None)
        if aliased is not None:
            return aliased
    return None


def with_params(model: BaseChatModel, params: Mapping[str, Any]) -> tuple[BaseChatModel, dict[str, Any]]:
    """A copy of ``model`` with ``params`` in its fields, and the keyword arguments for those that have no field.

    The copy must not keep the original's cached serialisation: LangChain keys its response cache and its traces with it.
    """
    fields: dict[str, Any] = {}
    kwargs: dict[str, Any] = {}
    for name, value in params.items():
        field = field_for(model, name)
        if field is None and name in _OUTSIDE_PROTOCOL and field_for(model, "extra_body") is not None:
            kwargs.setdefault("extra_body", {})[name] = value
        elif field is None:
            kwargs[name] = value
        else:
            fields[field] = value
    if not fields:
        return model, kwargs
    copy = model.model_copy(update=fields)
    copy.__dict__.pop("_serialized", None)
    return copy, kwargs


def takes_samples(model: BaseChatModel) -> bool:
    """Whether one call of ``model`` can return several samples."""
    return field_for(model, "n") is not None


def own_samples(model: BaseChatModel) -> int:
    """How many samples a call of ``model`` returns by its own settings."""
    field = field_for(model, "n")
    return (getattr(model, field) or 1) if field is not None else 1


def single_attempt(model: BaseChatModel) -> BaseChatModel:
    """A copy whose SDK does not retry on its own and reports usage in streams, unless its owner said not to.

    Hidden retries are attempts that no ledger sees, and a stream without usage is charged at its worst case.

    A client that was built with the model keeps its own retry count, so it is replaced by one without; integrations that
    build theirs on first use only need the field.
    """
    updates: dict[str, Any] = {}
    if "max_retries" in type(model).model_fields:
        updates["max_retries"] = 0
    if "stream_usage" in type(model).model_fields and "stream_usage" not in model.model_fields_set:
        updates["stream_usage"] = True
    for root, leaf in (("root_client", "client"), ("root_async_client", "async_client")):
        client = getattr(model, root, None)
        if client is not None and hasattr(client, "with_options"):
            updates[root] = client.with_options(max_retries=0)
            updates[leaf] = updates[root].chat.completions
    if not updates:
        return model
    copy = model.model_copy(update=updates)
    for built in ("_serialized", "_client", "_async_client"):
        copy.__dict__.pop(built, None)
    return copy
