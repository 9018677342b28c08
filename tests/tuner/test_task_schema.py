"""The published JSON schema is the code's, and editors that use it refuse nothing that is read."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from selfreg_sdk.tuner.task.file import parse_task, task_schema
from selfreg_sdk.tuner.task.spec import TaskSpec
from selfreg_sdk.tuner.task.yaml_text import read_yaml
from tests.tuner.written import DATA, DIMENSIONS, SCORERS, TASK

SCHEMA = Path(__file__).parents[2] / "docs" / "task.schema.json"

SHORT: list[dict[str, Any]] = [
    {"examples": "x.csv"},
    {"examples": {"file": "x.csv", "limit": 3}},
    {"prompts": {"file": "x.txt"}},
    {"prompts": [{"role": "system", "file": "x.txt"}, {"role": "user", "content": "{question}"}]},
    {"prompts": {"a": "{question}", "b": {"file": "x.txt"}}},
    {"models": "small"},
    {"metric": {"name": "vote", "vote_key": "m:f"}},
    {"cascade": "agreement"},
    {"cascade": "m:f"},
    {"cascade": {"kind": "regex", "pattern": "x"}},
    {"cascade": {"filter": {"kind": "agreement", "at_least": [0.5, 1]}}},
    {"cascade": {"filter": {"kind": "json_schema", "schema": {"type": "object"}}}},
    {"budget": 0.3, "inference_budget": "0.003 USD"},
    {"baseline": {"model": "small", "temperature": 1, "stop": "END"}},
    {"baseline": {"stop": ["END"], "reasoning_effort": "low"}},
]

WRONG: list[dict[str, Any]] = [
    {"exmples": []},
    {"name": "a|b"},
    {"name": " "},
    {"models": []},
    {"prompts": {}},
    {"prompts": [{"role": "robot", "content": "x"}]},
    {"metric": "vot"},
    {"metric": {"name": "vote", "scorer": {"tolerance": 1}}},
    {"metric": {"name": "vote", "scorer": "regex"}},
    {"space": {"temperature": [0, 3]}},
    {"space": {"top_p": 0}},
    {"space": {"n": [1.5, 3]}},
    {"space": {"max_tokens": [None, 5]}},
    {"space": {"reasoning_effort": "some"}},
    {"space": {"stop": [""]}},
    {"cascade": "vote"},
    {"cascade": {}},
    {"cascade": {"filter": {"kind": "agreement", "at_least": 0}}},
    {"cascade": {"filter": {"kind": "agreement", "at_least": []}}},
    {"baseline": {"temperature": 3}},
    {"budget": -1},
    {"holdout": 1},
    {"workers": 0},
]


@pytest.fixture(scope="module")
def editor() -> Any:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_the_published_schema_is_the_one_of_the_code() -> None:
    command = [sys.executable, "-m", "selfreg_sdk.tuner.task.file", "--schema"]
    printed = subprocess.run(command, capture_output=True, check=True, timeout=60, encoding="utf-8")
    assert SCHEMA.read_text(encoding="utf-8") == printed.stdout, f"run: {' '.join(command[1:])} > docs/{SCHEMA.name}"
    assert json.loads(printed.stdout) == task_schema()


def test_every_key_is_described() -> None:
    schema = task_schema()
    assert set(schema["properties"]) == set(TaskSpec.model_fields)
    assert all("description" in key for key in schema["properties"].values())
    assert schema["required"] == ["name", "examples", "prompts", "models", "metric"]


@pytest.mark.parametrize("name", ["sums", "reviews"])
def test_editors_take_whole_files(editor: Any, name: str) -> None:
    editor.validate(read_yaml(DATA / f"{name}.yaml", "task file").value)


@pytest.mark.parametrize(("name", "written"), [(name, written) for name, written, _ in DIMENSIONS])
def test_editors_take_every_dimension(editor: Any, name: str, written: object) -> None:
    if isinstance(written, int | float | str | list | dict):  # dimensions made in Python are no JSON
        editor.validate(TASK | {"space": {name: written}})


@pytest.mark.parametrize("scorer", [written for written, _ in SCORERS])
def test_editors_take_every_scorer(editor: Any, scorer: object) -> None:
    editor.validate(TASK | {"metric": {"name": "best", "scorer": scorer}})


@pytest.mark.parametrize("changes", SHORT)
def test_editors_take_every_form(editor: Any, changes: dict[str, Any]) -> None:
    editor.validate(TASK | changes)


@pytest.mark.parametrize("changes", WRONG)
def test_editors_and_the_reader_refuse_the_same(editor: Any, changes: dict[str, Any]) -> None:
    assert not editor.is_valid(TASK | changes)
    with pytest.raises(ValueError, match="task: "):
        parse_task(TASK | changes)
