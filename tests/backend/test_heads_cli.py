"""`python -m local_backend heads`: inspect, merge and split as a person meets them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from local_backend.__main__ import app
from local_backend.checkpoint import save_heads
from tests.backend.checkpoints import HEADS_ONLY, make_base, make_heads, tensors_of, write_base, write_config


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def heads(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """Runs `heads ...` in this process, as `python -m local_backend` does."""
    monkeypatch.setenv("COLUMNS", "160")

    def run(*arguments: object) -> Done:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            app(["heads", *map(str, arguments)])
        return Done(int(ended.value.code or 0), *capsys.readouterr())

    return run


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """A base, and heads trained on it."""
    base = make_base()
    base_folder = write_base(tmp_path / "base", base)
    recipe = {"seed": 3, "loss": "joint"}
    return base_folder, save_heads(
        tmp_path / "heads", make_heads(), base=base, base_name=str(base_folder), recipe=recipe
    )


@pytest.mark.parametrize("command", ["inspect", "merge", "split"])
def test_help_teaches(command: str, heads):
    assert command in heads("--help").stdout
    shown = heads(command, "--help")
    assert shown.returncode == 0
    assert f"selfreg heads {command} ./my-" in shown.stdout


def test_help_does_not_wait_for_torch():
    code = (
        "import sys\nfrom local_backend.__main__ import app\ntry: app(['heads', 'merge', '--help'])\n"
        "except SystemExit: pass\nsys.exit(' '.join({'torch', 'transformers'} & set(sys.modules)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_inspect(heads, folders, tmp_path: Path):
    base, folder = folders
    shown = heads("inspect", folder)
    assert shown.returncode == 0
    for said in ("temp_head.mlp.0.weight", "[256, 32]", "18,690 in F32", "llama", "vocab size 131", "recipe: seed"):
        assert said in shown.stdout
    found = json.loads(heads("inspect", folder, "--json").stdout)
    assert found["layout"] == "heads"
    assert found["hidden_size"] == 32
    assert found["temperature_head"] == {"width": 256}
    assert found["top_p_head"] == {"width": 256, "statistics": True}
    assert found["parameters"] == 512 * 32 + 2306  # as published
    assert found["dtype"] == "F32"
    assert found["tensors"]["top_p_head.mlp.0.weight"] == {"dtype": "F32", "shape": [256, 37]}
    assert found["recipe"] == {"seed": 3, "loss": "joint"}
    assert found["base"] == {
        "name": str(base),
        "model_type": "llama",
        "hidden_size": 32,
        "vocab_size": 131,
        "layers": 2,
        "fingerprint": True,
        "files": 0,
        "parameters": 0,
    }


def test_inspect_what_others_wrote(heads, tmp_path: Path):
    write_config(tmp_path, make_base("qwen2"))
    HEADS_ONLY["NeMo"](tmp_path, tensors_of(make_heads(top_p=False)))
    assert "none, or switched off" in heads("inspect", tmp_path).stdout
    found = json.loads(heads("inspect", tmp_path, "--json").stdout)
    assert found["top_p_head"] is None
    assert "module.adapter.temp_head.mlp.0.weight" in found["tensors"]
    assert found["base"]["name"] == "/home/author/models/base"
    assert not found["base"]["fingerprint"]


def test_merge_then_inspect_then_split(heads, folders, tmp_path: Path):
    base, folder = folders
    dry = heads("merge", folder, "--out", tmp_path / "merged", "--dry-run")
    assert dry.returncode == 0
    assert "would write" in dry.stdout
    assert not (tmp_path / "merged").exists()
    assert heads("merge", folder, "--out", tmp_path / "merged").stdout == f"wrote {tmp_path / 'merged'}\n"
    found = json.loads(heads("inspect", tmp_path / "merged", "--json").stdout)
    assert found["layout"] == "merged"
    assert found["base"]["parameters"] == sum(parameter.numel() for parameter in make_base().parameters())
    done = heads("split", tmp_path / "merged", "--heads", tmp_path / "heads2", "--base", tmp_path / "base2")
    assert done.returncode == 0
    weights = "model.safetensors"
    assert (tmp_path / "base2" / weights).read_bytes() == (base / weights).read_bytes()
    assert (tmp_path / "heads2" / weights).read_bytes() == (folder / weights).read_bytes()


def test_merge_onto_another_base(heads, folders, tmp_path: Path):
    other = write_base(tmp_path / "other", make_base(seed=1))
    arguments = ("merge", folders[1], "--out", tmp_path / "merged", "--base", other)
    assert heads(*arguments).returncode == 2
    assert heads(*arguments, "--any-base").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("inspect", "{tmp}/nowhere"), "no such folder"),
        (("inspect", "{tmp}/base"), "no AutoDeco heads"),
        (("merge", "{tmp}/heads", "--out", "{tmp}/base"), "is there already"),
        (("split", "{tmp}/heads", "--base", "{tmp}/new"), "no base to split off"),
    ],
)
def test_what_cannot_work_is_one_clear_line(arguments, said: str, heads, folders, tmp_path: Path):
    done = heads(*(argument.format(tmp=tmp_path) for argument in arguments))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
    assert said in done.stderr


def test_split_needs_to_know_what_to_write(heads, folders):
    done = heads("split", folders[1])
    assert done.returncode == 2
    assert "--heads FOLDER" in done.stderr


def test_ctrl_c_is_one_line(heads, folders, tmp_path: Path, monkeypatch):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("local_backend.checkpoint.pack.merge", interrupted)
    done = heads("merge", folders[1], "--out", tmp_path / "merged")
    assert done == (130, "", "interrupted\n")
