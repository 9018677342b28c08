"""The search space of a task as people write it.

A number is fixed, ``[0, 1.5]`` is everything between two numbers, and a longer list names the values to choose from; ``choices``
and ``low``, ``high``, ``log`` say it in full.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field, PlainSerializer, PlainValidator, ValidationInfo, model_validator

from policies import DecodingParams
from policies.params import parse_params
from selfreg_sdk.errors import ConfigError
from selfreg_sdk.tuner.search.dimensions import Alternatives, Choice, Dimension, Float, Int, Space
from selfreg_sdk.tuner.task.strict import Strict

_WHOLE = frozenset({"n", "max_tokens", "top_k"})
"""Whole numbers, whose factors matter more than their differences: their ranges are logarithmic unless said otherwise."""

_ALWAYS = frozenset({"n", "max_tokens"})
"""Never left to the provider: without them nobody can tell what a call costs at most."""

_WORDS = frozenset({"reasoning_effort", "verbosity"})


def _read(value: object, info: ValidationInfo) -> Choice | Float | Int:
    """The dimension that ``value`` stands for in the field of this name."""
    name = str(info.field_name)
    if isinstance(value, Choice):
        return _choice(name, value.values)
    if isinstance(value, Float | Int):
        return _range(name, value.low, value.high, log=value.log)
    if isinstance(value, Mapping):
        return _in_full(name, value)
    if name == "stop":
        return _stop(value)
    if not isinstance(value, list | tuple):
        return _choice(name, [value])
    if name not in _WORDS and len(value) == 2 and None not in value:
        return _range(name, *value)
    return _choice(name, value)


def _written(dimension: Choice | Float | Int) -> dict[str, Any]:
    """The dimension in full, as it may be written."""
    if isinstance(dimension, Choice):
        return {"choices": list(dimension.values)}
    return {"low": dimension.low, "high": dimension.high, "log": dimension.log}


def _in_full(name: str, written: Mapping[str, Any]) -> Choice | Float | Int:
    if written.keys() == {"choices"} and isinstance(written["choices"], list | tuple):
        return _choice(name, written["choices"])
    numeric = name not in _WORDS and name != "stop"
    if numeric and {"low", "high"} <= written.keys() <= {"low", "high", "log"}:
        log = written.get("log")
        if log is not None and not isinstance(log, bool):
            raise ConfigError(f"log={log!r} must be true or false")
        return _range(name, written["low"], written["high"], log=log)
    forms = "'choices: [...]', or 'low', 'high' and perhaps 'log'" if numeric else "'choices: [...]'"
    raise ConfigError(f"{', '.join(map(repr, written)) or 'nothing'} is not a dimension; write {forms}")


def _range(name: str, low: object, high: object, *, log: bool | None = None) -> Float | Int:
    first, last = _value(name, low), _value(name, high)
    if not first < last:
        raise ConfigError(
            f"[{first}, {last}] is an empty range; write the lower number first, or {{choices: [{first}, {last}]}}"
        )
    if log is None:
        log = name in _WHOLE
    return Int(first, last, log=log) if name in _WHOLE else Float(first, last, log=log)


def _choice(name: str, values: Sequence[object]) -> Choice:
    if not values:
        raise ConfigError("an empty list leaves nothing to choose from; name a value")
    if name == "stop":
        return Choice(tuple(_stops(value) for value in values))
    if None in values and name in _ALWAYS:
        raise ConfigError(f"null leaves {name} to the provider, and then nobody can tell what a call costs at most")
    if len(values) == 1 and values[0] is None:
        raise ConfigError("there is no value; write one, or leave the key out")
    return Choice(tuple(None if value is None else _value(name, value) for value in values))


def _stop(value: object) -> Choice:
    """Texts are one setting, as APIs take it; lists (or null) in a list are several to choose from."""
    if isinstance(value, list | tuple) and any(not isinstance(item, str) for item in value):
        return _choice("stop", value)
    if not value:
        raise ConfigError("there is no stop sequence; write one, or leave the key out")
    return _choice("stop", [value])


def _stops(value: object) -> list[str] | None:
    """One setting of stop sequences; None for no stop sequence."""
    sequences = [value] if isinstance(value, str) else value
    if sequences is None or sequences == []:
        return None
    if not isinstance(sequences, list | tuple) or not all(isinstance(item, str) and item for item in sequences):
        raise ConfigError(f"{value!r} is not a list of stop sequences; write texts, like ['\\n\\n', 'END']")
    return [str(item) for item in sequences]


def _value(name: str, value: object) -> Any:
    """The value, in the range of the parameter."""
    return getattr(parse_params({name: value}), name)


def _schema(name: str) -> dict[str, Any]:
    """What may be written for a parameter, for editors."""
    kinds = DecodingParams.model_json_schema()["properties"][name]["anyOf"]
    one = next(kind for kind in kinds if kind.get("type") != "null")
    if name == "stop":
        text = {"type": "string", "minLength": 1}
        one = {"anyOf": [text, {"type": "array", "items": text}]}
        several = {"type": "array", "minItems": 1, "items": {"anyOf": [one, {"type": "null"}]}}
        return {"anyOf": [text, several, _object({"choices": several}, "choices")]}
    item = one if name in _ALWAYS else {"anyOf": [one, {"type": "null"}]}
    several = {"type": "array", "minItems": 1, "items": item}
    forms = [one, several, _object({"choices": several}, "choices")]
    if name not in _WORDS:
        forms.append(_object({"low": one, "high": one, "log": {"type": "boolean"}}, "low", "high"))
    return {"anyOf": forms}


def _object(properties: Mapping[str, Any], *required: str) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def _fill(schema: dict[str, Any]) -> None:
    """Give the parameters in a model's schema their forms; pydantic cannot see through the reader."""
    for name, known in schema["properties"].items():
        if name in DecodingParams.model_fields:
            kept = {"description": known["description"]} if "description" in known else {}
            schema["properties"][name] = _schema(name) | kept


