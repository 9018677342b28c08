"""The examples of a task: what a configuration is tried on, and which of them it is chosen by.

Every order and every split follows from a seed and from what the examples say, never from where they stand in a file, so that
sorting a file or adding to it does not turn a held-out example into one that was searched on.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

from selfreg_sdk.errors import ConfigError

ID_FIELD = "id"
"""The field that holds an example's id, where no other is named."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """One example of a task.

    Attributes:
        id: its name in records, unique within the task.
        fields: what prompts fill in and scorers compare with, as JSON knows it; the expected answer is one of them.
    """

    id: str
    fields: Mapping[str, Any]

    @cached_property
    def fingerprint(self) -> str:
        """What the example says, in 64 hexadecimal digits: equal for equal fields, whatever the id."""
        return hashlib.sha256(_canonical(self.fields).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Split:
    """Examples in three parts that never overlap, each in a seeded order.

    Attributes:
        search: configurations are compared on these.
        holdout: the winner is checked on these.
        test: nothing is decided on these; they are for reports.
    """

    search: tuple[Example, ...]
    holdout: tuple[Example, ...]
    test: tuple[Example, ...]


def make_examples(
    rows: Iterable[object], *, id_field: str | None = None, places: Sequence[str] | None = None
) -> tuple[Example, ...]:
    """Examples out of mappings from field name to value, in the order given.

    Args:
        rows: one mapping per example, of values that JSON has a form for.
        id_field: the field that holds the id (text or a whole number); it is taken out of the fields. None: "id" where
            the rows have it, else ids are made of the content.
        places: where each row stands, for messages; None: "example 1", "example 2" ...

    Raises:
        ConfigError: there is no row, a row is no such mapping, ids are missing or not unique, or rows without ids are equal.
    """
    named = [(places[index] if places is not None else f"example {index + 1}", row) for index, row in enumerate(rows)]
    if not named:
        raise ConfigError("there are no examples; give at least one")
    checked = [(place, _fields(row, place)) for place, row in named]
    has_ids = id_field is not None or any(ID_FIELD in fields for _, fields in checked)
    made: dict[str, str] = {}
    examples = []
    for place, fields in checked:
        example = _with_id(fields, id_field or ID_FIELD, place) if has_ids else _without_id(fields, place)
        if example.id in made:
            raise ConfigError(_twice(example.id, made[example.id], place, has_ids))
        made[example.id] = place
        examples.append(example)
    return tuple(examples)


def shuffle(examples: Iterable[Example], *, seed: int, limit: int | None = None) -> tuple[Example, ...]:
    """The examples, or ``limit`` of them, in an order that depends on the seed and on them alone.

    Raises:
        ConfigError: ``limit`` is below 1.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"limit={limit!r} must be at least 1; leave it out to take all examples")
    return tuple(sorted(examples, key=lambda example: _rank(example, f"order:{seed}"))[:limit])


def split(examples: Sequence[Example], *, seed: int, holdout: float, test: float = 0.0) -> Split:
    """Set parts of the examples aside.

    Examples that say the same stay together, so that nothing is held out which was searched on under another id; a part
    may grow beyond its share by that.

    Args:
        holdout, test: share of all examples, in [0, 1); a share above 0 gets at least one example.

    Raises:
        ConfigError: a share is not in [0, 1), or nothing is left to search on.
    """
    for name, share in (("holdout", holdout), ("test", test)):
        if not 0 <= share < 1:
            raise ConfigError(f"{name}={share!r} must be a share of the examples from 0 to below 1, like 0.25")
    parts: dict[str, list[Example]] = {"holdout": [], "test": [], "search": []}
    wanted = {"holdout": _count(holdout, examples), "test": _count(test, examples), "search": len(examples)}
    ordered = sorted(examples, key=lambda example: _rank(example, f"split:{seed}"))
    for _, twins in groupby(ordered, key=lambda example: example.fingerprint):
        part = next(name for name in parts if len(parts[name]) < wanted[name])
        parts[part] += twins
    if not parts["search"]:
        raise ConfigError(
            f"{len(examples)} examples that differ too little leave nothing to search on after holdout={holdout!r} "
            f"and test={test!r}; add examples, or lower these shares"
        )
    shuffled = {name: shuffle(part, seed=seed) for name, part in parts.items()}
    return Split(**shuffled)


def _count(share: float, examples: Sequence[Example]) -> int:
    """Examples in a share: rounded half up, but never none."""
    return max(1, math.floor(share * len(examples) + 0.5)) if share else 0


def _rank(example: Example, purpose: str) -> tuple[str, str]:
    return hashlib.sha256(f"{purpose}:{example.fingerprint}".encode()).hexdigest(), example.id


def _fields(row: object, place: str) -> dict[str, Any]:
    """The row's fields, checked."""
    if not isinstance(row, Mapping):
        raise ConfigError(
            f"{place}: {_shown(row)} is not a mapping of fields like {{'question': '2 + 2?', 'answer': '4'}}"
        )
    for name in row:
        if not isinstance(name, str) or not name.strip():
            raise ConfigError(f"{place}: the field name {name!r} is not a text; name every field")
    fields = dict(row)
    try:
        _canonical(fields)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"{place}: {error}; fields hold only text, finite numbers, true, false, null, lists and mappings of these"
        ) from None
    return fields


def _with_id(fields: dict[str, Any], id_field: str, place: str) -> Example:
    if id_field not in fields:
        raise ConfigError(
            f"{place}: no field {id_field!r}, which holds the ids; fields are {', '.join(fields) or 'none'}"
        )
    value = fields.pop(id_field)
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise ConfigError(f"{place}: the id {_shown(value)} is neither a text nor a whole number")
    _not_empty(fields, place)
    return Example(id=str(value), fields=fields)


def _without_id(fields: dict[str, Any], place: str) -> Example:
    _not_empty(fields, place)
    # 64 bits: among a million examples two share an id once in 40 million tasks, and then they are refused.
    return Example(id=hashlib.sha256(_canonical(fields).encode()).hexdigest()[:16], fields=fields)


def _not_empty(fields: Mapping[str, Any], place: str) -> None:
    if not fields:
        raise ConfigError(f"{place}: there are no fields for a prompt to fill in; add one, like question")


def _twice(name: str, first: str, second: str, has_ids: bool) -> str:
    if has_ids:
        return f"{second}: the id {name!r} was used before, at {first}; give every example an id of its own"
    return f"{second}: the same example as at {first}; remove one of them, or give each an id"


def _canonical(fields: Mapping[str, Any]) -> str:
    return json.dumps(fields, sort_keys=True, allow_nan=False, separators=(",", ":"))


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
