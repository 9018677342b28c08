"""Brings a model and its tokenizer into memory and reads from them what serving needs to know."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from local_backend.config import Dtype, SetupError
from local_backend.tiny import weights_path


def load(source: str | Path, *, dtype: Dtype = "auto", device: str = "auto") -> tuple[Any, Any]:
    """Load a causal LM in eval mode and its tokenizer.

    Args:
        source: "tiny" (the embedded model), a Hugging Face model folder, or the name of a model on the Hub.
        dtype: of the weights; auto is the checkpoint's own on a GPU and float32 on a CPU, where it is fastest.
        device: auto takes the first GPU when there is one.

    Raises:
        SetupError: no such model, no tokenizer, no chat template, or no such device.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    path = _locate(source)
    weights = dtype if dtype != "auto" or not device.startswith("cpu") else "float32"
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
        model = AutoModelForCausalLM.from_pretrained(path, dtype=weights).to(device).eval()
    except (OSError, ValueError, RuntimeError, AssertionError) as error:
        # Torch without CUDA asserts; every other reason is an error of its own kind.
        raise SetupError(f"cannot load {str(source)!r} on {device}: {error}") from error
    if not tokenizer.chat_template:
        raise SetupError(f"{str(source)!r} has no chat template: add a chat_template.jinja to its folder")
    return model, tokenizer


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
