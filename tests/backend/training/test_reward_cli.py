"""`heads reward` and `heads eval` from end to end on the embedded model, with a judge of one's own, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from local_backend.cli_heads.app import app

JUDGE = """
def short(record, answer):
    return len(answer) <= record["most"]

def worth(record, answers):
    return len(set(answers)) / len(answers)
"""
SMALL = ["--max-tokens", "4", "--threads", "1", "--device", "cpu"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "my_judge.py").write_text(JUDGE)
    for name in ("train", "validation", "test"):
        lines = [{"messages": [{"role": "user", "content": f"{name} {place}"}], "most": 3} for place in range(3)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.output


def reward(*more: str) -> tuple[int, str]:
    small = ["--steps", "2", "--prompts-a-step", "2", "--samples", "2"]
    return run("reward", "--model", "tiny", "--prompts", "train.jsonl", "--out", "out", *small, *SMALL, *more)


def test_reward_then_eval(folder: Path) -> None:
    code, output = reward("--score", "my_judge:worth", "--n", "2")
    assert code == 0, output
    assert "wrote out" in output
    code, output = run(
        "eval", "out", "--prompts", "test.jsonl", "--validation", "validation.jsonl", "--checker", "my_judge:short",
        "--samples", "2", "--quick", "--json", *SMALL,
    )  # fmt: skip
    assert code == 0, output
    table = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    assert table[0]["name"] == "these heads"
    assert {"score", "pass@1", "pass@2", "different answers", "tokens"} <= set(table[0])
    assert all(each["low"] <= each["difference"] <= each["high"] for each in table[1:])


def test_a_dry_run_draws_nothing(folder: Path) -> None:
    code, output = reward("--checker", "my_judge:short", "--dry-run")
    assert code == 0, output
    assert "all (3 prompts, scored by 1): 8 answers of up to 4 tokens each" in output
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ([], "say what is wanted"),
        (["--checker", "my_judge:short", "--score", "my_judge:worth"], "and not both"),
        (["--checker", "my_judge:short", "--aim", "right_once"], "the other aims are of several"),
        (["--checker", "my_judge:none"], "my_judge:none"),
        (["--score", "my_judge:worth", "--n", "4"], "draw at least as many"),
    ],
)
def test_what_cannot_work_is_told_in_a_line(folder: Path, more: list[str], told: str) -> None:
    code, output = reward(*more)
    assert code == 2
    assert told in output


def test_eval_wants_prompts_to_tune_on(folder: Path) -> None:
    assert reward("--score", "my_judge:worth", "--n", "2")[0] == 0
    code, output = run("eval", "out", "--prompts", "test.jsonl", "--checker", "my_judge:short", *SMALL)
    assert code == 2
    assert "--validation is missing" in output
