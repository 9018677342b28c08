"""Whole runs: stopped at any moment they go on along the same curve, several processes draw the same one, and it goes down."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from local_backend.checkpoint import load_heads
from local_backend.config import SetupError
from local_backend.tiny import weights_path
from local_backend.training import LossConfig, TrainConfig, TrainResult, train
from local_backend.training.corpus import Corpus
from local_backend.training.metrics import read_metrics
from local_backend.training.run import RUN
from local_backend.training.state import TrainState
from tests.backend.training.training_parts import id_records, random_model, write_lines

STEPS = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with records beside it."""
    folder = tmp_path_factory.mktemp("base")
    random_model().save_pretrained(folder / "model")
    AutoTokenizer.from_pretrained(weights_path()).save_pretrained(folder / "model")
    id_records(folder / "data.jsonl", count=40)
    return folder


def _config(folder: Path, out: Path, **settings: Any) -> TrainConfig:
    settings = {"steps": STEPS, "batch_size": 8, "learning_rate": 3e-3, "device": "cpu", "resume": True, **settings}
    return TrainConfig(model=str(folder / "model"), data=folder / "data.jsonl", out=out, **settings)


def _curve(result: TrainResult | Path) -> list[dict[str, Any]]:
    return read_metrics(result.metrics if isinstance(result, TrainResult) else result / RUN / "metrics.jsonl")


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    """The run that nothing disturbed."""
    return train(_config(folder, tmp_path_factory.mktemp("whole") / "out"))


def _child(config: TrainConfig, environment: Mapping[str, str]) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    train(config)


def _start(config: TrainConfig, environment: Mapping[str, str] | None = None) -> BaseProcess:
    # A server that has imported torch forks the children: a fresh interpreter for each would take most of the test's time.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["local_backend.training.train"])
    child = context.Process(target=_child, args=(config, environment or {}))
    child.start()
    return child


def test_killed_at_random_moments_it_draws_the_same_curve(folder: Path, whole: TrainResult, tmp_path: Path) -> None:
    config = _config(folder, tmp_path / "out", checkpoint_seconds=0)
    random = Random(0)
    for until in (1, 15):
        child = _start(config)
        deadline = time.monotonic() + 60
        while len(_curve(config.out)) < until and child.is_alive() and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(random.random() * 0.03)
        child.kill()
        child.join(60)
        assert child.exitcode == -signal.SIGKILL, f"it ended before {until} steps were killed"
    result = train(config)
    assert _curve(result) == _curve(whole)
    assert [record["step"] for record in _curve(result)] == list(range(1, STEPS + 1))
    for name, tensor in result.heads.state_dict().items():
        assert torch.equal(tensor, whole.heads.state_dict()[name]), name


def _interrupted(config: TrainConfig, at: int) -> TrainResult:
    def report(step: int, steps: int, values: Mapping[str, float]) -> None:
        if step == at:
            signal.raise_signal(signal.SIGINT)

    return train(config, report=report)


def test_ctrl_c_leaves_a_state_that_goes_on_along_the_same_curve(
    folder: Path, whole: TrainResult, tmp_path: Path
) -> None:
    config = _config(folder, tmp_path / "out")
    handler = signal.getsignal(signal.SIGINT)
    stopped = _interrupted(config, at=11)
    assert (stopped.step, stopped.finished, stopped.held_out) == (12, False, None)
    assert signal.getsignal(signal.SIGINT) is handler
    assert load_heads(config.out)[1].recipe["steps_done"] == 12
    assert _curve(train(config)) == _curve(whole)


def _forget_the_optimiser(monkeypatch: pytest.MonkeyPatch, out: Path) -> None:
    state = torch.load(out / RUN / "state.pt", weights_only=True)
    state["optimiser"]["state"] = {}
    torch.save(state, out / RUN / "state.pt")


def _forget_the_place_in_the_data(monkeypatch: pytest.MonkeyPatch, out: Path) -> None:
    true = Corpus.examples_from
    monkeypatch.setattr(Corpus, "examples_from", lambda self, step, config: true(self, 0, config))


