"""YAML as people mean it: the text's own words stay text, nothing is dropped, and every value knows its line.

PyYAML reads YAML 1.1, where ``answer: no`` is false, ``1e-6`` a text, ``012`` ten and ``2026-11-21`` a date, and where a key
that stands twice silently loses its first value. Here numbers and words are JSON's, and anything else is text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from selfreg_sdk.errors import ConfigError
from selfreg_sdk.tuner.examples.texts import read_text

_MOST_NODES = 1_000_000
"""Values in one file; aliases count each time, since a few lines of them can stand for more than any memory holds."""

_TAG = "tag:yaml.org,2002:"


@dataclass(frozen=True, kw_only=True)
class Document:
    """Values as they were written, and where.

    Attributes:
        value: the whole content.
        origin: what messages call it: "task file 'sums.yaml'".
        folder: where the names of files in it start from.
    """

    value: Any
    origin: str
    folder: Path
    root: yaml.Node | None = field(default=None, repr=False)

    def place(self, path: Sequence[str | int]) -> str:
        """The origin and, if known, the line of the value at ``path``; parts that are not there are passed over."""
        node, line = self.root, None
        for part in path:
            found = _child(node, part)
            if found is not None:
                line, node = found
        return self.origin if line is None else f"{self.origin}, line {line}"

    def written(self, path: Sequence[str | int]) -> list[str | int]:
        """The parts of ``path`` that are there."""
        value, parts = self.value, list[str | int]()
        for part in path:
            in_list = isinstance(value, list | tuple) and isinstance(part, int) and part < len(value)
            if in_list or (isinstance(value, Mapping) and part in value):
                value = value[part]
                parts.append(part)
        return parts


def read_yaml(file: Path, what: str) -> Document:
    """The mapping in a YAML file.

    Raises:
        ConfigError: it cannot be read, is not YAML, is not a mapping, has a key twice, or uses tags or merge keys; names
            the line. Values are not shown, since any of them may be a key that does not belong there.
    """
    origin = f"{what} {str(file)!r}"
    text = read_text(file, what)
    try:
        root = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = origin if mark is None else f"{origin}, line {mark.line + 1}, column {mark.column + 1}"
        raise ConfigError(f"{place} is not valid YAML: {_problem(error)}") from None
    except yaml.YAMLError as error:
        position = getattr(error, "position", None)
        place = origin if position is None else f"{origin}, line {text.count(chr(10), 0, position) + 1}"
        raise ConfigError(f"{place} holds a character that YAML does not allow; remove it") from None
    except RecursionError:
        raise ConfigError(f"{origin} is nested too deeply; make it flatter") from None
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"{origin} must hold a mapping like 'name: sums', with one key a line")
    return Document(value=_Reading(origin).value(root), origin=origin, folder=file.parent, root=root)


class _Loader(yaml.SafeLoader):
    """Resolves plain words as JSON does."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own protocol


for _kind, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ("~", "n", "N", "")),
    ("bool", r"true|True|TRUE|false|False|FALSE", tuple("tTfF")),
    ("int", r"[-+]?(?:0|[1-9]\d*)", tuple("-+0123456789")),
    ("float", r"[-+]?(?:\.\d+|(?:0|[1-9]\d*)(?:\.\d*)?)(?:[eE][-+]?\d+)?", tuple("-+.0123456789")),
):
    _Loader.add_implicit_resolver(_TAG + _kind, re.compile(f"^(?:{_pattern})$", re.ASCII), list(_first))


class _Reading:
    """From nodes to values; PyYAML's own constructor would let the last of two equal keys win."""

    def __init__(self, origin: str) -> None:
        self._origin = origin
        self._around: list[yaml.Node] = []
        self._count = 0

    def value(self, node: yaml.Node) -> Any:
        self._count += 1
        if self._count > _MOST_NODES:
            self._refuse(node, f"more than {_MOST_NODES} values; keep the examples in a file of their own")
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        if any(node is outer for outer in self._around):
            self._refuse(node, "an alias to what it stands in; write the value out")
        if not node.tag.startswith(_TAG) or node.tag.removeprefix(_TAG) not in ("map", "seq"):
            self._refuse(node, f"the tag {node.tag!r} is not known; leave it out")
        self._around.append(node)
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node)
            return [self.value(item) for item in node.value]
        finally:
            self._around.pop()

    def _mapping(self, node: yaml.MappingNode) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag != f"{_TAG}str":
                self._refuse(key, "a key that is no text; put quotes around it")
            if key.value == "<<" and key.style is None:
                self._refuse(key, "merge keys (<<) are not read; write the fields out")
            if key.value in made:
                self._refuse(key, f"the key {key.value!r} stands twice; keep one")
            made[key.value] = self.value(value)
        return made

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        match node.tag.removeprefix(_TAG):
            case "str":
                return node.value
            case "null":
                return None
            case "bool":
                return node.value.lower() == "true"
            case "int" if len(node.value) <= 4300:  # Python reads no longer ones
                return int(node.value)
            case "float" if math.isfinite(number := float(node.value)):
                return number
            case "int" | "float":
                self._refuse(node, "a number too large to hold")
        self._refuse(node, f"the tag {node.tag!r} is not known; leave it out")

    def _refuse(self, node: yaml.Node, problem: str) -> Any:
        raise ConfigError(f"{self._origin}, line {node.start_mark.line + 1}: {problem}")


def _child(node: yaml.Node | None, part: str | int) -> tuple[int, yaml.Node] | None:
    """The line and the node of a part of a mapping or a list."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == part:
                return key.start_mark.line + 1, value
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part].start_mark.line + 1, node.value[part]
    return None


def _problem(error: yaml.MarkedYAMLError) -> str:
    """PyYAML's words for it, without the text around the place."""
    problem = error.problem or "it cannot be read"
    if problem == "mapping values are not allowed here":
        return f"{problem}; put quotes around text that holds ': ', or write it below '|'"
    return problem
