"""Heads, or a base with heads on it, from any published layout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from local_backend.autodeco_config import AutoDecoConfig
from local_backend.checkpoint import published
from local_backend.checkpoint.errors import CheckpointError, as_checkpoint_error
from local_backend.checkpoint.identity import BaseIdentity
from local_backend.checkpoint.layouts import PREFIX, Contents, Layout, heads_config, read
from local_backend.checkpoint.source import is_hub_name, locate
from local_backend.heads import Heads, HeadsConfig
from local_backend.model import AutoDecoModelForCausalLM


@dataclass(frozen=True, kw_only=True)
class HeadsInfo:
    """What a checkpoint says of its heads.

    Attributes:
        path: the folder or file they were read from.
        layout: how they were stored.
        config: how they are built.
        dtype: number format they are stored in, such as BF16.
        base_name: where their authors had the base; often a folder of theirs.
        base: what is known of that base.
        recipe: everything that decided them in training; {} if they were not trained here.
    """

    path: Path
    layout: Layout
    config: HeadsConfig
    dtype: str
    base_name: str | None
    base: BaseIdentity
    recipe: Mapping[str, Any]


def load_heads(source: str | Path, **hub: Any) -> tuple[Heads, HeadsInfo]:
    """Heads from a folder, a file of weights or a Hub name, in any published layout; float32, on the CPU.

    Args:
        source: heads alone or merged with their base.
        hub: revision, subfolder, token, cache_dir, local_files_only, force_download.

    Raises:
        CheckpointError: no heads there, or they are damaged.
    """
    contents = read(locate(source, what="heads", **hub))
    return _heads(contents), info(contents)


def info(contents: Contents) -> HeadsInfo:
    """What a checkpoint says of its heads, from headers and config.json alone.

    Raises:
        CheckpointError: tensors are missing or do not fit together.
    """
    base_name, base, recipe = published.record(contents)
    return HeadsInfo(
        path=contents.path,
        layout=contents.layout,
        config=heads_config(contents),
        dtype="/".join(sorted({tensor.code for tensor in contents.heads.values()})),
        base_name=base_name,
        base=base,
        recipe=recipe,
    )


def load(
    source: str | Path,
    *,
    base: str | Path | None = None,
    any_base: bool = False,
    dtype: str | torch.dtype = "auto",
    device_map: Any = None,
    config: AutoDecoConfig | None = None,
    **options: Any,
) -> AutoDecoModelForCausalLM:
    """A base with its heads on, in eval mode, from heads or from a merged checkpoint.

    Args:
        source: a folder, a file of weights or a Hub name.
        base: the base of heads that come alone; default is the one they name.
        any_base: take the heads even if they were trained on another base, as long as they fit.
        dtype: of the base; heads are always float32.
        device_map: where the base goes; heads go where its logits are computed.
        config: the checkpoint's configuration with changes of the caller's, instead of the one on the disk.
        options: as for transformers' from_pretrained.

    Raises:
        CheckpointError: something is missing or damaged, or the heads belong to another base.
    """
    contents = read(locate(source, what="heads", **options))
    known = info(contents)
    heads = _heads(contents)
    # Where the heads are in their repository says nothing of the base in its own.
    options = {name: value for name, value in options.items() if name not in ("revision", "subfolder")}
    options |= {"dtype": dtype, "device_map": device_map}
    if config is not None and config.base_config._attn_implementation is not None:
        options.setdefault("attn_implementation", config.base_config._attn_implementation)
    if base is None and contents.layout != "heads":
        name, model = known.base_name, _base_within(contents, config, options)
    else:
        name = str(base or named_base(known))
        model = _base_beside(name, known, options, any_base=any_base)
    with as_checkpoint_error(f"cannot put the heads of {str(source)!r} on {name!r}"):
        together = AutoDecoModelForCausalLM.attach(model, heads, base_name=name).eval()
    together.config.selfreg = published.new_record(known.base_name, known.base, known.recipe)
    return together


def require_same_base(known: HeadsInfo, found: BaseIdentity, name: str, *, any_base: bool) -> None:
    """Refuse heads on a base they were not trained on.

    Raises:
        CheckpointError: it is another one; with any_base, only if they do not even fit.
    """
    differences = known.base.differences(found)
    # What enters the output embedding may be narrower than the hidden size; a record made with the model in hand says so.
    recorded = known.base.hidden_size if known.base.values else known.config.hidden_size
    does_not_fit = found.hidden_size not in (None, recorded)
    if does_not_fit:
        differences = [f"hidden size {found.hidden_size}, not {recorded}"]
    if does_not_fit or (differences and not any_base):
        trained_on = f" (they were trained on {known.base_name!r})" if known.base_name else ""
        raise CheckpointError(
            f"the heads of {str(known.path)!r} belong to another base than {name!r}{trained_on}: it has "
            f"{'; '.join(differences)}. "
            + ("Name their own base" if does_not_fit else "Name their own base, or insist with any_base (--any-base)")
        )


def _heads(contents: Contents) -> Heads:
    config = heads_config(contents)
    heads = Heads(config)
    # A head that config.json switches off is stored, yet not built.
    state = {name: contents.heads[name].read().float() for name in heads.state_dict()}
    bad = [name for name, tensor in state.items() if not tensor.isfinite().all()]
    if bad:
        raise CheckpointError(
            f"{str(contents.path)!r} has NaN or infinity in {', '.join(bad)}: take a checkpoint from earlier in the training"
        )
    heads.load_state_dict(state)
    return heads


def named_base(known: HeadsInfo) -> str:
    """The base that heads name.

    Raises:
        CheckpointError: they name none, or a folder that is not here.
    """
    remedy = "name the base yourself: base=... in Python, --base on the command line (a folder or a Hub name)"
    if known.base_name is None:
        raise CheckpointError(f"the heads of {str(known.path)!r} do not say which base they belong to: {remedy}")
    if (
        not Path(known.base_name).expanduser().exists()
        and known.base_name != "tiny"
        and not is_hub_name(known.base_name)
    ):
        raise CheckpointError(
            f"the heads of {str(known.path)!r} name their base as {known.base_name!r}, a folder that is not here: {remedy}"
        )
    return known.base_name


def _base_beside(name: str, known: HeadsInfo, options: dict[str, Any], *, any_base: bool) -> PreTrainedModel:
    """A base of its own; its shape is checked before its weights are read."""
    place = locate(name, what="base") if not is_hub_name(name) or Path(name).exists() else name
    hub = {
        key: options[key] for key in ("token", "cache_dir", "local_files_only", "trust_remote_code") if key in options
    }
    with as_checkpoint_error(f"cannot load the base {name!r}"):
        config = AutoConfig.from_pretrained(place, **hub)
        if isinstance(config, AutoDecoConfig):
            raise CheckpointError(f"{name!r} has heads of its own: name the plain base, or load {name!r} itself")
        require_same_base(known, BaseIdentity.of(config), name, any_base=any_base)
        model = AutoModelForCausalLM.from_pretrained(place, **options)
    require_same_base(known, BaseIdentity.of(model), name, any_base=any_base)
    return model


def _base_within(contents: Contents, config: AutoDecoConfig | None, options: dict[str, Any]) -> PreTrainedModel:
    """The base of a merged checkpoint, loaded by its own class, so that whatever that class does on loading is done."""
    if not contents.config:
        raise CheckpointError(f"{str(contents.path)!r} has no config.json: add the base's, with the heads' fields")
    with as_checkpoint_error(f"cannot load {str(contents.path)!r}"), _quiet():
        model, report = AutoModelForCausalLM.from_pretrained(
            contents.path,
            config=_base_config(contents.config) if config is None else config.base_config,
            key_mapping={rf"^{PREFIX}": ""} if contents.layout == "merged" else None,
            output_loading_info=True,
            **options,
        )
    lacking = sorted(report["missing_keys"])
    if lacking:
        raise CheckpointError(
            f"{str(contents.path)!r} lacks {len(lacking)} tensors of its base, such as {lacking[0]!r}: copy or merge it again"
        )
    return model


def _base_config(config: Mapping[str, Any]) -> PreTrainedConfig:
    if config.get("model_type") == published.MODEL_TYPE:
        return AutoDecoConfig(**config).base_config
    return AutoConfig.for_model(**config)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' report of tensors it has no place for: those are the heads."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
