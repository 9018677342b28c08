"""Models of what users write, which say in one line what is wrong, where, and what to write instead."""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from selfreg_sdk.errors import ConfigError
from selfreg_sdk.tuner.task.yaml_text import Document

_SECRET_NAME = re.compile(
    r"(?:^|[_-])(?:(?:api)?[_-]?keys?|tokens?|secrets?|passwords?|authorization|credentials?)$", re.I
)
_SECRET_VALUE = re.compile(r"(?:sk-|sk_|gsk_|xai-|hf_|ghp_|AIza|Bearer\s)\S{16,}")
_REMEDY = "a task file is shared and stored; set SELFREG_API_KEY (or OPENAI_API_KEY) in the environment instead"

_OPEN = (
    ("examples",),
    ("prompts",),
    ("metric", "scorer", "schema"),
    ("cascade", "schema"),
    ("cascade", "filter", "schema"),
)
"""Where a task file holds what is the user's own matter."""

_MOST_PROBLEMS = 10


class Strict(BaseModel):
    """A model that takes no key it does not know, and names the nearest one."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _known(cls, value: object) -> object:
        """Refuse unknown keys here, where the known ones are at hand."""
        if isinstance(value, Mapping):
            known = [field.alias or name for name, field in cls.model_fields.items()]
            problems = {str(name): _unknown(name, known) for name in value if name not in known}
            if problems:
                raise PydanticCustomError(
                    "unknown_key", "{said}", {"problems": problems, "said": "; ".join(problems.values())}
                )
        return value


def explained(error: ValidationError, document: Document) -> ConfigError:
    """The same as an error of ours: one line for each problem, with its place in the document."""
    found = (line for problem in error.errors(include_url=False) for line in _lines(problem, document))
    shown = list(dict.fromkeys(found))
    more = [f"and {len(shown) - _MOST_PROBLEMS} more"] if len(shown) > _MOST_PROBLEMS else []
    return ConfigError("\n".join(shown[:_MOST_PROBLEMS] + more))


def refuse_secrets(document: Document, value: object, path: tuple[str | int, ...] = ()) -> None:
    """Raise ConfigError, without showing it, where a text looks like a key.

    What examples, prompts and schemas hold is the user's own matter.
    """
    if isinstance(value, Mapping):
        for name, part in value.items():
            if (*path, name) not in _OPEN:
                refuse_secrets(document, part, (*path, name))
    elif isinstance(value, list | tuple):
        for index, part in enumerate(value):
            refuse_secrets(document, part, (*path, index))
    elif isinstance(value, str) and _SECRET_VALUE.fullmatch(value.strip()):
        raise ConfigError(f"{_place(document, path)}: this looks like a key, and {_REMEDY}")


def _unknown(name: object, known: list[str]) -> str:
    if _SECRET_NAME.search(str(name)):
        return f"{name!r} does not belong here: {_REMEDY}"
    near = difflib.get_close_matches(str(name), known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
    return f"unknown key {reprlib.repr(name)}; {hint}"


def _lines(found: ErrorDetails, document: Document) -> list[str]:
    path = found["loc"]
    context: Mapping[str, Any] = found.get("ctx", {})
    if found["type"] == "unknown_key":
        inside = _dotted(document, path)
        return [
            f"{document.place((*path, key))}: {f'{inside}: ' if inside else ''}{problem}"
            for key, problem in context["problems"].items()
        ]
    shown = reprlib.repr(found["input"])
    match found["type"]:
        case "missing":
            return [f"{_place(document, path[:-1])}: {str(path[-1])!r} is missing; write it"]
        case "value_error":
            said = str(context["error"])
        case "literal_error":
            said = f"{shown} is not one of {context['expected']}"
        case "union_tag_invalid":
            said = f"{context['tag']!r} is not one of {context['expected_tags']}"
        case "union_tag_not_found":
            said = f"{context['discriminator']} is missing; write it"
        case _:
            said = f"{shown}: {found['msg']}"
    return [f"{_place(document, path)}: {said}"]


def _place(document: Document, path: tuple[str | int, ...]) -> str:
    inside = _dotted(document, path)
    return f"{document.place(path)}: {inside}" if inside else document.place(path)


def _dotted(document: Document, path: tuple[str | int, ...]) -> str:
    """The path as people write it; nothing for the document itself."""
    text = ""
    for part in document.written(path):
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
