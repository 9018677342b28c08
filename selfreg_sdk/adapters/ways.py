"""The ways a decoding parameter can take into a LangChain model, and the names integrations give it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from langchain_core.language_models.chat_models import BaseChatModel

TokenCap = Literal["one", "either", "new"]

SPELLINGS: Mapping[str, tuple[str, ...]] = {
    "max_tokens": ("max_tokens", "max_completion_tokens", "max_output_tokens", "num_predict", "max_tokens_to_sample"),
    "stop": ("stop", "stop_sequences"),
    "n": ("n", "candidate_count"),
    "seed": ("seed", "random_seed"),
    "reasoning_effort": ("reasoning_effort", "effort", "thinking_level"),
    "repetition_penalty": ("repetition_penalty", "repeat_penalty"),
}
"""What integrations and servers call a parameter, in order of preference; one that is not listed has one name."""

OUTSIDE_PROTOCOL = frozenset({"top_k", "min_p", "repetition_penalty"})
"""Parameters that OpenAI's clients refuse as arguments and send in ``extra_body``."""


@dataclass(frozen=True, kw_only=True)
class Field:
    """A field of the model, set on a copy.

    Attributes:
        name: of the field.
        key: where the field is a dict, the key that is set in it.
        value: from the parameter's value to the field's.
    """

    name: str
    key: str | None = None
    value: Callable[[Any], Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Argument:
    """An argument of the call.

    Attributes:
        name: of the argument.
        key: where the argument is a dict, the key that is set in it.
        unset: a field of the model that says the same under another name, and is unset on a copy.
    """

    name: str
    key: str | None = None
    unset: str | None = None


Way = Field | Argument


def _nothing(model: Any) -> Mapping[str, Any]:
    return {}


@dataclass(frozen=True, kw_only=True)
class Container:
    """A dict argument that several parameters share.

    Attributes:
        own: what the model itself would send in its place, and loses when the argument is given.
        shared: what the model itself would send is sent even where the caller gives the argument.
    """

    own: Callable[[Any], Mapping[str, Any]] = _nothing
    shared: bool = False


@dataclass(frozen=True, kw_only=True)
class Ways:
    """How one model takes each parameter.

    Attributes:
        to: the way of a parameter; one that is not listed goes by `default_way`.
        refused: parameters the integration has no way for: it would raise, or drop them without a word.
        containers: its dict arguments.
        token_cap: it knows one name of a token cap, or carries either; "new" prefers ``max_completion_tokens``.
        tells_end: it always says how an answer ended, so that one without an end was cut.
        usage_adds_up: every chunk of a stream counts its own tokens only, instead of the last one all.
    """

    to: Mapping[str, Way] = field(default_factory=dict)
    refused: frozenset[str] = frozenset()
    containers: Mapping[str, Container] = field(default_factory=dict)
    token_cap: TokenCap = "one"
    tells_end: bool = True
    usage_adds_up: bool = False


def canonical(name: str) -> str:
    """The name of a token cap as a parameter, any other name as it is."""
    return "max_tokens" if name == "max_completion_tokens" else name


def spellings(parameter: str) -> tuple[str, ...]:
    """Every name of a parameter, its own first."""
    return SPELLINGS.get(canonical(parameter), (parameter,))


def field_for(model: BaseChatModel, parameter: str) -> str | None:
    """The field of ``model`` that holds a decoding parameter, also found by its alias; None if it has none."""
    fields = type(model).model_fields
    for name in spellings(parameter):
        if name in fields:
            return name
        aliased = next((field for field, info in fields.items() if info.alias == name), None)
        if aliased is not None:
            return aliased
    return None


def default_way(model: BaseChatModel, parameter: str) -> Way:
    """The way of a parameter into a model nobody knows: its field, else ``extra_body``, else an argument of the call."""
    if parameter == "stop":
        return Argument(name="stop")  # the one parameter that every model takes as an argument
    name = field_for(model, parameter)
    if name is not None:
        return Field(name=name)
    if parameter in OUTSIDE_PROTOCOL and "extra_body" in type(model).model_fields:
        return Argument(name="extra_body", key=parameter)
    return Argument(name=parameter)
