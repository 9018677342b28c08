"""Arguments in an integration's own spelling, read as the decoding parameters they are.

A token cap counts for the money whatever it is called, and an answer's record is to tell what was sent. So
``max_output_tokens=50`` or ``options={"num_predict": 50}`` is as explicit as ``max_tokens=50``, and goes the same way.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from policies import FIELDS, parse_params
from selfreg_sdk.adapters.ways import SPELLINGS

_MEANT = {name: name for name in FIELDS} | {name: param for param, names in SPELLINGS.items() for name in names}


def spelled(given: Mapping[str, Any], containers: Iterable[str]) -> dict[str, Any]:
    """The arguments of a call with every decoding parameter under its own name.

    A value that is none of ours (``num_predict=-1``) stays where it was, for the integration to read.

    Args:
        given: the caller's arguments.
        containers: the arguments that are dicts of parameters.
    """
    inside = {name for name in containers if name != "extra_body" and isinstance(given.get(name), Mapping)}
    if not inside and all(_meant(name) in (None, name) for name in given):
        return dict(given)
    found: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    for name, value in given.items():
        if name not in inside:
            _sort(name, value, found, rest)
            continue
        left: dict[str, Any] = {}
        for key, held in value.items():
            _sort(key, held, found, left)
        if left:
            rest[name] = left
    return {**found, **rest}


def _sort(name: str, value: Any, found: dict[str, Any], rest: dict[str, Any]) -> None:
    param = _meant(name)
    if param is None or not _valid(param, value):
        rest[name] = value
    elif param == name:
        found[param] = value
    else:
        found.setdefault(param, value)


def _meant(name: str) -> str | None:
    return _MEANT.get(re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", name).lower())  # AWS says maxTokens


def _valid(param: str, value: Any) -> bool:
    try:
        parse_params({param: value})
    except ValueError:
        return False
    return value is not None
