"""Brings a model and its tokenizer into memory and reads from them what serving needs to know."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from local_backend import checkpoint
from local_backend.config import Dtype, SetupError
from local_backend.tiny import weights_path

_SAY_HEADS = {"enable_temperature_head", "enable_top_p_head", "train_temp", "train_top_p"}
"""Fields of config.json by which a checkpoint of any age says that it holds heads."""


def load(
    source: str | Path,
    *,
    heads: str | Path | None = None,
    any_base: bool = False,
    dtype: Dtype = "auto",
    device: str = "auto",
    chat: bool = True,
) -> tuple[Any, Any]:
    """Load a causal LM in eval mode, with the heads it has or is given, and its tokenizer.

    Args:
        source: "tiny" (the embedded model), a Hugging Face model folder, or the name of a model on the Hub; with heads
            inside, merged or alone, it loads as an AutoDeco model.
        heads: a folder or file of heads, or a Hub name, to put on it.
        any_base: take heads that were trained on another base.
        dtype: of the weights; auto is the checkpoint's own on a GPU and float32 on a CPU, where it is fastest.
        device: auto takes the first GPU when there is one.
        chat: the tokenizer must have a chat template.

    Raises:
        SetupError: no such model, no tokenizer, no chat template, no such device, or heads that do not belong to it.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    path = _locate(source)
    weights = dtype if dtype != "auto" or not device.startswith("cpu") else "float32"
    try:
        if heads is not None:
            model = checkpoint.load(heads, base=path, any_base=any_base, dtype=weights)
        elif _holds_heads(path):
            model = checkpoint.load(path, dtype=weights)
        else:
            model = AutoModelForCausalLM.from_pretrained(path, dtype=weights)
        model = model.to(device).eval()
        tokenizer = AutoTokenizer.from_pretrained(_tokenizer_path(path, model))
    except SetupError:
        raise
    except (OSError, ValueError, RuntimeError, AssertionError) as error:
        # Torch without CUDA asserts; every other reason is an error of its own kind.
        raise SetupError(f"cannot load {str(source)!r} on {device}: {error}") from error
    if chat and not tokenizer.chat_template:
        raise SetupError(f"{str(source)!r} has no chat template: add a chat_template.jinja to its folder")
    return model, tokenizer


def _holds_heads(path: str) -> bool:
    """Whether a folder says so; on the Hub, transformers sees it by the model's type."""
    file = Path(path) / "config.json"
    config = json.loads(file.read_text()) if file.is_file() else {}
    return config.get("model_type") == "autodeco" or not _SAY_HEADS.isdisjoint(config)


def _tokenizer_path(path: str, model: Any) -> str:
    """The model's own folder; heads that were saved without a tokenizer speak their base's."""
    alone = Path(path).is_dir() and not any(Path(path).glob("tokenizer*"))
    base = getattr(model.config, "base_model_name_or_path", None)
    return _locate(base) if alone and base else path


def _locate(source: str | Path) -> str:
    if source == "tiny":
        if not weights_path().is_dir():
            raise SetupError(
                "the embedded model's weights are missing; `python -m local_backend.tiny build` makes them"
            )
        return str(weights_path())
    path = Path(source).expanduser()
    if path.is_dir():
        return str(path)
    # owner/name is a Hub name; whatever looks otherwise was meant as a path.
    if not re.fullmatch(r"\w[\w.-]*/[\w.-]+", str(source)):
        raise SetupError(f"{str(source)!r} is no folder; give a model folder, a Hub name (owner/name), or tiny")
    return str(source)


def end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """Every token that ends an answer: those of the generation config and the tokenizer's own."""
    configured = model.generation_config.eos_token_id
    ids = configured if isinstance(configured, list) else [configured]
    return frozenset(token for token in (*ids, tokenizer.eos_token_id) if token is not None)


def context_length(model: Any, wanted: int | None) -> int:
    """Longest prompt plus answer in tokens: what was wanted, else what the model was built for.

    Raises:
        SetupError: more is wanted than the model was built for, or neither is known.
    """
    built_for = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if wanted is not None and built_for is not None and wanted > built_for:
        raise SetupError(f"max_model_len={wanted} is longer than the model's own {built_for}")
    length = wanted if wanted is not None else built_for
    if length is None:
        raise SetupError("the model's config names no max_position_embeddings: set max_model_len")
    return int(length)
