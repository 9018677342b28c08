"""A base and its heads made one folder, and taken apart again, without loading either.

Merging puts `llm.` before every name of the base and the heads' tensors into its last file. Bytes are copied as they are, file
by file, so that a few megabytes of memory do for any size, and splitting restores both bit for bit. What merging has to change
(config.json, generation_config.json) is kept beside as base_config.json and base_generation_config.json.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from local_backend.checkpoint import atomic, published
from local_backend.checkpoint.errors import CheckpointError, as_checkpoint_error
from local_backend.checkpoint.identity import BaseIdentity, stored_values
from local_backend.checkpoint.layouts import PREFIX, Contents, read, read_file, read_json, strip_prefix
from local_backend.checkpoint.load import HeadsInfo, info, named_base, require_same_base
from local_backend.checkpoint.source import locate
from local_backend.checkpoint.tensors import AnyTensor, write_safetensors

_WEIGHTS, _PICKLE = "model.safetensors", "pytorch_model.bin"
_INDEX = ".index.json"
_NOT_COPIED = {".safetensors", ".bin", ".pt", ".pth", ".gguf", ".onnx", ".h5", ".msgpack"}
_TEMPLATES = "additional_chat_templates"
_CONFIG, _GENERATION = "config.json", "generation_config.json"
_KEPT = {name: f"base_{name}" for name in (_CONFIG, _GENERATION)}
"""What merging changes, and where it keeps the base's own."""
_METADATA = {"format": "pt"}
"""Some loaders refuse files that do not say so."""
Progress = Callable[[int, int], None]
"""Told the bytes written so far and in all."""


def _untold(done: int, total: int) -> None:
    """Tell nobody."""


def merge(
    heads: str | Path,
    out: str | Path,
    *,
    base: str | Path | None = None,
    any_base: bool = False,
    progress: Progress = _untold,
) -> Path:
    """Write one folder with a base and its heads, which loads alone, here and in engines that know AutoDeco.

    Args:
        heads: a folder, a file of weights or a Hub name.
        out: a new folder.
        base: a folder or a Hub name; default is the one the heads name.
        any_base: merge even if the heads were trained on another base, as long as they fit.
        progress: told how far it is.

    Raises:
        CheckpointError: something is missing or damaged, the heads belong to another base, or out is there already.
    """
    plan = plan_merge(heads, out, base=base, any_base=any_base)
    with atomic.new_folder(plan.target) as stage:
        rewriting = _Rewriting(stage=stage, total=plan.size, progress=progress)
        for number, file in enumerate(plan.files, 1):
            tensors, metadata = read_file(file)
            renamed = {f"{PREFIX}{name}": tensor for name, tensor in tensors.items()}
            extra = plan.heads.heads if number == len(plan.files) else {}
            name = _as_safetensors(file, number, len(plan.files))
            rewriting.write(name, renamed | extra, metadata or _METADATA)
        if plan.index is not None:
            rewriting.write_index(plan.index)
        _copy_others(plan.folder, stage)
        for changed, kept in _KEPT.items():
            if (plan.folder / changed).is_file():
                shutil.copyfile(plan.folder / changed, stage / kept)
        _write_json(stage / _CONFIG, read_json(plan.folder / _CONFIG) | plan.fields)
        _write_json(stage / _GENERATION, published.generation(read_json(plan.folder / _GENERATION)))
    return plan.target


@dataclass(frozen=True, kw_only=True)
class MergePlan:
    """What a merge will do, once everything was checked.

    Attributes:
        target: the folder to write.
        heads: the heads and where they are.
        base_name: the base as it was named.
        folder: where the base lies.
        files: its files of weights.
        index: their index, if they have one.
        fields: what config.json says beside the base's own.
    """

    target: Path
    heads: Contents
    base_name: str
    folder: Path
    files: list[Path]
    index: Path | None
    fields: dict[str, Any]

    @property
    def size(self) -> int:
        """Bytes to write, closely."""
        return sum(file.stat().st_size for file in self.files) + sum(piece.size for piece in self.heads.heads.values())


def plan_merge(heads: str | Path, out: str | Path, *, base: str | Path | None, any_base: bool) -> MergePlan:
    """Check everything that `merge` needs, and write nothing.

    Raises:
        CheckpointError: as `merge`.
    """
    target = Path(out)
    atomic.require_absent(target)
    contents = read(locate(heads, what="heads"))
    known = info(contents)
    name = str(base or named_base(known))
    folder = locate(name, what="base")
    files, index = base_files(folder)
    found = _identity(folder, files, known)
    require_same_base(known, found, name, any_base=any_base)
    trained_on = replace(known.base, model_type=known.base.model_type or found.model_type)
    record = published.new_record(known.base_name or name, trained_on, known.recipe)
    fields = published.fields(known.config, model_type=found.model_type, base_name=name, record=record)
    return MergePlan(
        target=target, heads=contents, base_name=name, folder=folder, files=files, index=index, fields=fields
    )


def split(
    merged: str | Path, *, heads: str | Path | None = None, base: str | Path | None = None, progress: Progress = _untold
) -> None:
    """Take a merged folder apart: the heads into one new folder, the base into another; the merged one stays.

    Args:
        merged: a folder or a Hub name.
        heads: where the heads go; None leaves them out.
        base: where the base goes; None leaves it out.
        progress: told how far the base is.

    Raises:
        CheckpointError: it is not merged, is damaged, or a folder to write is there already.
    """
    for target in (heads, base):
        if target is not None:
            atomic.require_absent(Path(target))
    contents = read(locate(merged, what="merged checkpoint"))
    if contents.layout == "heads":
        raise CheckpointError(f"{str(merged)!r} holds heads alone: there is no base to split off")
    if heads is not None:
        _split_heads(contents, Path(heads))
    if base is not None:
        _split_base(contents, Path(base), progress)


