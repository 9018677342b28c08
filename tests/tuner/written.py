"""Tasks as users write them, shared by the tests of what is read and of what editors take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from selfreg_sdk.errors import ConfigError
from selfreg_sdk.tuner.scoring.code_rule import Code
from selfreg_sdk.tuner.scoring.rule import Rule
from selfreg_sdk.tuner.scoring.sandbox import Limits, Sandbox
from selfreg_sdk.tuner.scoring.text_rules import Exact, Numeric, Regex
from selfreg_sdk.tuner.search.dimensions import Choice, Float, Int
from selfreg_sdk.tuner.task.file import Task, parse_task

DATA = Path(__file__).parent / "data"

TASK: dict[str, Any] = {
    "name": "sums",
    "examples": [{"question": f"{number} + 1", "answer": str(number + 1)} for number in range(4)],
    "prompts": "What is {question}?",
    "models": ["small"],
    "metric": "expected_success",
}


DIMENSIONS: list[tuple[str, Any, Any]] = [
    ("temperature", 0.5, Choice((0.5,))),
    ("temperature", [0, 1], Float(0.0, 1.0)),
    ("temperature", {"choices": [0, 1]}, Choice((0.0, 1.0))),
    ("temperature", [0, None], Choice((0.0, None))),
    ("temperature", {"low": 0.1, "high": 1, "log": True}, Float(0.1, 1.0, log=True)),
    ("temperature", Float(0.0, 1.0), Float(0.0, 1.0)),
    ("top_p", [0.5, 0.9, 1], Choice((0.5, 0.9, 1.0))),
    ("frequency_penalty", [-2, 2], Float(-2.0, 2.0)),
    ("max_tokens", [16, 256], Int(16, 256, log=True)),
    ("max_tokens", {"low": 16, "high": 256, "log": False}, Int(16, 256)),
    ("n", 5, Choice((5,))),
    ("stop", "\n", Choice((["\n"],))),
    ("stop", ["\n", "END"], Choice((["\n", "END"],))),
    ("stop", [["\n"], "END", None], Choice((["\n"], ["END"], None))),
    ("stop", {"choices": ["\n", []]}, Choice((["\n"], None))),
    ("reasoning_effort", "low", Choice(("low",))),
    ("reasoning_effort", ["low", "high"], Choice(("low", "high"))),
    ("verbosity", [None, "low"], Choice((None, "low"))),
]


def refused(**changes: Any) -> str:
    """What is said about the task with these changes; None takes a key out."""
    values = {name: value for name, value in (TASK | changes).items() if value is not None}
    with pytest.raises(ConfigError) as caught:
        parse_task(values)
    assert caught.value.__cause__ is None
    return str(caught.value)


def task(**changes: Any) -> Task:
    return parse_task(TASK | changes)


SCORERS: list[tuple[Any, Rule | None]] = [
    ("exact", Exact()),
    ({"kind": "exact", "ignore_case": True}, Exact(ignore_case=True)),
    ({"kind": "numeric", "tolerance": 0.5, "percent": "share"}, Numeric(tolerance=0.5, percent="share")),
    ({"kind": "regex", "pattern": "is (?P<x>.*)", "group": "x"}, Regex(pattern="is (?P<x>.*)", group="x")),
    (
        {"kind": "code", "tests": "question", "seconds": 1.5, "memory_mb": 64},
        Code(tests="question", sandbox=Sandbox(limits=Limits(wall=1.5, cpu=2, memory=64 << 20))),
    ),
    ({"kind": "judge", "rubric": "It is kind.", "scale": {"kind": 1, "unkind": 0}, "show": ["question"]}, None),
    ({"kind": "python", "function": "m:f", "seconds": 2}, None),
    ("m.n:f", None),
]
