"""Sentences that ask for less, as much or more randomness than usual, and where they stand in a prompt.

Heads are steered with some wordings and judged on others too, since a sentence that was trained on proves nothing about the next one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from local_backend.training.data import DataError

Level = Literal["low", "normal", "high"]
LEVELS: tuple[Level, ...] = get_args(Level)
Place = Literal["before", "after", "system"]
Wordings = Mapping[Level, tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class Commands:
    """Wordings of each level, those to learn from and those to be judged on; an empty one is a prompt without a command.

    Attributes:
        training: by level, at least one each.
        held_out: by level; empty where nothing is to be said of new wordings.
    """

    training: Wordings
    held_out: Wordings

    def __post_init__(self) -> None:
        for name, wordings in (("training", self.training), ("held_out", self.held_out)):
            lacking = [level for level in LEVELS if not wordings.get(level)]
            if lacking and (name == "training" or wordings):
                raise DataError(f"{name} has no wordings for {', '.join(lacking)}: give at least one for each level")
        trained = {wording for level in LEVELS for wording in self.training[level] if wording}
        for wording in (wording for those in self.held_out.values() for wording in those):
            if wording in trained:
                raise DataError(f"{wording!r} is trained on and held out: move it to one side")


ENGLISH = Commands(
    training={
        "low": (
            "Answer with low randomness.",
            "Keep randomness low.",
            "Use a low temperature.",
            "Be as deterministic as you can.",
            "Be precise and predictable.",
            "No surprises, please.",
            "Give the most likely answer.",
            "Stick to the obvious answer.",
            "Play it safe.",
            "Do not be creative.",
            "Avoid variety.",
            "Answer the same way every time.",
        ),
        "normal": (
            "",
            "",
            "",
            "Answer with normal randomness.",
            "Use your usual temperature.",
            "Answer as you always do.",
            "Neither too random nor too strict.",
        ),
        "high": (
            "Answer with high randomness.",
            "Keep randomness high.",
            "Use a high temperature.",
            "Be as diverse as you can.",
            "Be creative and original.",
            "Surprise me.",
            "Give an unusual answer.",
            "Go beyond the obvious answer.",
            "Take risks.",
            "Let your imagination run.",
            "Maximize variety.",
            "Answer differently every time.",
        ),
    },
    held_out={
        "low": (
            "Please answer with very little randomness.",
            "Keep the temperature low.",
            "Be consistent and careful.",
            "Choose the safest answer.",
        ),
        "normal": ("", "Keep randomness as usual.", "Just answer normally."),
        "high": (
            "Please answer with a lot of randomness.",
            "Keep the temperature high.",
            "Be bold and inventive.",
            "Choose a rare answer.",
        ),
    },
)
"""What is used where no file of commands is given; three of the normal ones are no command at all, as most prompts are."""


def read_commands(path: Path) -> Commands:
    """Read `{"training": {"low": [...], "normal": [...], "high": [...]}, "held_out": {...}}`; held_out may be left out.

    Raises:
        DataError: the file cannot be read, or is not of this form.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        sides = {side: found.get(side, {}) for side in ("training", "held_out")}
        wordings = {
            side: {level: tuple(map(_sentence, those)) for level, those in levels.items() if level in LEVELS}
            for side, levels in sides.items()
        }
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise DataError(
            f'{str(path)!r} is no file of commands ({error}): write {{"training": {{"low": [...], "normal": [...], "high": [...]}}}}'
        ) from error
    return Commands(training=wordings["training"], held_out=wordings["held_out"])


def _sentence(wording: Any) -> str:
    if not isinstance(wording, str):
        raise TypeError(f"{wording!r} is no text")
    return wording


def commanded(record: Mapping[str, Any], command: str, place: Place) -> dict[str, Any]:
    """A training record with a command in its prompt.

    Args:
        record: with messages, or with prompt and completion, as in `local_backend.training.data`.
        command: one wording; an empty one leaves the record as it is.
        place: before or after the last words of the user, or in the system message. A prompt that is one text has no roles: there
            the command opens or ends it.

    Raises:
        ValueError: the record has no place for it.
    """
    prompt, completion = record.get("prompt"), record.get("completion")
    if isinstance(prompt, str) and isinstance(completion, str):
        if place == "system":
            raise ValueError("a prompt of plain text has no system message: give messages, or put the command before")
        return {"prompt": _beside(prompt, command, place), "completion": completion}
    if isinstance(prompt, list) and isinstance(completion, list):
        return {"prompt": _in_conversation(prompt, command, place), "completion": completion}
    messages = record.get("messages")
    if isinstance(messages, list) and messages:
        return {"messages": [*_in_conversation(messages[:-1], command, place), messages[-1]]}
    raise ValueError(
        'needs "messages", or "prompt" and "completion": a command cannot be put into a prompt of token ids'
    )


def _in_conversation(messages: Sequence[Any], command: str, place: Place) -> list[Any]:
    if not command:
        return list(messages)
    if place == "system":
        if messages and messages[0].get("role") == "system":
            return [{**messages[0], "content": _beside(_text(messages[0]), command, "after")}, *messages[1:]]
        return [{"role": "system", "content": command}, *messages]
    at = max((at for at, message in enumerate(messages) if message.get("role") == "user"), default=None)
    if at is None:
        raise ValueError("has no message of the user's to put a command into")
    spoken = {**messages[at], "content": _beside(_text(messages[at]), command, place)}
    return [*messages[:at], spoken, *messages[at + 1 :]]


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if not isinstance(content, str):
        raise ValueError(f"the content of a message is {type(content).__name__}, not text")
    return content


def _beside(text: str, command: str, place: Place) -> str:
    if not command:
        return text
    return f"{command} {text}" if place == "before" else f"{text} {command}"
