"""A plan: what a request needs, in words from closed sets.

Words and never numbers, because models that verbalise numbers pile up on a few round ones, while choosing
a category is easy; the numbers come from a table (`policies.numbers`). After HAG (arXiv 2402.11251), which
generates the configuration before the answer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_type_hints

Family = Literal["reasoning", "maths", "code", "translation", "creative", "extraction", "summary", "chat"]
Determinism = Literal["exact", "steady", "open"]
Diversity = Literal["one", "few", "many"]
Depth = Literal["none", "short", "long"]
Length = Literal["word", "line", "paragraph", "page"]

PLAN_MARKER = "You plan how a language model should decode."
"""First sentence of every planning instruction. A local model's chat template may recognise it and
replace the whole instruction by one special token."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What one request needs from decoding.

    Attributes:
        family: kind of task.
        determinism: exact = one right answer, steady = some freedom of wording, open = freedom wanted.
        diversity: how different several samples should be: one, few or many kinds.
        depth: how much thinking before the answer.
        length: size of the answer.
    """

    family: Family
    determinism: Determinism
    diversity: Diversity
    depth: Depth
    length: Length

    def __post_init__(self) -> None:
        for name, words in CHOICES.items():
            if getattr(self, name) not in words:
                raise ValueError(f"plan: {name}={getattr(self, name)!r} must be one of {words}")

    def as_dict(self) -> dict[str, str]:
        """Field name to word, in declaration order."""
        return dict(vars(self))

    def to_json(self) -> str:
        """Compact JSON in field order: the form planners are asked for."""
        return json.dumps(self.as_dict(), separators=(",", ":"))


CHOICES: Mapping[str, tuple[str, ...]] = {name: get_args(hint) for name, hint in get_type_hints(Plan).items()}
"""Field name to its allowed words."""


def plan_json_schema() -> dict[str, Any]:
    """JSON schema of a plan, strict: every field required, nothing else allowed."""
    return {
        "type": "object",
        "properties": {name: {"type": "string", "enum": list(words)} for name, words in CHOICES.items()},
        "required": list(CHOICES),
        "additionalProperties": False,
    }