def _split_heads(contents: Contents, target: Path) -> None:
    dtype = next(iter(contents.heads.values())).read().dtype
    metadata = published.metadata(contents.config) if published.RECORD in contents.config else _METADATA
    with atomic.new_folder(target) as stage:
        write_safetensors(stage / _WEIGHTS, contents.heads, metadata=metadata)
        _copy_others(contents.path, stage)
        _write_json(stage / _CONFIG, contents.config | {"dtype": str(dtype).removeprefix("torch.")})


def _split_base(contents: Contents, target: Path, progress: Progress) -> None:
    folder = contents.path
    files = list(contents.base)
    index = folder / f"{_WEIGHTS}{_INDEX}"
    with atomic.new_folder(target) as stage:
        rewriting = _Rewriting(stage=stage, total=sum(file.stat().st_size for file in files), progress=progress)
        for number, file in enumerate(files, 1):
            base = {strip_prefix(name): tensor for name, tensor in contents.base[file].items()}
            rewriting.write(_as_safetensors(file, number, len(files)), base, read_file(file)[1] or _METADATA)
        if index.is_file():
            rewriting.write_index(index)
        _copy_others(folder, stage)
        for changed, kept in _KEPT.items():
            if (folder / kept).is_file():
                shutil.copyfile(folder / kept, stage / changed)
        if not (folder / _KEPT[_CONFIG]).is_file():
            # Merged elsewhere: its class is the one that transformers has for the architecture.
            model_type = contents.config.get("base_model_type") or contents.config.get("model_type")
            architecture = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(model_type)
            _write_json(stage / _CONFIG, published.base_config(contents.config, architecture))


@dataclass(kw_only=True)
class _Rewriting:
    """Files of weights written into a stage, and what their index must say."""

    stage: Path
    total: int
    progress: Progress
    done: int = 0
    size: int = 0
    parameters: int = 0
    places: dict[str, str] = field(default_factory=dict)

    def write(self, file: str, tensors: Mapping[str, AnyTensor], metadata: Mapping[str, str]) -> None:
        """Write one file."""
        write_safetensors(self.stage / file, tensors, metadata=metadata, report=self._report)
        for name, tensor in tensors.items():
            self.places[name] = file
            self.size += tensor.size
            self.parameters += math.prod(tensor.shape)

    def write_index(self, of: Path) -> None:
        """Write the index, which says in its metadata no more than the one it replaces."""
        metadata = read_json(of).get("metadata", {})
        counted = {"total_size": self.size, "total_parameters": self.parameters}
        metadata |= {name: count for name, count in counted.items() if name in metadata}
        _write_json(self.stage / f"{_WEIGHTS}{_INDEX}", {"metadata": metadata, "weight_map": self.places})

    def _report(self, size: int) -> None:
        self.done += size
        self.progress(self.done, max(self.total, self.done))


def base_files(folder: Path) -> tuple[list[Path], Path | None]:
    """The files of a base's weights, in the order in which transformers looks for them, and their index if they have one.

    Raises:
        CheckpointError: no weights there, or not all that the index names.
    """
    for name in (_WEIGHTS, _PICKLE):
        if (folder / name).is_file():
            return [folder / name], None
        index = folder / f"{name}{_INDEX}"
        if index.is_file():
            files = [folder / file for file in sorted(set(read_json(index).get("weight_map", {}).values()))]
            absent = [file.name for file in files if not file.is_file()]
            if absent:
                raise CheckpointError(
                    f"{str(folder)!r} lacks {', '.join(absent)}, named by its index: download it again"
                )
            return files, index
    raise CheckpointError(f"{str(folder)!r} has no weights: neither {_WEIGHTS} nor {_PICKLE}, nor an index of either")


def _identity(folder: Path, files: list[Path], known: HeadsInfo) -> BaseIdentity:
    """The base by its configuration, and by its numbers if there are some to compare with."""
    with as_checkpoint_error(f"cannot read the configuration of the base {str(folder)!r}"):
        identity = BaseIdentity.of(AutoConfig.from_pretrained(folder))
    values: dict[str, list[float]] = {}
    for file in files if known.base.values else ():
        values |= stored_values(known.base.values, read_file(file)[0])
    return replace(identity, values=values)


def _as_safetensors(file: Path, number: int, count: int) -> str:
    """The name under which a file of weights is written."""
    if file.suffix == ".safetensors":
        return file.name
    return _WEIGHTS if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors"


def _copy_others(folder: Path, stage: Path) -> None:
    """Tokenizer, templates, generation config, licence: whatever is no weights."""
    for file in folder.iterdir():
        copied = file.suffix not in _NOT_COPIED and not file.name.endswith(_INDEX) and not file.name.startswith(".")
        if copied and file.is_file() and file.name not in _KEPT.values():
            shutil.copyfile(file, stage / file.name)
    if (folder / _TEMPLATES).is_dir():
        shutil.copytree(folder / _TEMPLATES, stage / _TEMPLATES)


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
