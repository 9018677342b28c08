"""Which requests are the same task, so that one configuration serves them all."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

Kind = Literal["first", "any", "vote", "best"]

_AGGREGATION_TEXT = re.compile(r"(first|any|vote|best)(?:\s+of\s+(\d{1,4}))?")
_DIGITS = re.compile(r"\d+")


@dataclass(frozen=True, kw_only=True)
class Aggregation:
    """How n samples become one answer.

    Part of the task key, because the right temperature depends on it: ten identical samples are worthless to
    "any of 10" and harmless to "first".

    Attributes:
        kind: first = take the first sample; any = one right sample is enough (the caller or a scorer finds it);
            vote = the most frequent answer; best = the sample with the highest score.
        n: samples per request.
    """

    kind: Kind = "first"
    n: int = 1

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"aggregation: kind={self.kind!r} must be one of {get_args(Kind)}")
        if self.n < 1:
            raise ValueError(f"aggregation: n={self.n!r} must be at least 1")
        if self.kind == "first" and self.n != 1:
            raise ValueError(f"aggregation: 'first' uses one sample, got n={self.n!r}; use 'any', 'vote' or 'best'")

    def __str__(self) -> str:
        return "first" if self.kind == "first" else f"{self.kind} of {self.n}"

    @classmethod
    def parse(cls, text: str | Aggregation) -> Aggregation:
        """Read "first", "vote of 5", "any of 8" or "best of 4".

        Raises:
            ValueError: naming the text and the accepted forms.
        """
        if isinstance(text, Aggregation):
            return text
        match = _AGGREGATION_TEXT.fullmatch(text.strip().lower())
        if match is None or (match[1] != "first" and match[2] is None):
            raise ValueError(f"aggregation {text!r}: write 'first', 'vote of N', 'any of N' or 'best of N'")
        return cls(kind=match[1], n=int(match[2] or 1))  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class TaskKey:
    """Identity of a task: which stored configuration belongs to a request.

    Attributes:
        task: the name the caller gave, or "auto-" and a hash of the prompt template.
        explicit: whether the caller gave the name.
        model: the answering model; a configuration never travels between models (HAG found them to differ).
        aggregation: how samples are used.
    """

    task: str
    explicit: bool
    model: str
    aggregation: Aggregation

    @cached_property
    def text(self) -> str:
        """The key in one line, as stores and records hold it."""
        return f"{self.task}|{self.model}|{self.aggregation}"

    def __str__(self) -> str:
        return self.text


def task_key(*, name: str | None, messages: Sequence[tuple[str, str]], model: str, aggregation: Aggregation) -> TaskKey:
    """Explicit name first, else a hash of the prompt template.

    Args:
        name: the caller's name of the task, e.g. "triage".
        messages: (role, text) pairs of the request.
        model: the answering model.
        aggregation: how samples are used.

    With a system (or developer) message, the template is all of them: user turns are its variables. Without one, the
    template is the first user message with its digits masked, so that unnamed free prompts are planned one by one
    instead of sharing a configuration they never agreed on.

    Raises:
        ValueError: if the name is blank or contains "|" or a line break, which would make keys ambiguous.
    """
    if name is not None:
        if not name.strip() or "|" in name or "\n" in name:
            raise ValueError(f"task name {name!r}: must not be blank nor contain '|' or a line break")
        return TaskKey(task=name, explicit=True, model=model, aggregation=aggregation)
    template = [text for role, text in messages if role in ("system", "developer")]
    if not template:
        template = [_DIGITS.sub("0", text) for role, text in messages if role == "user"][:1]
    digest = hashlib.sha256(json.dumps(template).encode()).hexdigest()[:16]
    return TaskKey(task=f"auto-{digest}", explicit=False, model=model, aggregation=aggregation)
