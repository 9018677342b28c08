"""Steering: the loss by hand, the order on held-out prompts, what stays as it was, stopping and going on, and the command line."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from local_backend.checkpoint.load import load_heads
from local_backend.checkpoint.save import save_heads
from local_backend.cli_heads import app
from local_backend.config import SetupError
from local_backend.heads import Heads, HeadsConfig
from local_backend.tiny.tokenizer import make_tokenizer
from local_backend.training.metrics import read_metrics
from local_backend.training.steering.steer import SteerResult, steer, steering_loss
from local_backend.training.steering.steer_config import SteerConfig
from tests.backend.training.training_parts import HIDDEN, random_model, write_lines

TOKENIZER = make_tokenizer(context=256)
BASE = random_model(vocabulary=len(TOKENIZER))
COMMANDS = {
    "training": {"low": ["Calm."], "normal": [""], "high": ["Wild!"]},
    "held_out": {"low": ["Calm now."], "normal": [""], "high": ["Wild now!"]},
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base, heads for it, records and commands."""
    folder = tmp_path_factory.mktemp("steer")
    BASE.save_pretrained(folder / "base")
    TOKENIZER.save_pretrained(folder / "base")
    torch.manual_seed(1)
    heads = Heads(HeadsConfig(hidden_size=HIDDEN, temperature_width=64, top_p_width=64))
    save_heads(folder / "heads", heads, base=BASE, base_name=str(folder / "base"))
    (folder / "commands.json").write_text(json.dumps(COMMANDS))
    words = ("red", "blue", "tall", "old", "new", "cold", "warm", "slow")
    asked = [
        {"role": "user", "content": f"A {one} {two} {thing}?"}
        for one in words
        for two in words
        for thing in ("car", "tree")
    ]
    answers = [{"role": "assistant", "content": f"{turn['content'][2:-1]}: {len(turn['content'])}."} for turn in asked]
    write_lines(folder / "data.jsonl", ({"messages": list(turns)} for turns in zip(asked, answers, strict=True)))
    return folder


def config(inputs: Path, out: Path, **changes: Any) -> SteerConfig:
    given = {"held_out": 20, "steps": 150, "batch_size": 16, "learning_rate": 1e-2, "device": "cpu"}
    return SteerConfig(
        heads=str(inputs / "heads"),
        data=inputs / "data.jsonl",
        out=out,
        commands=inputs / "commands.json",
        **{**given, **changes},
    )


def run(inputs: Path, out: Path, **changes: Any) -> SteerResult:
    return steer(config(inputs, out, **changes), base=BASE, tokenizer=TOKENIZER)


def weights(folder: Path) -> Tensor:
    return torch.cat([each.flatten() for each in load_heads(folder)[0].state_dict().values()])


def test_the_loss_is_the_margins_that_are_missed_and_the_distance_of_normal_prompts() -> None:
    generator = torch.Generator().manual_seed(0)

    def decided(*lengths: int) -> list[Tensor]:
        spread = torch.tensor([2.0, 1.0], dtype=torch.float64)
        return [torch.rand(n, 2, dtype=torch.float64, generator=generator) * spread for n in lengths]

    now, before = [each.requires_grad_() for each in decided(3, 5, 2, 4, 1, 6)], decided(5, 1)
    before[1][:, 1] = 0.99  # above a P of .99 there is room for .005
    margins, anchor = (0.3, 0.1), 2.5
    expected = torch.zeros((), dtype=torch.float64)
    for row in range(2):
        low, normal, high = now[3 * row : 3 * row + 3]
        for kind, (margin, top) in enumerate(zip(margins, (2.0, 1.0), strict=True)):
            was = sum(before[row][:, kind]) / len(before[row])
            mean_low, mean, mean_high = (sum(each[:, kind]) / len(each) for each in (low, normal, high))
            below, above = min(margin, was / 2), min(margin, (top - was) / 2)
            expected = expected + max(below - (mean - mean_low), 0 * mean) / 2
            expected = expected + max(above - (mean_high - mean), 0 * mean) / 2
            expected = expected + anchor * sum((normal[:, kind] - before[row][:, kind]) ** 2) / len(normal) / 2
    slopes = torch.autograd.grad(expected, now, materialize_grads=True)
    loss = steering_loss(now, before, margins=margins, anchor=anchor)
    torch.testing.assert_close(loss.total, expected, rtol=1e-12, atol=0)
    for found, wanted in zip(torch.autograd.grad(loss.total, now, materialize_grads=True), slopes, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-15)


def test_an_order_with_room_to_spare_costs_nothing() -> None:
    levels = [torch.full((4, 2), value) for value in (0.2, 0.5, 0.8)]
    assert steering_loss(levels, [levels[1]], margins=(0.25, 0.25), anchor=9.0).total == 0
    assert steering_loss(levels[::-1], [levels[1]], margins=(0.25, 0.25), anchor=9.0).total > 0


def test_held_out_prompts_follow_commands_and_normal_ones_stay(inputs: Path, tmp_path: Path) -> None:
    untouched = [each.clone() for each in BASE.state_dict().values()]
    result = run(inputs, tmp_path / "steered")
    assert result.finished
    assert result.known is not None
    assert result.new is not None
    assert result.known.prompts == result.new.prompts == 20
    assert min(result.known.ordered) >= 0.95, result.known
    for kind in (0, 1):
        assert result.known.low[kind] < result.known.normal[kind] < result.known.high[kind]
    assert all(torch.equal(was, now) for was, now in zip(untouched, BASE.state_dict().values(), strict=True))
    # An anchor is what keeps the normal ones: with hardly any they move further.
    adrift = run(inputs, tmp_path / "adrift", anchor=1e-3).known
    assert adrift is not None
    assert adrift.moved[0] > 1.5 * result.known.moved[0], (adrift, result.known)
    told = json.loads((tmp_path / "steered" / "training" / "ordering.json").read_text())
    assert told["known"]["ordered"] == list(result.known.ordered)
    known = load_heads(tmp_path / "steered")[1]
    assert (known.recipe["method"], known.recipe["anchor"], known.recipe["steps_done"]) == ("steer", 1.0, 150)


