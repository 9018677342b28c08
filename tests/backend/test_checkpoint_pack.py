"""Merging and splitting: bit for bit, every layout in, one file in memory at a time, and nothing half done."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from local_backend.checkpoint import CheckpointError, load, load_heads, merge, save_heads, split
from tests.backend.checkpoints import (
    HEADS_ONLY,
    ONE_FILE,
    SHARDS,
    make_base,
    make_heads,
    tensors_of,
    write_base,
    write_config,
    write_merged,
)

TOKENS = torch.tensor([[5, 9, 2, 77, 31, 8]])
KINDS = [("llama", False), ("llama", True), ("qwen2", False), ("qwen2", True)]


def files_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@torch.no_grad()
def said(folder: Path) -> torch.Tensor:
    return AutoModelForCausalLM.from_pretrained(folder)(TOKENS).logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shards", [ONE_FILE, SHARDS])
@pytest.mark.parametrize(("kind", "tied"), KINDS)
def test_there_and_back_is_the_same_to_the_byte(kind: str, tied: bool, shards: str, dtype: torch.dtype, tmp_path: Path):
    base = make_base(kind, tied=tied).to(dtype)
    base_folder = write_base(tmp_path / "base", base, shards=shards)
    heads_folder = save_heads(
        tmp_path / "heads", make_heads(), base=base, base_name=str(base_folder), recipe={"seed": 1}
    )
    merge(heads_folder, tmp_path / "merged")
    split(tmp_path / "merged", heads=tmp_path / "heads again", base=tmp_path / "base again")
    assert files_of(tmp_path / "base again") == files_of(base_folder)
    weights = "model.safetensors"
    assert (tmp_path / "heads again" / weights).read_bytes() == (heads_folder / weights).read_bytes()
    assert load_heads(tmp_path / "heads again")[1].base == load_heads(heads_folder)[1].base
    for folder in ("merged", "heads again"):
        assert load_heads(tmp_path / folder)[1].recipe == {"seed": 1}
        assert torch.equal(said(tmp_path / folder), said(heads_folder))


@pytest.mark.parametrize("shards", [ONE_FILE, SHARDS])
def test_a_merged_folder_is_as_published(shards: str, tmp_path: Path):
    base = make_base()
    base_folder = write_base(tmp_path / "base", base, shards=shards)
    write_config(tmp_path / "heads", base)
    HEADS_ONLY["NeMo"](tmp_path / "heads", tensors_of(make_heads(), torch.bfloat16))
    folder = merge(tmp_path / "heads", tmp_path / "merged", base=base_folder)
    # Names and values, file by file, next to a merge made in memory without the code under test.
    write_merged(tmp_path / "reference", base_folder, tensors_of(make_heads(), torch.bfloat16))
    for file in (tmp_path / "reference").glob("*.safetensors"):
        ours, theirs = load_file(folder / file.name), load_file(file)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) and ours[name].dtype == theirs[name].dtype for name in theirs)
        with safe_open(folder / file.name, "pt") as opened:
            assert opened.metadata() == {"format": "pt"}
    if shards == SHARDS:
        index = json.loads((folder / "model.safetensors.index.json").read_text())
        reference = json.loads((tmp_path / "reference" / "model.safetensors.index.json").read_text())
        assert index["weight_map"] == reference["weight_map"]
        everything = [tensor for file in folder.glob("*.safetensors") for tensor in load_file(file).values()]
        assert index["metadata"]["total_parameters"] == sum(tensor.numel() for tensor in everything)
        assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in everything)
    else:
        assert not (folder / "model.safetensors.index.json").exists()
    config = json.loads((folder / "config.json").read_text())
    assert (config["model_type"], config["base_model_type"]) == ("autodeco", "llama")
    assert config["dtype"] == "float32"  # the base's
    generation = json.loads((folder / "generation_config.json").read_text())
    assert {
        "do_sample": True,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": None,
    }.items() <= generation.items()
    assert (
        AutoTokenizer.from_pretrained(folder).chat_template == AutoTokenizer.from_pretrained(base_folder).chat_template
    )
    assert (folder / "LICENSE").read_text() == "free\n"


@pytest.mark.parametrize("layout", HEADS_ONLY)
def test_heads_of_every_layout_are_merged(layout: str, tmp_path: Path):
    base = make_base("qwen2")
    write_config(tmp_path / "heads", base)
    HEADS_ONLY[layout](tmp_path / "heads", tensors_of(make_heads()))
    merge(tmp_path / "heads", tmp_path / "merged", base=write_base(tmp_path / "base", base))
    found = load_heads(tmp_path / "merged")[0].state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors_of(make_heads()).items())


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("tied", [False, True])
def test_a_base_in_pickles(tied: bool, shards: int, tmp_path: Path):
    base = make_base(tied=tied)
    folder = write_base(tmp_path / "base", base)
    (folder / "model.safetensors").unlink()
    state = base.state_dict()
    places = {name: f"pytorch_model-0000{1 + place % shards}-of-00003.bin" for place, name in enumerate(state)}
    if shards == 1:
        torch.save(state, folder / "pytorch_model.bin")
    else:
        for file in sorted(set(places.values())):
            torch.save({name: tensor for name, tensor in state.items() if places[name] == file}, folder / file)
        index = {"metadata": {"total_size": 1}, "weight_map": places}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    save_heads(tmp_path / "heads", make_heads(), base=base, base_name=str(folder))
    merge(tmp_path / "heads", tmp_path / "merged")
    assert not list((tmp_path / "merged").glob("*.bin*"))
    assert torch.equal(said(tmp_path / "merged"), said(tmp_path / "heads"))
    split(tmp_path / "merged", base=tmp_path / "again")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again").state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize("prefix", ["llm.", ""])
def test_what_others_have_merged_is_split(prefix: str, tmp_path: Path):
    base = make_base("qwen2")
    folder = write_base(tmp_path / "base", base, shards=SHARDS)
    write_merged(tmp_path / "merged", folder, tensors_of(make_heads()), prefix=prefix)
    if prefix:
        write_config(tmp_path / "merged", base)
    split(tmp_path / "merged", heads=tmp_path / "heads", base=tmp_path / "again")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    assert type(again) is type(base)
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in base.state_dict().items())
    model = load(tmp_path / "heads", base=tmp_path / "again")
    with torch.no_grad():
        assert torch.equal(model(TOKENS).logits, load(tmp_path / "merged")(TOKENS).logits)


def test_number_formats_that_torch_does_not_know_are_copied(tmp_path: Path):
    """Packed and future formats only need their bytes moved."""
    base = make_base()
    folder = write_base(tmp_path / "base", base)
    file = folder / "model.safetensors"
    raw = file.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    header["model.norm.weight"]["dtype"] = "F4"
    header["model.norm.weight"]["shape"] = [256]
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + length :])
    HEADS_ONLY["Megatron"](tmp_path, tensors_of(make_heads()))
    merge(tmp_path / "model.safetensors", tmp_path / "merged", base=folder)
    split(tmp_path / "merged", base=tmp_path / "again")
    assert (tmp_path / "again" / "model.safetensors").read_bytes()[-(len(raw) - 8 - length) :] == raw[8 + length :]


# Nothing half done.


def test_heads_of_another_base_are_not_merged(tmp_path: Path):
    save_heads(tmp_path / "heads", make_heads(), base=make_base(), base_name="owner/own")
    other = write_base(tmp_path / "other", make_base(seed=1), shards=SHARDS)
    with pytest.raises(CheckpointError, match=r"another base.*trained on 'owner/own'.*--any-base"):
        merge(tmp_path / "heads", tmp_path / "merged", base=other)
    assert not (tmp_path / "merged").exists()
    merge(tmp_path / "heads", tmp_path / "merged", base=other, any_base=True)
    split(tmp_path / "merged", heads=tmp_path / "again")
    with pytest.raises(CheckpointError, match="another base"):  # the heads remember
        load(tmp_path / "again", base=other)


def test_a_full_folder_is_not_written_into(tmp_path: Path):
    base = make_base()
    base_folder = write_base(tmp_path / "base", base)
    save_heads(tmp_path / "heads", make_heads(), base=base, base_name=str(base_folder))
    with pytest.raises(CheckpointError, match="is there already"):
        merge(tmp_path / "heads", base_folder)
    (tmp_path / "empty").mkdir()
    merge(tmp_path / "heads", tmp_path / "empty")
    with pytest.raises(CheckpointError, match="is there already"):
        split(tmp_path / "empty", heads=tmp_path / "new", base=tmp_path / "heads")
    assert not (tmp_path / "new").exists()
    with pytest.raises(CheckpointError, match="no base to split off"):
        split(tmp_path / "heads", base=tmp_path / "new")


def test_a_shard_that_is_missing_or_cut(tmp_path: Path):
    base = make_base()
    folder = write_base(tmp_path / "base", base, shards=SHARDS)
    save_heads(tmp_path / "heads", make_heads(), base=base, base_name=str(folder))
    last = sorted(folder.glob("*.safetensors"))[-1]
    raw = last.read_bytes()
    last.write_bytes(raw[:-4])
    with pytest.raises(CheckpointError, match="cut short"):
        merge(tmp_path / "heads", tmp_path / "merged")
    last.unlink()
    with pytest.raises(CheckpointError, match=rf"lacks {last.name}, named by its index"):
        merge(tmp_path / "heads", tmp_path / "merged")
    assert {file.name for file in tmp_path.iterdir()} == {"base", "heads"}


def test_an_interrupted_merge_leaves_nothing(tmp_path: Path):
    base = make_base()
    save_heads(tmp_path / "heads", make_heads(), base=base, base_name=str(write_base(tmp_path / "base", base)))

    def interrupt(done: int, total: int) -> None:
        assert 0 < done <= total
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge(tmp_path / "heads", tmp_path / "merged", progress=interrupt)
    assert {file.name for file in tmp_path.iterdir()} == {"base", "heads"}


@pytest.mark.skipif(sys.platform == "win32", reason="limits the size of files as POSIX does")
def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path):
    import resource

    base = make_base()
    save_heads(tmp_path / "heads", make_heads(), base=base, base_name=str(write_base(tmp_path / "base", base)))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(CheckpointError, match=r"cannot write '.*merged'"):
            merge(tmp_path / "heads", tmp_path / "merged")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert {file.name for file in tmp_path.iterdir()} == {"base", "heads"}


# Memory, in a process of its own, with a merge that loads the model beside it.

SHARD_MIB, COUNT = 16, 6
MEASURED = """
import re, sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from local_backend.checkpoint import merge, split

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