@pytest.mark.parametrize("forget", [_forget_the_optimiser, _forget_the_place_in_the_data])
def test_a_resume_that_forgets_something_is_noticed(
    forget: Any, folder: Path, whole: TrainResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _config(folder, tmp_path / "out")
    _interrupted(config, at=11)
    forget(monkeypatch, config.out)
    curve = _curve(train(config))
    assert curve[:12] == _curve(whole)[:12]
    assert curve[12:] != _curve(whole)[12:]


def test_two_processes_draw_the_curve_of_one(folder: Path, whole: TrainResult, tmp_path: Path) -> None:
    config = _config(folder, tmp_path / "out")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    children = [_start(config, {**shared, "RANK": rank, "LOCAL_RANK": rank}) for rank in ("0", "1")]
    for child in children:
        child.join(120)
    assert [child.exitcode for child in children] == [0, 0]
    assert len(_curve(config.out)) == STEPS
    for ours, theirs in zip(_curve(config.out), _curve(whole), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)
    told = json.loads((config.out / RUN / "held_out.json").read_text())
    assert whole.held_out is not None
    assert told["loss"]["heads"] == pytest.approx(whole.held_out.loss.heads, rel=1e-4)
    assert told["records"] == whole.held_out.records


def test_cutting_a_step_into_other_micro_batches_changes_nothing_but_rounding(
    folder: Path, whole: TrainResult, tmp_path: Path
) -> None:
    small = train(_config(folder, tmp_path / "out", micro_batch_tokens=20, keep_mib=0, chunk_mib=1))
    for ours, theirs in zip(_curve(small), _curve(whole), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-6)


def test_the_heads_carry_everything_that_decided_them(folder: Path, whole: TrainResult) -> None:
    heads, info = load_heads(whole.out)
    recipe = info.recipe
    assert recipe["loss"] == {
        "form": "two_losses",
        "soft_top_p": "exclusive",
        "easy_token_drop": 0.6,
        "dft_exponent": 1.0,
        "alpha": 30.0,
        "min_temperature": 0.01,
    }
    assert (recipe["seed"], recipe["steps"], recipe["steps_done"], recipe["batch_size"]) == (0, STEPS, STEPS, 8)
    assert (recipe["learning_rate"], recipe["data_temperature"]) == (3e-3, None)
    assert info.base_name == str(folder / "model")
    for name, tensor in heads.state_dict().items():
        assert torch.equal(tensor, whole.heads.state_dict()[name]), name


def test_a_run_goes_on_only_as_it_was_begun(folder: Path, whole: TrainResult, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="seed was 0 and is 1"):
        train(_config(folder, whole.out, seed=1))
    with pytest.raises(SetupError, match="dft_exponent"):
        train(_config(folder, whole.out, loss=LossConfig(dft_exponent=0)))
    with pytest.raises(SetupError, match=f"holds a run at step {STEPS}: resume it, overwrite it"):
        train(_config(folder, whole.out, resume=False))
    again = train(_config(folder, whole.out))
    assert again.held_out == whole.held_out
    assert _curve(again) == _curve(whole)
    state = TrainState.load(whole.out / RUN)
    assert state is not None
    assert state.step == STEPS


def test_heads_of_somebody_else_are_not_replaced_unasked(folder: Path, tmp_path: Path) -> None:
    config = _config(folder, tmp_path / "out", steps=2)
    train(config)
    (config.out / RUN / "state.pt").unlink()
    for resume in (False, True):
        with pytest.raises(SetupError, match="holds heads already"):
            train(_config(folder, config.out, steps=2, resume=resume))
    assert train(_config(folder, config.out, steps=2, overwrite=True)).finished


def test_killed_before_its_first_state_a_run_starts_anew(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _config(folder, tmp_path / "out", steps=2)

    def die(self: TrainState, folder: Path) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(TrainState, "save", die)
        with pytest.raises(MemoryError):
            train(config)
    assert load_heads(config.out)[1].recipe["steps_done"] == 0
    assert train(config).finished


def test_a_damaged_state_is_told_of(folder: Path, tmp_path: Path) -> None:
    config = _config(folder, tmp_path / "out", steps=2)
    train(config)
    (config.out / RUN / "state.pt").write_bytes(b"torn")
    with pytest.raises(SetupError, match="is no training state"):
        train(config)
    assert train(_config(folder, config.out, steps=2, overwrite=True)).finished


@torch.no_grad()
def _answers_whose_temperature_depends_on_the_hidden_state(path: Path) -> Path:
    """Answers of the random model, drawn at .3 or at 1.7 by which side of a plane its hidden state lies on."""
    base = random_model()
    random = torch.Generator().manual_seed(0)
    direction = torch.randn(base.config.hidden_size, generator=random)
    lines = []
    for _ in range(90):
        ids = torch.randint(3, base.config.vocab_size, (1, 4), generator=random)
        for _ in range(8):
            out = base(input_ids=ids, output_hidden_states=True)
            heat = 0.3 if float(out.hidden_states[-1][0, -1] @ direction) > 0 else 1.7
            p = torch.softmax(out.logits[0, -1] / heat, dim=-1)
            ids = torch.cat([ids, torch.multinomial(p, 1, generator=random)[None]], dim=1)
        lines.append({"inputs": {"p_ids": ids[0, :4].tolist(), "r_ids": ids[0, 4:].tolist()}})
    return write_lines(path, lines)


def test_likelihood_training_beats_the_best_static_temperature_where_temperatures_differ(
    folder: Path, tmp_path: Path
) -> None:
    config = TrainConfig(
        model=str(folder / "model"),
        data=_answers_whose_temperature_depends_on_the_hidden_state(tmp_path / "data.jsonl"),
        out=tmp_path / "out",
        loss=LossConfig(easy_token_drop=0, dft_exponent=0),
        which="temperature",
        steps=100,
        learning_rate=1e-2,
        device="cpu",
    )
    held_out = train(config).held_out
    assert held_out is not None
    assert held_out.likelihood.high < 0
    assert held_out.likelihood.static <= held_out.likelihood.plain
    assert "better than" in held_out.likelihood.sentence("likelihood")
    # The losses of this form are the likelihood itself, up to how records are averaged.
    assert held_out.loss.heads == pytest.approx(held_out.likelihood.heads, abs=0.02)


def test_the_first_weights_and_the_masks_leave_the_callers_generator_alone(folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(_config(folder, tmp_path / "out", steps=2))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 3, "epochs": 2}, "exclude each other"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"validation_fraction": 1.0}, "validation_fraction=1.0"),
        ({"max_length": 9999, "steps": 1}, "longer than the model's own 8192"),
    ],
)
def test_settings_that_make_no_run_are_refused(
    folder: Path, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(SetupError, match=message):
        train(_config(folder, tmp_path / "out", **settings))