def test_unsteered_heads_do_not_follow_commands(inputs: Path, tmp_path: Path) -> None:
    found = run(inputs, tmp_path / "heads", steps=1, learning_rate=1e-9).known
    assert found is not None
    assert max(found.ordered) < 0.9
    assert max(found.moved) < 1e-6
    assert found.before == pytest.approx(found.normal)


def test_a_stopped_run_goes_on_to_the_same_heads(inputs: Path, tmp_path: Path, ctrl_c_interrupts: None) -> None:
    whole = run(inputs, tmp_path / "whole", steps=12)
    assert whole.finished

    def stop(step: int, steps: int, loss: float) -> None:
        if step == 5:
            os.kill(os.getpid(), signal.SIGINT)

    cut = config(inputs, tmp_path / "cut", steps=12)
    first = steer(cut, base=BASE, tokenizer=TOKENIZER, report=stop)
    assert (first.step, first.finished, first.known) == (5, False, None)
    with pytest.raises(SetupError, match="holds a run at step 5"):
        run(inputs, tmp_path / "cut", steps=12)
    with pytest.raises(SetupError, match=r"anchor was 1\.0 and is 2\.0"):
        run(inputs, tmp_path / "cut", steps=12, anchor=2.0, resume=True)
    rest = run(inputs, tmp_path / "cut", steps=12, resume=True)
    assert rest.finished
    assert torch.equal(weights(tmp_path / "cut"), weights(tmp_path / "whole"))
    assert rest.known == whole.known
    curves = [read_metrics(tmp_path / name / "training" / "metrics.jsonl") for name in ("cut", "whole")]
    assert curves[0] == curves[1]
    assert [each["step"] for each in curves[0]] == list(range(1, 13))


def test_what_is_kept_and_how_much_is_in_memory_changes_nothing(inputs: Path, tmp_path: Path) -> None:
    run(inputs, tmp_path / "kept", steps=5)
    run(inputs, tmp_path / "small", steps=5, keep_mib=0, micro_batch_tokens=64, chunk_mib=1)
    torch.testing.assert_close(weights(tmp_path / "small"), weights(tmp_path / "kept"), rtol=1e-3, atol=1e-5)


def test_one_head_alone_is_steered_alone(inputs: Path, tmp_path: Path) -> None:
    heads = Heads(HeadsConfig(hidden_size=HIDDEN, top_p=False, temperature_width=32))
    save_heads(tmp_path / "heads", heads, base=BASE, base_name=str(inputs / "base"))
    result = steer(
        SteerConfig(
            heads=str(tmp_path / "heads"),
            data=inputs / "data.jsonl",
            out=tmp_path / "out",
            commands=inputs / "commands.json",
            steps=100,
            learning_rate=1e-2,
            held_out=20,
        ),
        base=BASE,
        tokenizer=TOKENIZER,
    )
    assert result.known is not None
    assert result.known.ordered[0] >= 0.9
    assert result.known.low[1] == result.known.normal[1] == result.known.high[1] == 1


def test_heads_of_another_base_are_refused(inputs: Path, tmp_path: Path) -> None:
    other = random_model(seed=5, vocabulary=len(TOKENIZER))
    with pytest.raises(SetupError, match="belong to another base"):
        steer(config(inputs, tmp_path / "out"), base=other, tokenizer=TOKENIZER)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"steps": 0}, "steps=0 must be at least 1"),
        ({"temperature_margin": 1.0}, r"temperature_margin=1.0 must be in \(0, 1\)"),
        ({"anchor": -1.0}, "anchor=-1.0 must be >= 0"),
        ({"learning_rate": 0.0}, "learning_rate=0.0 must be > 0"),
    ],
)
def test_a_run_that_cannot_be_is_refused(inputs: Path, tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(SetupError, match=said):
        config(inputs, tmp_path / "out", **changes)


def test_the_command_shows_trains_stops_and_says_how_to_go_on(inputs: Path, tmp_path: Path) -> None:
    def call(*arguments: str) -> tuple[int, str]:
        given = ["steer", str(inputs / "heads"), "--data", str(inputs / "data.jsonl"), "--out", str(tmp_path / "out")]
        given += ["--commands", str(inputs / "commands.json"), "--device", "cpu", "--steps", "3", "--held-out", "5"]
        found = CliRunner().invoke(app, [*given, *arguments])
        return found.exit_code, found.output

    code, said = call("--dry-run")
    assert code == 0, said
    assert "low: '<s><|user|>Calm. A " in said
    assert "high: '<s><|user|>Wild! A " in said
    assert not (tmp_path / "out").exists()
    code, said = call()
    assert code == 0, said
    assert "known wordings, 5 prompts: T low " in said
    assert "new wordings, 5 prompts: T low " in said
    code, said = call()
    assert code == 2
    assert "resume it, overwrite it, or name another folder" in said
    assert call("--resume")[0] == 0
    code, said = call("--anchor", "3", "--overwrite")
    assert code == 0, said
