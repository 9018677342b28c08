"""`heads sample` and `heads train` as a person types them."""

from __future__ import annotations

import importlib
import json
import signal
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from local_backend.__main__ import app
from local_backend.checkpoint import load_heads
from local_backend.training.metrics import MetricsLog, read_metrics
from tests.backend.training.training_parts import family_records, write_lines


def _run(*words: Any) -> Result:
    return CliRunner().invoke(app, ["heads", *map(str, words)])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return family_records(tmp_path_factory.mktemp("data") / "data.jsonl", count=4)


def test_answers_of_the_embedded_model_to_heads_in_two_commands(tmp_path: Path) -> None:
    answers, out = tmp_path / "answers.jsonl", tmp_path / "heads"
    sampled = _run(
        *("sample", "--model", "tiny", "--prompts", "tiny", "--checker", "tiny", "--count", 2, "--samples", 2),
        *("--max-tokens", 150, "--device", "cpu", "--out", answers),
    )
    assert sampled.exit_code == 0, sampled.output
    assert "12 of 12 prompts" in sampled.output
    trained = _run("train", "--model", "tiny", "--data", answers, "--out", out, "--steps", 4, "--device", "cpu")
    assert trained.exit_code == 0, trained.output
    for told in (
        "records to train on",
        "the heads decide T=",
        "best static T=",
        "trained loss",
        "likelihood",
        f"wrote {out}",
    ):
        assert told in trained.output
    recipe = load_heads(out)[1].recipe
    assert (recipe["data_temperature"], recipe["steps_done"]) == (1.0, 4)
    assert [record["step"] for record in read_metrics(out / "training" / "metrics.jsonl")] == [1, 2, 3, 4]


def test_a_dry_run_says_what_it_takes_and_writes_nothing(data: Path, tmp_path: Path) -> None:
    result = _run("train", "--model", "tiny", "--data", data, "--out", tmp_path / "out", "--dry-run", "--epochs", 3)
    assert result.exit_code == 0, result.output
    assert "3 steps, 3.00 epochs" in result.output
    assert "GiB" in result.output
    assert "do not say at which temperature" in result.output
    assert not (tmp_path / "out").exists()
    with_prompts = write_lines(tmp_path / "prompts.jsonl", [{"prompt": "<s>a"}, {"prompt": "<s>bc"}])
    dry = _run(
        *("sample", "--model", "tiny", "--prompts", with_prompts, "--checker", "operator:eq"),
        *("--out", tmp_path / "answers.jsonl", "--dry-run"),
    )
    assert "2 prompts of up to 3 tokens, 8 answers" in dry.output
    assert not (tmp_path / "answers.jsonl").exists()


def test_ctrl_c_says_how_to_go_on_and_the_same_command_goes_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["train", "--model", "tiny", "--data", data, "--out", tmp_path / "out", "--steps", 3, "--device", "cpu"]
    # The package's name `train` is the function; this is its module.
    module = importlib.import_module("local_backend.training.train")
    true = module.train

    def interrupted(config: Any, *, tell: Any, report: Any) -> Any:
        def report_then_interrupt(step: int, *others: Any) -> None:
            report(step, *others)
            if step == 1:
                signal.raise_signal(signal.SIGINT)

        return true(config, tell=tell, report=report_then_interrupt)

    with monkeypatch.context() as patch:
        patch.setattr(module, "train", interrupted)
        stopped = _run(*words)
    assert stopped.exit_code == 130, stopped.output
    assert "stopped after step 2 of 3; the same command with --resume goes on" in stopped.output
    refused = _run(*words)
    assert refused.exit_code == 2
    assert "holds a run at step 2" in refused.output
    assert _run(*words, "--resume").exit_code == 0


def test_mistakes_are_one_line(data: Path, tmp_path: Path) -> None:
    empty = write_lines(tmp_path / "empty.jsonl", [{"prompt": "a", "completion": ""}])
    for words, told in (
        (["train", "--model", "tiny", "--data", empty, "--out", tmp_path / "out"], "line 1: the completion is empty"),
        (["train", "--model", "tiny", "--data", tmp_path / "none.jsonl", "--out", tmp_path / "out"], "cannot read"),
        (["train", "--model", tmp_path / "none", "--data", data, "--out", tmp_path / "out"], "none"),
        (["train", "--model", "tiny", "--data", data, "--out", tmp_path / "o", "--steps", 1, "--epochs", 1], "exclude"),
        (
            ["sample", "--model", "tiny", "--prompts", "tiny", "--checker", "a:b", "--out", tmp_path / "o"],
            "both are tiny",
        ),
    ):
        result = _run(*words)
        assert result.exit_code == 2, result.output
        assert "error: " in result.output
        assert told in result.output
        assert "Traceback" not in result.output


def test_metrics_of_steps_after_the_state_are_written_again_and_torn_lines_are_none(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, after=0)
    for step in (1, 2, 3):
        log.write(step, {"loss": 1 / step})
    log.close()
    with log.path.open("a") as file:
        file.write('{"step": 4, "lo')
    assert [record["step"] for record in read_metrics(log.path)] == [1, 2, 3]
    again = MetricsLog(tmp_path, after=2)
    again.write(3, {"loss": 0.5})
    again.close()
    assert [json.loads(line) for line in log.path.read_text().splitlines()] == [
        {"step": 1, "loss": 1.0},
        {"step": 2, "loss": 0.5},
        {"step": 3, "loss": 0.5},
    ]


def test_tensorboard_is_optional_and_its_absence_is_told(data: Path, tmp_path: Path) -> None:
    try:
        import tensorboard  # noqa: F401 - whether it is there is the question
    except ImportError:
        result = _run(
            "train", "--model", "tiny", "--data", data, "--out", tmp_path / "out", "--steps", 1, "--tensorboard"
        )
        assert result.exit_code == 2
        assert "pip install tensorboard" in result.output
    else:
        MetricsLog(tmp_path, after=0, tensorboard=True).close()
        assert list((tmp_path / "tensorboard").iterdir())
