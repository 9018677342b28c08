"""A folder is enough: `from_pretrained` on heads, on a merged checkpoint, on old ones; and heads of another base are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from local_backend.checkpoint import CheckpointError, load, load_heads, save_heads
from local_backend.model import AutoDecoModelForCausalLM
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


@pytest.fixture(scope="module")
def base() -> PreTrainedModel:
    return make_base()


@pytest.fixture
def base_folder(base: PreTrainedModel, tmp_path: Path) -> Path:
    return write_base(tmp_path / "base", base)


@torch.no_grad()
def said(model: Any) -> torch.Tensor:
    return model(TOKENS).logits


@torch.no_grad()
def expected(base: PreTrainedModel, heads: Any) -> torch.Tensor:
    """What the base says with these heads attached in memory."""
    return said(AutoDecoModelForCausalLM.attach(base, heads))


@pytest.mark.parametrize(("kind", "tied"), [("llama", 0), ("llama", 1), ("qwen2", 0), ("qwen2", 1), ("qwen3_moe", 0)])
@pytest.mark.parametrize("shards", [ONE_FILE, SHARDS])
@pytest.mark.parametrize("layout", ["heads", "published heads", "merged", "oldest merged"])
def test_from_pretrained_on_the_folder(layout: str, shards: str, tied: int, kind: str, tmp_path: Path, caplog):
    base, heads, folder = make_base(kind, tied=bool(tied)), make_heads(), tmp_path / "folder"
    base_folder = write_base(tmp_path / "base", base, shards=shards)
    if layout == "heads":
        save_heads(folder, heads, base=base, base_name=str(base_folder))
    elif layout == "published heads":
        write_config(folder, base, base_model_name_or_path=str(base_folder))
        HEADS_ONLY["today"](folder, tensors_of(heads))
    else:
        write_merged(folder, base_folder, tensors_of(heads), prefix="llm." if layout == "merged" else "")
        if layout == "merged":
            write_config(folder, base)
        shutil.rmtree(base_folder)
    # The oldest layout says that it is the base's own class, so that only our loader finds the heads.
    open_folder = load if layout == "oldest merged" else AutoModelForCausalLM.from_pretrained
    with caplog.at_level("WARNING"):
        model = open_folder(folder)
    assert caplog.text == ""
    assert isinstance(model, AutoDecoModelForCausalLM)
    assert type(model.llm) is type(base)
    assert not model.training
    assert torch.equal(said(model), expected(base, heads))
    assert model.generate(TOKENS, min_new_tokens=2, max_new_tokens=2).shape == (1, 8)


def test_options_reach_the_base_and_native_saving_merges(base, base_folder, tmp_path: Path):
    save_heads(tmp_path / "heads", make_heads(), base=base, base_name=str(base_folder), recipe={"seed": 5})
    model = AutoModelForCausalLM.from_pretrained(
        tmp_path / "heads", dtype=torch.bfloat16, device_map="cpu", attn_implementation="eager"
    )
    assert model.llm.dtype == torch.bfloat16
    assert {tensor.dtype for tensor in model.heads.state_dict().values()} == {torch.float32}
    assert model.llm.config._attn_implementation == "eager"
    model.save_pretrained(tmp_path / "saved")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", attn_implementation="eager")
    _, info = load_heads(tmp_path / "saved")
    assert info.layout == "merged"
    assert dict(info.recipe) == {"seed": 5}
    assert info.base == load_heads(tmp_path / "heads")[1].base
    assert torch.equal(said(again), said(model))


@pytest.mark.parametrize("layout", ["heads", "merged"])
def test_a_device_map_puts_layers_on_the_disk(layout: str, base, base_folder, tmp_path: Path):
    folder = tmp_path / "folder"
    save_heads(folder, make_heads(), base=base, base_name=str(base_folder))
    if layout == "merged":
        shutil.rmtree(folder)
        write_merged(folder, base_folder, tensors_of(make_heads()))
        write_config(folder, base)
    rest = {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu"}
    device_map = {**rest, "lm_head": "cpu", "model.layers.1": "disk"}
    model = load(folder, device_map=device_map, offload_folder=tmp_path / "offload")
    assert model.llm.hf_device_map["model.layers.1"] == "disk"
    assert torch.equal(said(model), expected(base, make_heads()))


def test_the_caller_names_the_base(base, base_folder, tmp_path: Path):
    write_config(tmp_path / "heads", base)  # of an author who had it in his home
    HEADS_ONLY["nested pickle"](tmp_path / "heads", tensors_of(make_heads()))
    with pytest.raises(CheckpointError, match=r"'/home/author/models/base', a folder that is not here.*--base"):
        load(tmp_path / "heads")
    for open_folder in (load, AutoModelForCausalLM.from_pretrained, AutoDecoModelForCausalLM.from_pretrained):
        assert torch.equal(said(open_folder(tmp_path / "heads", base=base_folder)), expected(base, make_heads()))


def test_heads_that_name_no_base(tmp_path: Path):
    HEADS_ONLY["Megatron"](tmp_path, tensors_of(make_heads()))
    with pytest.raises(CheckpointError, match=r"do not say which base.*--base"):
        load(tmp_path)


def test_a_merged_checkpoint_on_another_base_when_asked(base, base_folder, tmp_path: Path):
    write_merged(tmp_path / "merged", base_folder, tensors_of(make_heads()))
    write_config(tmp_path / "merged", base)
    other = make_base(seed=1)
    other_folder = write_base(tmp_path / "other", other)
    assert torch.equal(said(load(tmp_path / "merged", base=other_folder)), expected(other, make_heads()))


def test_a_merged_checkpoint_that_lacks_a_tensor_of_the_base(base, base_folder, tmp_path: Path):
    write_merged(tmp_path / "merged", base_folder, tensors_of(make_heads()))
    write_config(tmp_path / "merged", base)
    file = tmp_path / "merged" / "model.safetensors"
    tensors = load_file(file)
    del tensors["llm.model.norm.weight"]
    save_file(tensors, file)
    with pytest.raises(CheckpointError, match=r"lacks 1 tensors of its base, such as 'model.norm.weight'"):
        load(tmp_path / "merged")


# F40: heads of another base.


def test_heads_of_another_base_of_the_same_shape_are_refused(base, tmp_path: Path):
    save_heads(tmp_path / "heads", make_heads(), base=base, base_name="owner/own")
    other = write_base(tmp_path / "other", make_base(seed=1))
    with pytest.raises(
        CheckpointError, match=r"another base than .*trained on 'owner/own'.*lm_head.weight.*--any-base"
    ):
        load(tmp_path / "heads", base=other)
    assert isinstance(load(tmp_path / "heads", base=other, any_base=True), AutoDecoModelForCausalLM)


def test_that_refusal_needs_the_numbers(base, tmp_path: Path):
    """Without them, as in published checkpoints, only the shape is known: the test above fails without the fingerprint."""
    save_heads(tmp_path / "heads", make_heads(), base=base.config, base_name="owner/own")
    other = write_base(tmp_path / "other", make_base(seed=1))
    assert isinstance(load(tmp_path / "heads", base=other), AutoDecoModelForCausalLM)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tied", [False, True])
def test_the_same_base_in_another_precision_is_the_same(dtype: torch.dtype, tied: bool, tmp_path: Path):
    base = make_base(tied=tied)
    save_heads(tmp_path / "heads", make_heads(), base=base, base_name="owner/own")
    folder = write_base(tmp_path / "base", make_base(tied=tied).to(dtype))
    assert load(tmp_path / "heads", base=folder).llm.dtype == dtype


@pytest.mark.parametrize("published", [False, True])
def test_another_architecture_is_refused_before_its_weights_are_read(published: bool, base, tmp_path: Path):
    if published:
        write_config(tmp_path / "heads", base)
        HEADS_ONLY["today"](tmp_path / "heads", tensors_of(make_heads()))
    else:
        save_heads(tmp_path / "heads", make_heads(), base=base, base_name="owner/own")
    other = write_base(tmp_path / "other", make_base("qwen2"))
    (other / "model.safetensors").write_bytes(b"not even weights")
    with pytest.raises(CheckpointError, match="model type 'qwen2', not 'llama'"):
        load(tmp_path / "heads", base=other)


def test_another_width_is_refused_even_when_insisting(base, tmp_path: Path):
    HEADS_ONLY["NeMo"](tmp_path, tensors_of(make_heads(hidden=48)))
    with pytest.raises(CheckpointError, match=r"hidden size 32, not 48\. Name their own base$"):
        load(tmp_path, base=write_base(tmp_path / "base", base), any_base=True)


def test_heads_upon_heads_are_refused(base, base_folder, tmp_path: Path):
    save_heads(tmp_path / "heads", make_heads(), base=base, base_name=str(base_folder))
    with pytest.raises(CheckpointError, match="heads of its own"):
        load(tmp_path / "heads", base=tmp_path / "heads")


# Hub names, through Hugging Face's own loader and cache.


@pytest.fixture
def cache(base, tmp_path: Path) -> Path:
    """A cache as the Hub's client lays it out, with heads and their base."""
    for name, write in {
        "heads": lambda folder: save_heads(folder, make_heads(), base=base, base_name="owner/base"),
        "base": lambda folder: write_base(folder, base),
    }.items():
        repository = tmp_path / "cache" / f"models--owner--{name}"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text("0" * 40)
        write(repository / "snapshots" / ("0" * 40))
    return tmp_path / "cache"


