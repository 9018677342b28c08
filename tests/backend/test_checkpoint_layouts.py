"""Heads are found in every layout in which they have been published, and nothing else is taken for them."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from transformers import PreTrainedModel

from local_backend.checkpoint import CheckpointError, load_heads
from local_backend.heads import Heads
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


@pytest.fixture(scope="module")
def base() -> PreTrainedModel:
    return make_base("qwen2")


def assert_same(one: Heads, other: Heads, dtype: torch.dtype = torch.float32) -> None:
    assert one.config == other.config
    for name, tensor in tensors_of(other, dtype).items():
        assert torch.equal(one.state_dict()[name], tensor.float())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", HEADS_ONLY)
def test_heads_alone(layout: str, dtype: torch.dtype, base: PreTrainedModel, tmp_path: Path):
    heads = make_heads()
    write_config(tmp_path, base)
    HEADS_ONLY[layout](tmp_path, tensors_of(heads, dtype))
    (tmp_path / "training_args.bin").write_bytes(b"a pickle that trainers leave behind")
    found, info = load_heads(tmp_path)
    assert_same(found, heads, dtype)
    assert info.layout == "heads"
    assert info.dtype == {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}[dtype]
    assert info.base_name == "/home/author/models/base"
    assert (info.base.model_type, info.base.hidden_size, info.base.layers) == ("qwen2", 32, 2)
    assert {tensor.dtype for tensor in found.state_dict().values()} == {torch.float32}


@pytest.mark.parametrize("shards", [ONE_FILE, SHARDS])
@pytest.mark.parametrize(("prefix", "layout"), [("llm.", "merged"), ("", "merged without prefix")])
def test_merged(prefix: str, layout: str, shards: str, base: PreTrainedModel, tmp_path: Path):
    heads = make_heads()
    folder = write_base(tmp_path / "base", base, shards=shards)
    write_merged(tmp_path / "merged", folder, tensors_of(heads), prefix=prefix)
    found, info = load_heads(tmp_path / "merged")
    assert_same(found, heads)
    assert info.layout == layout
    assert info.base.model_type == "qwen2"


@pytest.mark.parametrize(
    "built",
    [
        {"statistics": False},
        {"temperature_width": 8, "top_p_width": 24},
        {"top_p": False},
        {"temperature": False},
        {"temperature": False, "statistics": False},
    ],
)
def test_shapes_are_read_from_the_tensors(built: dict[str, int], base: PreTrainedModel, tmp_path: Path):
    heads = make_heads(**built)
    write_config(tmp_path, base)  # says 256 units, both heads, statistics
    HEADS_ONLY["today"](tmp_path, tensors_of(heads))
    found, _ = load_heads(tmp_path)
    config = found.config
    assert_same(found, make_heads(**built))
    assert (config.temperature, config.top_p) == (heads.config.temperature, heads.config.top_p)


def test_without_a_config_and_by_the_file(tmp_path: Path):
    heads = make_heads()
    HEADS_ONLY["Megatron"](tmp_path, tensors_of(heads, torch.bfloat16))
    for source in (tmp_path, tmp_path / "model.safetensors", str(tmp_path)):
        found, info = load_heads(source)
        assert_same(found, heads, torch.bfloat16)
        assert info.base_name is None


@pytest.mark.parametrize("field", ["enable_top_p_head", "train_top_p"])
def test_a_head_that_is_switched_off_is_not_built(field: str, base: PreTrainedModel, tmp_path: Path):
    write_config(tmp_path, base)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["enable_top_p_head"]
    (tmp_path / "config.json").write_text(json.dumps({**config, field: False}))
    HEADS_ONLY["today"](tmp_path, tensors_of(make_heads()))
    found, _ = load_heads(tmp_path)
    assert found.top_p_head is None
    assert found.temp_head is not None


def test_heads_that_are_all_switched_off(base: PreTrainedModel, tmp_path: Path):
    write_config(tmp_path, base, enable_temperature_head=False, enable_top_p_head=False)
    HEADS_ONLY["today"](tmp_path, tensors_of(make_heads()))
    with pytest.raises(CheckpointError, match="switches off every head"):
        load_heads(tmp_path)


def test_heads_beside_a_base_that_is_a_pickle(base: PreTrainedModel, tmp_path: Path):
    heads = make_heads()
    torch.save(base.state_dict(), tmp_path / "pytorch_model.bin")
    save_file(tensors_of(heads), tmp_path / "autodeco_heads.safetensors")
    assert_same(load_heads(tmp_path)[0], heads)


def _cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def _only_the_header_length(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((10**9).to_bytes(8, "little"))


def _poison(folder: Path) -> None:
    bad = tensors_of(make_heads())
    bad["temp_head.mlp.2.bias"].fill_(float("nan"))
    save_file(bad, folder / "model.safetensors")


def _lacking(folder: Path) -> None:
    tensors = tensors_of(make_heads())
    del tensors["top_p_head.mlp.2.bias"]
    save_file(tensors, folder / "model.safetensors")


def _of_two_models(folder: Path) -> None:
    other = tensors_of(make_heads(hidden=48))
    own = {name: tensor for name, tensor in tensors_of(make_heads()).items() if name.startswith("temp")}
    save_file({**other, **own}, folder / "model.safetensors")


def _bent(folder: Path) -> None:
    tensors = tensors_of(make_heads())
    tensors["temp_head.mlp.2.weight"] = torch.zeros(2, 256)
    save_file(tensors, folder / "model.safetensors")


def _twice(folder: Path) -> None:
    save_file(tensors_of(make_heads(1)), folder / "autodeco_heads.safetensors")


def _shard_gone(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    HEADS_ONLY["sharded"](folder, tensors_of(make_heads()))
    (folder / "autodeco_heads-00002-of-00002.safetensors").unlink()


def _none(folder: Path) -> None:
    save_file({"lm_head.weight": torch.zeros(2, 2)}, folder / "model.safetensors")


def _no_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def _empty_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "autodeco_heads.bin").write_bytes(b"")


DAMAGE = {
    _cut: "cut short",
    _only_the_header_length: "cut short",
    _poison: "temp_head.mlp.2.bias",
    _lacking: "lacks top_p_head.mlp.2.bias",
    _of_two_models: "two different models",
    _bent: "do not fit together",
    _twice: "name the file you mean",
    _shard_gone: "lacks top_p_head.mlp.0.bias, .*, which its index names",
    _none: "no AutoDeco heads",
    _no_json: "is not JSON",
    _empty_pickle: "copy or download it again",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_wrong_is_said(damage, base: PreTrainedModel, tmp_path: Path):
    write_config(tmp_path, base)
    HEADS_ONLY["today"](tmp_path, tensors_of(make_heads()))
    damage(tmp_path)
    with pytest.raises(CheckpointError, match=DAMAGE[damage]) as caught:
        load_heads(tmp_path)
    assert str(tmp_path) in str(caught.value)


class _Trap:
    """Runs when it is unpickled."""

    def __init__(self, sprung: Path) -> None:
        self.sprung = sprung

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.sprung),)


def test_a_pickle_that_is_more_than_tensors_is_refused_and_not_run(tmp_path: Path):
    sprung = tmp_path / "sprung"
    torch.save({**tensors_of(make_heads()), "more": _Trap(sprung)}, tmp_path / "autodeco_heads.bin")
    with pytest.raises(CheckpointError, match="could run its code"):
        load_heads(tmp_path)
    assert not sprung.exists()
    torch.load(tmp_path / "autodeco_heads.bin", weights_only=False)  # the trap works
    assert sprung.exists()


@given(changes=st.lists(st.tuples(st.integers(0, 900), st.integers(0, 255)), min_size=1, max_size=3))
@settings(max_examples=150)
def test_a_damaged_header_is_an_error_of_ours_or_harmless(changes: list[tuple[int, int]]):
    with TemporaryDirectory() as folder:
        file = Path(folder) / "model.safetensors"
        HEADS_ONLY["today"](Path(folder), tensors_of(make_heads(temperature_width=2, top_p_width=2)))
        raw = bytearray(file.read_bytes())
        for place, value in changes:
            raw[place] = value
        file.write_bytes(raw)
        with contextlib.suppress(CheckpointError):
            load_heads(folder)