def grown(run):
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = peak()
    run()
    return peak() - before

def naive():
    everything = {}
    for file in Path("base").glob("*.safetensors"):
        everything |= load_file(file)
    save_file({name: tensor.clone() for name, tensor in everything.items()}, "naive.safetensors")

print(grown(lambda: merge("heads", "merged")), grown(lambda: split("merged", base="again", heads="heads2")), grown(naive))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_memory_stays_below_one_file(tmp_path: Path):
    base = make_base()
    folder = write_base(tmp_path / "base", base)
    state = load_file(folder / "model.safetensors")
    places: dict[str, str] = {}
    for number in range(1, COUNT + 1):
        name = f"model-{number:05d}-of-{COUNT:05d}.safetensors"
        big = {f"model.extra.{number}": torch.zeros(SHARD_MIB * 2**20, dtype=torch.uint8)}
        big |= state if number == 1 else {}
        save_file(big, folder / name)
        places |= dict.fromkeys(big, name)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    save_heads(tmp_path / "heads", make_heads(), base=base, base_name=str(folder))
    done = subprocess.run(
        [sys.executable, "-c", MEASURED],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    merging, splitting, naive = map(float, done.stdout.split())
    assert merging < SHARD_MIB
    assert splitting < SHARD_MIB
    assert naive > (COUNT - 1) * SHARD_MIB  # the measure sees what is loaded