_Extra: Callable[[dict[str, Any]], None] = _fill
Searched = Annotated[Choice | Float | Int, PlainValidator(_read), PlainSerializer(_written)]


class TemperatureOrTopP(Strict, json_schema_extra=_Extra):
    """Two ways to set the same thing, of which every configuration takes one."""

    temperature: Searched
    top_p: Searched


class SpaceSpec(Strict, json_schema_extra=_Extra):
    """What is varied. Parameters left out are left to the provider, but n (1) and max_tokens (1024)."""

    temperature: Searched | None = Field(None, description="Searched on its own, or together with top_p.")
    top_p: Searched | None = Field(None, description="Searched on its own, or together with temperature.")
    temperature_or_top_p: TemperatureOrTopP | None = Field(None, description="Each configuration takes one of the two.")
    top_k: Searched | None = None
    min_p: Searched | None = None
    n: Searched = Field(Choice((1,)), description="Samples per request; ranges are logarithmic.")
    max_tokens: Searched = Field(Choice((1024,)), description="Cap on each answer, in tokens; ranges are logarithmic.")
    stop: Searched | None = Field(None, description="A list of texts is one setting; a list of lists, several.")
    presence_penalty: Searched | None = None
    frequency_penalty: Searched | None = None
    repetition_penalty: Searched | None = None
    reasoning_effort: Searched | None = Field(None, description="Efforts to choose from; null is the provider's.")
    verbosity: Searched | None = None

    @model_validator(mode="after")
    def _one_way(self) -> SpaceSpec:
        """Refuse to vary temperature or top_p twice."""
        both = [name for name in ("temperature", "top_p") if getattr(self, name) is not None]
        if self.temperature_or_top_p is not None and both:
            raise ConfigError(f"temperature_or_top_p and {' and '.join(both)} contradict each other; keep one")
        return self

    def dimensions(self) -> Space:
        """The dimensions of the parameters that are varied or set."""
        found: dict[str, Dimension] = {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, TemperatureOrTopP):
                value = Alternatives(({"temperature": value.temperature}, {"top_p": value.top_p}))
            if value is not None:
                found[name] = value
        return found
