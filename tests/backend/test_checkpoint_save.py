"""Heads are saved in the published layout, and a kill at any moment leaves the old ones or the new ones."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoTokenizer, PreTrainedModel

from local_backend.checkpoint import CheckpointError, load_heads, save_heads
from local_backend.heads import Heads, HeadsConfig
from tests.backend.checkpoints import PUBLISHED, make_base, make_heads, tensors_of, write_base
from tests.backend.small_server import make_tokenizer

RECIPE = {"mask_ratio": 0.6, "loss": "joint", "seed": 3, "steps": 400, "data": {"temperature": 1.0}}


@pytest.fixture(scope="module")
def base() -> PreTrainedModel:
    return make_base()


def test_the_layout_is_the_published_one(base, tmp_path: Path):
    heads = make_heads()
    folder = save_heads(
        tmp_path / "new" / "heads", heads, base=base, base_name="owner/base", recipe=RECIPE, tokenizer=make_tokenizer()
    )
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert file.metadata()["format"] == "pt"
        assert {name: (file.get_slice(name).get_dtype(), file.get_slice(name).get_shape()) for name in file.keys()} == {  # noqa: SIM118 - not a dict
            "temp_head.mlp.0.weight": ("F32", [256, 32]),
            "temp_head.mlp.0.bias": ("F32", [256]),
            "temp_head.mlp.2.weight": ("F32", [1, 256]),
            "temp_head.mlp.2.bias": ("F32", [1]),
            "top_p_head.mlp.0.weight": ("F32", [256, 37]),
            "top_p_head.mlp.0.bias": ("F32", [256]),
            "top_p_head.mlp.2.weight": ("F32", [1, 256]),
            "top_p_head.mlp.2.bias": ("F32", [1]),
        }
        assert all(torch.equal(file.get_tensor(name), tensor) for name, tensor in tensors_of(heads).items())
    config = json.loads((folder / "config.json").read_text())
    assert {name: config[name] for name in PUBLISHED} == {**PUBLISHED, "base_model_name_or_path": "owner/base"}
    assert config["base_model_type"] == "llama"
    assert config["dtype"] == "float32"
    flat = base.config.to_dict()
    assert all(
        config[name] == flat[name] for name in ("hidden_size", "vocab_size", "num_hidden_layers", "eos_token_id")
    )
    assert config["selfreg"]["recipe"] == RECIPE
    generation = json.loads((folder / "generation_config.json").read_text())
    assert {"do_sample": True, "temperature": 1.0, "top_p": 1.0, "top_k": 0}.items() <= generation.items()
    assert generation["eos_token_id"] == base.generation_config.eos_token_id
    assert AutoTokenizer.from_pretrained(folder).chat_template == make_tokenizer().chat_template


@pytest.mark.parametrize(
    "built", [{}, {"statistics": False}, {"top_p": False}, {"temperature": False}, {"top_p_width": 9}]
)
def test_a_round_trip_keeps_everything(built, base, tmp_path: Path):
    heads = make_heads(**built)
    for _ in range(2):  # anew, and over what is there
        save_heads(tmp_path / "heads", heads, base=base, base_name="owner/base", recipe=RECIPE)
    found, info = load_heads(tmp_path / "heads")
    assert [
        name for name, tensor in heads.state_dict().items() if not torch.equal(found.state_dict()[name], tensor)
    ] == []
    assert (found.config.temperature, found.config.top_p) == (heads.config.temperature, heads.config.top_p)
    assert dict(info.recipe) == RECIPE
    assert info.base_name == "owner/base"
    assert sorted(info.base.values) == ["lm_head.weight", "model.norm.weight"]
    assert not [file for file in tmp_path.iterdir() if file.name != "heads"]


def test_a_base_given_as_a_folder_is_found_from_everywhere(base, tmp_path: Path, monkeypatch):
    write_base(tmp_path / "base", base)
    monkeypatch.chdir(tmp_path)
    save_heads(tmp_path / "heads", make_heads(), base=base, base_name="base")
    assert load_heads(tmp_path / "heads")[1].base_name == str(tmp_path / "base")


def test_nothing_else_is_written_over(base, tmp_path: Path):
    folder = write_base(tmp_path / "base", base)
    configured = tmp_path / "project"
    configured.mkdir()
    (configured / "config.json").write_text("{}")
    for place in (folder, configured):
        before = {file.name: file.read_bytes() for file in place.iterdir()}
        with pytest.raises(CheckpointError, match="something else than heads"):
            save_heads(place, make_heads(), base=base, base_name="owner/base")
        assert {file.name: file.read_bytes() for file in place.iterdir()} == before


def test_a_folder_of_a_run_keeps_what_else_is_in_it(base, tmp_path: Path):
    run = tmp_path / "run"
    (run / "training").mkdir(parents=True)
    (run / "training" / "metrics.jsonl").write_text("{}\n")
    tokenizer = make_tokenizer()
    tokenizer.chat_template = {"default": tokenizer.chat_template, "tools": "{{ tools }}"}  # in a folder of their own
    for seed in (0, 1):
        save_heads(run, make_heads(seed), base=base, base_name="owner/base", tokenizer=tokenizer)
    assert (run / "training" / "metrics.jsonl").read_text() == "{}\n"
    assert AutoTokenizer.from_pretrained(run).chat_template == tokenizer.chat_template
    assert torch.equal(load_heads(run)[0].temp_head.mlp[0].weight, make_heads(1).temp_head.mlp[0].weight)


def test_what_cannot_be_saved_leaves_the_old(base, tmp_path: Path):
    save_heads(tmp_path / "heads", make_heads(), base=base, base_name="owner/base", recipe=RECIPE)
    diverged = make_heads()
    torch.nn.init.constant_(diverged.temp_head.mlp[2].bias, float("inf"))
    with pytest.raises(CheckpointError, match=r"temp_head.mlp.2.bias.*diverged"):
        save_heads(tmp_path / "heads", diverged, base=base, base_name="owner/base")
    with pytest.raises(CheckpointError, match="recipe"):
        save_heads(tmp_path / "heads", make_heads(1), base=base, base_name="owner/base", recipe={"loss": float("nan")})
    assert dict(load_heads(tmp_path / "heads")[1].recipe) == RECIPE


# Killed at every line of saving, and at every time it is run where files are moved; one process for each.

KILLED = """
import contextlib, json, os, shutil, signal, sys
from pathlib import Path

