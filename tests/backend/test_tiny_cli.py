"""`python -m local_backend.tiny`: tasks and check as another program uses them, build and resume in small."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from local_backend.tiny.build import BuildSettings, Report, build
from local_backend.tiny.families import FAMILIES
from local_backend.tiny.muon import orthogonalise


def run(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "local_backend.tiny", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=120, check=False)


def test_tasks_are_held_out_prompts_of_the_family():
    done = run("tasks", "--split", "test", "--family", "creative", "--count", "3")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["prompt"] for row in rows] == FAMILIES["creative"].held_out("test", count=3)
    assert {(row["family"], row["aggregation"], row["n"]) for row in rows} == {("creative", "best", 8)}


def test_tasks_of_all_families():
    rows = [json.loads(line) for line in run("tasks", "--count", "1").stdout.splitlines()]
    assert [row["family"] for row in rows] == list(FAMILIES)


def test_check_judges_line_by_line():
    right = "What is 20+20+20?"
    lines = [
        {"family": "maths", "prompt": right, "samples": ["61", "60", "60"]},
        {"family": "maths", "prompt": right, "samples": ["60"]},
        {"family": "maths", "prompt": right, "samples": []},
    ]
    done = run("check", stdin="\n".join(map(json.dumps, lines)))
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {"accepted": False, "score": 1.0},
        {"accepted": True, "score": 1.0},
        {"accepted": False, "score": 0.0},
    ]


@pytest.mark.parametrize(
    ("arguments", "stdin", "said"),
    [
        (("check",), "not json", "line 1"),
        (("check",), '{"family": "maths"}', "line 1"),
        (("check",), '{"family": "cooking", "prompt": "", "samples": [""]}', "cooking"),
        (("tasks", "--family", "cooking"), "", "cooking"),
        (("tasks", "--split", "exam"), "", "exam"),
        (("build", "--resume", "--out", "{tmp}"), "", "without --resume"),
    ],
)
def test_bad_input_is_one_clear_error(arguments, stdin, said, tmp_path):
    done = run(*(a.format(tmp=tmp_path) for a in arguments), stdin=stdin)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_tasks_and_check_start_without_torch():
    code = "import sys, runpy\nsys.argv = ['tiny', 'tasks', '--count', '1']\n"
    code += "try: runpy.run_module('local_backend.tiny', run_name='__main__')\nexcept SystemExit: pass\n"
    code += "sys.exit(' '.join({'torch', 'transformers'} & set(sys.modules)) or None)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.stderr == ""
    assert done.returncode == 0


SMALL = BuildSettings(steps=6, batch=4, layers=1, width=32, checkpoint_seconds=0.0)


class Stopped(Exception):
    pass


def test_a_resumed_build_equals_an_unbroken_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole = build(tmp_path / "whole", SMALL)
    save, saves = torch.save, []

    def save_thrice(state, path):
        save(state, path)
        saves.append(path)
        if len(saves) == 3:
            raise Stopped  # killed between writing the file and putting it in place

    monkeypatch.setattr(torch, "save", save_thrice)
    with pytest.raises(Stopped):
        build(tmp_path / "broken", SMALL)
    monkeypatch.undo()
    resumed = build(tmp_path / "broken", SMALL, resume=True)
    one, other = (AutoModelForCausalLM.from_pretrained(folder).state_dict() for folder in (whole, resumed))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not list(resumed.glob("checkpoint*.pt"))


def test_a_build_learns_and_writes_a_loadable_folder(tmp_path: Path):
    reports: list[Report] = []
    settings = BuildSettings(steps=25, batch=8, layers=1, width=64)
    folder = build(tmp_path, settings, report=reports.append)
    assert reports[-1].spent == 1.0
    assert reports[-1].validation is not None
    assert reports[-1].validation < 4.2  # log 110 = 4.7 is knowing nothing
    assert AutoTokenizer.from_pretrained(folder).chat_template
    assert AutoModelForCausalLM.from_pretrained(folder).dtype == torch.bfloat16


@pytest.mark.parametrize("shape", [(24, 64), (64, 24), (32, 32)])
def test_orthogonalise_levels_singular_values_and_keeps_directions(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    out = orthogonalise(matrix)
    assert out.shape == shape
    values = torch.linalg.svdvals(out)
    assert 0.3 < values.min() <= values.max() < 1.5
    assert (out * matrix).sum() > 0
