"""Heads on the disk, in the published layout: `model.safetensors` with their tensors and a config.json that names the base."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from local_backend.checkpoint import atomic, published
from local_backend.checkpoint.errors import CheckpointError
from local_backend.checkpoint.identity import BaseIdentity
from local_backend.checkpoint.layouts import read, weight_files
from local_backend.checkpoint.tensors import Loaded, write_safetensors
from local_backend.heads import Heads

WEIGHTS = "model.safetensors"


def save_heads(
    folder: str | Path,
    heads: Heads,
    *,
    base: PreTrainedModel | PreTrainedConfig,
    base_name: str,
    recipe: Mapping[str, Any] | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> Path:
    """Write heads alone, a few megabytes, all or nothing: a kill at any moment leaves the folder as it was or as it will be.

    Args:
        folder: a new one, or one with heads, which are replaced.
        heads: stored as float32.
        base: the model they were trained on (then a few of its numbers are kept, by which another base is refused) or its
            configuration.
        base_name: where the base is found: a folder, a Hub name, or tiny. A folder is stored with its full path.
        recipe: everything that decided the heads in training; any JSON.
        tokenizer: kept beside, if given.

    Raises:
        CheckpointError: the folder holds something else than heads, the heads hold NaN, or the recipe is no JSON.
    """
    target = Path(folder)
    tensors = {name: tensor.detach().float().cpu() for name, tensor in heads.state_dict().items()}
    bad = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if bad:
        raise CheckpointError(f"heads with NaN or infinity in {', '.join(bad)} are not saved: training diverged")
    config = base if isinstance(base, PreTrainedConfig) else base.config
    described = Path(base_name).expanduser()
    name = str(described.resolve()) if described.is_dir() else base_name
    flat = json.loads(config.to_json_string(use_diff=False))
    record = published.new_record(name, BaseIdentity.of(base), recipe or {})
    own = published.fields(heads.config, model_type=config.model_type, base_name=name, record=record)
    try:
        text = json.dumps({**flat, **own, "dtype": "float32"}, indent=2, sort_keys=True, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"the recipe cannot be written as JSON: {error}") from error
    generation = {} if base is config else json.loads(base.generation_config.to_json_string(use_diff=True))
    with _into(target) as stage:
        (stage / "config.json").write_text(text, encoding="utf-8")
        settings = json.dumps(published.generation(generation), indent=2, sort_keys=True) + "\n"
        (stage / "generation_config.json").write_text(settings, encoding="utf-8")
        if tokenizer is not None:
            tokenizer.save_pretrained(stage)
        pieces = {name: Loaded(tensor) for name, tensor in tensors.items()}
        write_safetensors(stage / WEIGHTS, pieces, metadata=published.metadata(own))
    return target


def _into(target: Path) -> AbstractContextManager[Path]:
    """A new folder, or one in which heads were saved before or which holds no model yet."""
    if not target.is_dir() or not any(target.iterdir()):
        return atomic.new_folder(target)
    weights = {file.name for file in weight_files(target)}
    ours = _holds_heads_alone(target) if weights == {WEIGHTS} else not weights and not (target / "config.json").exists()
    if not ours:
        raise CheckpointError(
            f"{str(target)!r} holds something else than heads saved here, which would be lost: name another folder"
        )
    return atomic.replaced_files(target, last=WEIGHTS)


def _holds_heads_alone(folder: Path) -> bool:
    try:
        return read(folder).layout == "heads"
    except CheckpointError:
        return False
