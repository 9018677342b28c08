"""The scorer of structured answers: JSON that fits a schema, compared field by field."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from selfreg_sdk.errors import ConfigError
from selfreg_sdk.tuner.examples.examples import Example
from selfreg_sdk.tuner.scoring.reading import json_in
from selfreg_sdk.tuner.scoring.rule import Rule

_DEEPEST = 100
"""Levels of lists and mappings that an answer may nest."""


@dataclass(frozen=True, kw_only=True)
class JsonSchema(Rule):
    """Whether an answer holds JSON of a given form, bare, fenced or in prose; and, if asked, how much of it is right.

    Without ``expected``: 1 where something fits the schema. With it: the share of the expected value's fields, nested ones
    and items of lists each counted, that the answer has with an equal value; 0 where nothing fits. 1 and 1.0 are equal, 1
    and true are not.

    Attributes:
        schema: JSON schema (draft 2020-12 unless it names another); None accepts any JSON. References to other documents
            are not fetched.
        expected: field with the expected value, as JSON or as text that holds it.
        whole: only an answer with all fields right, and no others, counts; 1 or 0.
    """

    schema: Mapping[str, Any] | bool | None = None
    expected: str | None = None
    whole: bool = False
    _validator: Any = field(init=False, repr=False, compare=False, default=None)

    def __post_init__(self) -> None:
        if self.schema is not None:
            object.__setattr__(self, "_validator", _validator(self.schema))

    @property
    def name(self) -> str:
        """For people and records."""
        return "json_schema"

    @property
    def needs(self) -> tuple[str, ...]:
        """The field with the expected value, if there is one."""
        return () if self.expected is None else (self.expected,)

    def __call__(self, answer: str, example: Example) -> float:
        """The share that is right."""
        found = self._found(answer)
        if not found or self.expected is None:
            return float(bool(found))
        wanted, has = dict(_leaves(self._wanted(example))), dict(_leaves(found[0]))
        right = sum(path in has and has[path] == value for path, value in wanted.items())
        return float(wanted == has) if self.whole else right / len(wanted)

    def ballot(self, answer: str, example: Example) -> str | None:
        """The JSON with sorted keys and without white space; without any that fits, none."""
        found = self._found(answer)
        if not found:
            return None
        return json.dumps(found[0], sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    def _found(self, answer: str) -> list[Any]:
        """The likeliest value that fits, in a list; empty without one. What is nested without end fits nothing."""
        for value in json_in(answer):
            if _depth(value) <= _DEEPEST and (self._validator is None or self._validator.is_valid(value)):
                return [value]
        return []

    def _wanted(self, example: Example) -> Any:
        value = example.fields[self.expected or ""]
        if isinstance(value, str):
            return next(json_in(value), value)
        return value


def _validator(schema: Mapping[str, Any] | bool) -> Any:
    try:
        validators = importlib.import_module("jsonschema.validators")
        registry = importlib.import_module("jsonschema_specifications").REGISTRY
    except ImportError:
        raise ConfigError("scorer 'json_schema' needs the package jsonschema: pip install jsonschema") from None
    kind = validators.validator_for(schema, default=validators.Draft202012Validator)
    try:
        kind.check_schema(schema)
    except Exception as error:  # SchemaError, or whatever a schema that is none brings about
        said = getattr(error, "message", str(error))
        raise ConfigError(f"scorer 'json_schema': the schema is not valid: {said[:300]}") from None
    return kind(schema, registry=registry)


def _depth(value: Any) -> int:
    """How deep lists and mappings nest; counted without recursion."""
    depth, level = 0, [value]
    while level := [part for item in level if isinstance(item, dict | list) for part in _parts(item)]:
        depth += 1
    return depth


def _parts(value: Any) -> list[Any]:
    return list(value.values() if isinstance(value, dict) else value)


def _leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[tuple[Any, ...], Any]]:
    """Paths and values of everything in a JSON value that has no parts; equal only if of the same kind."""
    parts: Sequence[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        parts = list(value.items())
    elif isinstance(value, list | tuple):
        parts = list(enumerate(value))
    if not parts:
        kind = "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__
        return [(path, (kind, value))]
    return [leaf for name, part in parts for leaf in _leaves(part, (*path, name))]