import torch
from transformers import LlamaConfig

from local_backend.checkpoint import CheckpointError, atomic, load_heads, save, save_heads, tensors
from local_backend.heads import Heads, HeadsConfig

folder = Path(sys.argv[1])
torch.set_num_threads(1)
BASE = LlamaConfig(hidden_size=8, num_attention_heads=2)
EVERY_TIME, ONCE = {atomic.__file__}, {save.__file__, tensors.__file__}


def write(value):
    heads = Heads(HeadsConfig(hidden_size=8, temperature_width=4, top_p_width=4))
    for tensor in heads.state_dict().values():
        tensor.fill_(value)
    save_heads(folder, heads, base=BASE, base_name="owner/base", recipe={"value": value})


def die_at(number):
    moments, seen = 0, set()

    def watch(frame, event, _):
        nonlocal moments
        place = frame.f_code.co_filename, frame.f_lineno
        if place[0] not in EVERY_TIME | ONCE:
            return None
        if not seen and frame.f_code.co_name != "write_safetensors" and place[0] not in EVERY_TIME:
            return watch  # nothing is on the disk yet
        if event == "line" and (place[0] in EVERY_TIME or place not in seen):
            seen.add(place)
            moments += 1
            if moments == number:
                os.kill(os.getpid(), signal.SIGKILL)
        return watch

    sys.settrace(watch)


def left():
    if not folder.exists():
        return "nothing"
    try:
        heads, info = load_heads(folder)
    except CheckpointError:
        return "damage"
    values = {x for tensor in heads.state_dict().values() for x in tensor.flatten().tolist()} | {info.recipe["value"]}
    return {1.0: "the old", 2.0: "the new"}[values.pop()] if len(values) == 1 else "a mixture"


def outcomes(*, over):
    found = []
    while True:
        shutil.rmtree(folder, ignore_errors=True)
        if over:
            write(1.0)
        child = os.fork()
        if not child:
            die_at(len(found) + 1)
            write(2.0)
            sys.settrace(None)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        found.append(left())
        if os.WIFEXITED(status) or found[-1] == "damage":
            assert status in (0, signal.SIGKILL)
            return found


result = {"first": outcomes(over=False), "over": outcomes(over=True)}


def in_place(target):
    target.mkdir(parents=True, exist_ok=True)
    return contextlib.nullcontext(target)


save._into = in_place  # a writer that is not atomic
result["broken"] = outcomes(over=True)
print(json.dumps(result))
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What is left by a kill at the first line, the second, ...; the last entry is of a process that was not killed."""
    folder = tmp_path_factory.mktemp("killed") / "heads"
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(folder)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_a_kill_at_any_line_leaves_the_old_or_the_new(outcomes):
    assert len(outcomes["over"]) > 50
    assert set(outcomes["over"]) == {"the old", "the new"}
    assert outcomes["over"][-1] == "the new"


@pytest.mark.slow
def test_a_kill_while_saving_for_the_first_time_leaves_nothing_or_all(outcomes):
    assert len(outcomes["first"]) > 50
    assert set(outcomes["first"]) == {"nothing", "the new"}


@pytest.mark.slow
def test_the_kills_find_a_writer_that_is_not_atomic(outcomes):
    assert outcomes["broken"][-1] == "damage"


def test_what_a_kill_leaves_beside_does_not_matter(base, tmp_path: Path):
    (tmp_path / ".heads.partial-x").mkdir()
    save_heads(tmp_path / "heads", make_heads(), base=base, base_name="owner/base")
    assert load_heads(tmp_path / "heads")[0].config == HeadsConfig(hidden_size=32)
    assert isinstance(load_heads(tmp_path / "heads")[0], Heads)
