"""Prompts with placeholders, filled in from an example.

``{field}`` is replaced by a field of the example, ``{{`` and ``}}`` stand for braces. That is all: `str.format` would also read
attributes, items and formats, which a template out of a file has no business with.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

from selfreg_sdk.errors import ConfigError
from selfreg_sdk.tuner.examples.examples import Example

Role = Literal["system", "developer", "user", "assistant"]

_MARKS = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_NOT_A_NAME = re.compile(r"[.\[\]!:]|^\s|\s$|^$")


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A named template of one or several messages.

    Attributes:
        name: what configurations call it by.
        messages: (role, template) pairs.

    Raises:
        ConfigError: a role is not known, or a template holds what is no placeholder.
    """

    name: str
    messages: tuple[tuple[str, str], ...]

    def __post_init__(self) -> None:
        if not self.messages:
            raise ConfigError(f"prompt {self.name!r} has no messages; write at least one")
        for role, template in self.messages:
            if role not in get_args(Role):
                raise ConfigError(f"prompt {self.name!r}: the role {role!r} is not one of {', '.join(get_args(Role))}")
            if not template.strip():
                raise ConfigError(f"prompt {self.name!r}: the {role} message is empty; write its text")
        _ = self._pieces  # wrong templates are refused now, not at the first example

    @cached_property
    def fields(self) -> tuple[str, ...]:
        """The fields it fills in, in the order they first stand in it."""
        named = (name for _, pieces in self._pieces for _, name in pieces if name is not None)
        return tuple(dict.fromkeys(named))

    @cached_property
    def fingerprint(self) -> str:
        """What it says, in 64 hexadecimal digits: the same for every model, and under every name."""
        return hashlib.sha256(json.dumps(self.messages).encode()).hexdigest()

    def render(self, example: Example) -> list[dict[str, str]]:
        """The messages for an example, as they go on the wire.

        Text is filled in as it is and never read as a template again; anything else as JSON.

        Raises:
            ConfigError: the example has no such field, or null in it.
        """
        return [
            {"role": role, "content": "".join(_filled(self.name, pieces, example))} for role, pieces in self._pieces
        ]

    @cached_property
    def _pieces(self) -> tuple[tuple[str, tuple[tuple[str, str | None], ...]], ...]:
        """(role, pieces) of each message; a piece is literal text and the field that follows it."""
        return tuple((role, tuple(_parse(self.name, template))) for role, template in self.messages)


def check_prompts(prompts: Iterable[Prompt], examples: Sequence[Example]) -> None:
    """Make sure that every prompt can be filled in from every example, before anything is sent.

    Raises:
        ConfigError: names the prompt, the field, the example and the fields there are.
    """
    for prompt in prompts:
        for example in examples:
            for name in prompt.fields:
                _value(prompt.name, name, example)


def _parse(prompt: str, template: str) -> Iterable[tuple[str, str | None]]:
    literal, end = "", 0
    for mark in _MARKS.finditer(template):
        literal += template[end : mark.start()]
        end = mark.end()
        if mark[0] in ("{{", "}}"):
            literal += mark[0][0]
        elif mark[1] is None:
            line = template.count("\n", 0, mark.start()) + 1
            raise ConfigError(
                f"prompt {prompt!r}, line {line} of the template: a lone {mark[0]!r}; write {mark[0] * 2!r} for the brace itself"
            )
        else:
            yield literal, _name(prompt, mark[1])
            literal = ""
    yield literal + template[end:], None


def _name(prompt: str, text: str) -> str:
    if _NOT_A_NAME.search(text) or text.isdecimal():
        raise ConfigError(
            f"prompt {prompt!r}: {'{' + text[:60] + '}'!r} is not a placeholder; write the name of a field like {{question}}, "
            f"without attributes or formats, and {{{{ and }}}} for braces themselves"
        )
    return text


def _filled(prompt: str, pieces: Iterable[tuple[str, str | None]], example: Example) -> Iterable[str]:
    for literal, name in pieces:
        yield literal
        if name is not None:
            value = _value(prompt, name, example)
            yield value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _value(prompt: str, name: str, example: Example) -> Any:
    if name not in example.fields:
        near = difflib.get_close_matches(name, example.fields, n=1)
        raise ConfigError(
            f"prompt {prompt!r} fills in {{{name}}}, but example {example.id!r} has no such field; "
            f"its fields are {', '.join(example.fields)}" + (f"; did you mean {{{near[0]}}}?" if near else "")
        )
    if (value := example.fields[name]) is None:
        raise ConfigError(
            f"prompt {prompt!r} fills in {{{name}}}, but example {example.id!r} has null there; "
            f'write a value, or "" for nothing'
        )
    return value