def test_heads_and_base_by_their_hub_names(base, cache: Path):
    found, info = load_heads("owner/heads", cache_dir=cache, local_files_only=True)
    assert info.base_name == "owner/base"
    model = load("owner/heads", cache_dir=cache, local_files_only=True)
    assert torch.equal(said(model), expected(base, found))


def test_heads_in_a_subfolder(base, base_folder, tmp_path: Path):
    save_heads(tmp_path / "all" / "last", make_heads(), base=base, base_name=str(base_folder))
    assert torch.equal(said(load(tmp_path / "all", subfolder="last")), expected(base, make_heads()))


def test_a_hub_name_that_cannot_be_reached(base, cache: Path, tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"'owner/none' is neither .* the Hub cannot be reached: check"):
        load_heads("owner/none", cache_dir=cache, local_files_only=True)
    save_heads(tmp_path / "heads", make_heads(), base=base, base_name="owner/none")
    with pytest.raises(CheckpointError, match="cannot load the base 'owner/none'"):
        load(tmp_path / "heads", cache_dir=cache, local_files_only=True)


@pytest.mark.parametrize("source", ["./nowhere", "a/b/c", "/nowhere/at/all"])
def test_a_path_that_is_not_there(source: str):
    with pytest.raises(CheckpointError, match=f"'{source}': no such folder or file"):
        load_heads(source)


def test_the_embedded_model_is_a_base(tmp_path: Path):
    from local_backend.loading import load as load_base

    model, tokenizer = load_base("tiny")
    save_heads(
        tmp_path / "h", make_heads(hidden=model.config.hidden_size), base=model, base_name="tiny", tokenizer=tokenizer
    )
    assert load(tmp_path / "h").config.base_model_name_or_path == "tiny"
    assert json.loads((tmp_path / "h" / "config.json").read_text())["base_model_type"] == model.config.model_type
