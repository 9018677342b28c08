"""Small bases and heads, and every published layout of a checkpoint, written without the code under test."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from local_backend.heads import Heads, HeadsConfig
from tests.backend.small_server import make_tokenizer

HIDDEN, VOCABULARY = 32, 131
ONE_FILE, SHARDS = "50GB", "30KB"
_SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
    "eos_token_id": 0,
    "bos_token_id": None,
}
_KINDS: dict[str, Callable[[bool], PreTrainedModel]] = {
    "llama": lambda tied: LlamaForCausalLM(LlamaConfig(**_SHAPE, tie_word_embeddings=tied)),
    "qwen2": lambda tied: Qwen2ForCausalLM(Qwen2Config(**_SHAPE, tie_word_embeddings=tied)),
    "qwen3_moe": lambda tied: Qwen3MoeForCausalLM(
        Qwen3MoeConfig(
            **_SHAPE,
            tie_word_embeddings=tied,
            moe_intermediate_size=16,
            num_experts=4,
            num_experts_per_tok=2,
            head_dim=8,
        )
    ),
}
PUBLISHED = {
    "architectures": ["AutoDecoModelForCausalLM"],
    "model_type": "autodeco",
    "base_model_name_or_path": "/home/author/models/base",
    "enable_temperature_head": True,
    "enable_top_p_head": True,
    "use_enhanced_features": True,
    "temperature_hidden_size": 256,
    "top_p_hidden_size": 256,
}


def make_base(kind: str = "llama", *, tied: bool = False, seed: int = 0) -> PreTrainedModel:
    """A random causal LM of 32 features."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return _KINDS[kind](tied).eval()


def write_base(folder: Path, base: PreTrainedModel, *, shards: str = ONE_FILE) -> Path:
    """As transformers saves it, with a tokenizer, its template, generation settings and a licence."""
    base.generation_config.update(do_sample=True, temperature=0.6, top_p=0.95, min_p=0.1)
    base.save_pretrained(folder, max_shard_size=shards)
    make_tokenizer().save_pretrained(folder)
    (folder / "LICENSE").write_text("free\n")
    return folder


def make_heads(seed: int = 0, *, hidden: int = HIDDEN, **config: Any) -> Heads:
    """Random heads that decide something else for every token."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Heads(HeadsConfig(hidden_size=hidden, **config))


def tensors_of(heads: Heads, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Their published names and values."""
    return {name: tensor.detach().to(dtype) for name, tensor in heads.state_dict().items()}


def write_config(folder: Path, base: PreTrainedModel, **fields: Any) -> None:
    """The published config.json: the base's fields flat, those of the heads beside them."""
    flat = {**base.config.to_diff_dict(), **PUBLISHED, "base_model_type": base.config.model_type, **fields}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(flat))


def sharded(folder: Path, tensors: Mapping[str, Tensor], stem: str) -> None:
    """In two files, with an index."""
    names = sorted(tensors)
    places = {name: f"{stem}-0000{1 + (name in names[4:])}-of-00002.safetensors" for name in names}
    for file in sorted(set(places.values())):
        save_file({name: tensors[name] for name in names if places[name] == file}, folder / file)
    index = {"metadata": {"total_size": 0}, "weight_map": places}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index))


def nested(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """A dict for each head."""
    result: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        head, _, rest = name.partition(".")
        result.setdefault(head, {})[rest] = tensor
    return result


HEADS_ONLY: dict[str, Callable[[Path, dict[str, Tensor]], None]] = {
    "today": lambda folder, t: save_file(t, folder / "model.safetensors", metadata={"format": "pt"}),
    "named": lambda folder, t: save_file(t, folder / "autodeco_heads.safetensors"),
    "sharded": lambda folder, t: sharded(folder, t, "autodeco_heads"),
    "flat pickle": lambda folder, t: torch.save(t, folder / "autodeco_heads.bin"),
    "nested pickle": lambda folder, t: torch.save(nested(t), folder / "autodeco_heads.bin"),
    "pickle of torch 1.5": lambda folder, t: torch.save(
        t, folder / "autodeco_heads.bin", _use_new_zipfile_serialization=False
    ),
    "NeMo": lambda folder, t: save_file(
        {f"module.adapter.{name}": each for name, each in t.items()}, folder / "model.safetensors"
    ),
    "Megatron": lambda folder, t: save_file(
        {f"adapter.{name}": each for name, each in t.items()}, folder / "model.safetensors"
    ),
    "model": lambda folder, t: save_file(
        {f"model.{name}": each for name, each in t.items()}, folder / "model.safetensors"
    ),
}


def write_merged(folder: Path, base: Path, heads: Mapping[str, Tensor], *, prefix: str = "llm.") -> None:
    """Merged as published: names prefixed, heads in the last file, the index extended, no metadata anywhere."""
    folder.mkdir()
    files = sorted(base.glob("*.safetensors"))
    places: dict[str, str] = {}
    for file in files:
        renamed = {f"{prefix}{name}": tensor for name, tensor in load_file(file).items()}
        renamed |= heads if file == files[-1] else {}
        save_file(renamed, folder / file.name)
        places |= dict.fromkeys(renamed, file.name)
    if len(files) > 1:
        index = {"metadata": {}, "weight_map": places}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    for file in base.glob("*.json"):
        if not file.name.endswith(".index.json"):
            (folder / file.name).write_bytes(file.read_bytes())
