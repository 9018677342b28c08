"""What a folder holds: heads, a base, or both, in any of the layouts in which AutoDeco has been published.

- heads: `model.safetensors` with the heads' tensors alone (today); `autodeco_heads.safetensors`, whole or in shards with an
  index; `autodeco_heads.bin`, flat or with a dict for each head.
- merged: the base's files with `llm.` before every name of the base, and the heads' tensors in one of them.
- merged, oldest form: the base's names as they are, the heads' beside them.

Heads are found by the end of their names, whatever stands before (`module.`, `adapter.`, `model.`, in any mixture), and their
shapes are read from the tensors: config.json may be wrong or missing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from local_backend.checkpoint.errors import CheckpointError
from local_backend.checkpoint.tensors import AnyTensor, read_pickle, read_safetensors
from local_backend.heads import STATISTICS, HeadsConfig

Layout = Literal["heads", "merged", "merged without prefix"]
PREFIX = "llm."
"""Stands before every name of the base in a merged checkpoint."""
_HEAD_NAME = re.compile(r"(?:^|\.)((?:temp_head|top_p_head)\.mlp\.[02]\.(?:weight|bias))$")
_TEMPERATURE, _TOP_P = "temp_head", "top_p_head"
_PARTS = ("mlp.0.weight", "mlp.0.bias", "mlp.2.weight", "mlp.2.bias")
_PICKLES = ("autodeco_heads*.bin", "pytorch_model*.bin")
"""Others, such as training_args.bin, are no weights."""


@dataclass(frozen=True, kw_only=True)
class Contents:
    """Everything found in a folder, or in one file.

    Attributes:
        path: the folder or file.
        config: its config.json; {} where there is none.
        metadata: what the file with the heads says of itself.
        heads: the heads' tensors under their published names, in the order of the file.
        base: the base's tensors by file, under the names they have there.
        head_names: the heads' names as they are in the files.
    """

    path: Path
    config: dict[str, Any]
    metadata: dict[str, str]
    heads: dict[str, AnyTensor]
    base: dict[Path, dict[str, AnyTensor]]
    head_names: dict[str, str] = field(repr=False)

    @property
    def layout(self) -> Layout:
        """Which of the published layouts this is."""
        if not self.base:
            return "heads"
        return "merged" if all(name.startswith(PREFIX) for name in self.base_names()) else "merged without prefix"

    def base_names(self) -> Iterator[str]:
        """Every name of the base, as it is in the files."""
        return (name for tensors in self.base.values() for name in tensors)


def read(path: Path) -> Contents:
    """Find the heads, and what else is there, in a folder or in one file of weights.

    Raises:
        CheckpointError: no heads, heads in two places, or a file that cannot be read.
    """
    folder = path if path.is_dir() else path.parent
    heads: dict[str, AnyTensor] = {}
    names: dict[str, str] = {}
    places: dict[str, Path] = {}
    base: dict[Path, dict[str, AnyTensor]] = {}
    metadata: dict[str, str] = {}
    for file in weight_files(path):
        tensors, said = read_file(file)
        for name, tensor in tensors.items():
            found = _HEAD_NAME.search(name)
            if found is None:
                base.setdefault(file, {})[name] = tensor
            elif found[1] in heads:
                raise CheckpointError(
                    f"{str(path)!r} has {found[1]!r} twice, in {places[found[1]].name!r} and {file.name!r}: "
                    "name the file you mean, or take the other away"
                )
            else:
                heads[found[1]], names[found[1]], places[found[1]] = tensor, name, file
                metadata = said
    lacking = _promised(folder) - heads.keys() if path.is_dir() else set()
    if lacking:
        raise CheckpointError(
            f"{str(path)!r} lacks {', '.join(sorted(lacking))}, which its index names: copy or download it again"
        )
    if not heads:
        raise CheckpointError(
            f"{str(path)!r} holds no AutoDeco heads: no tensor's name ends like temp_head.mlp.0.weight"
        )
    return Contents(
        path=path, config=read_json(folder / "config.json"), metadata=metadata, heads=heads, base=base, head_names=names
    )


def weight_files(path: Path) -> list[Path]:
    """The files of weights in a folder, safetensors before pickles; or the one file named."""
    if path.is_file():
        return [path]
    safetensors = sorted(path.glob("*.safetensors"))
    pickles = sorted({file for pattern in _PICKLES for file in path.glob(pattern)})
    # A folder with both has the same weights twice; only heads may lie beside.
    return [*safetensors, *(file for file in pickles if not safetensors or file.name.startswith("autodeco_heads"))]


def read_file(file: Path) -> tuple[Mapping[str, AnyTensor], dict[str, str]]:
    """The tensors of one file, and its metadata."""
    return read_safetensors(file) if file.suffix == ".safetensors" else (read_pickle(file), {})


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object; {} where there is no such file.

    Raises:
        CheckpointError: the file is no JSON object.
    """
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{str(file)!r} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{str(file)!r} is not a JSON object but a {type(content).__name__}")
    return content


def strip_prefix(name: str) -> str:
    """A name of a merged checkpoint as the base itself has it."""
    return name.removeprefix(PREFIX)


def heads_config(contents: Contents) -> HeadsConfig:
    """How the heads are built, by the shapes of their tensors; config.json only says whether one is switched off.

    Raises:
        CheckpointError: tensors are missing or do not fit together.
    """
    temperature, top_p = (_width_and_inputs(contents, head) for head in (_TEMPERATURE, _TOP_P))
    if temperature is not None:
        hidden = temperature[1]
    else:
        hidden = contents.config.get("hidden_size", 0)
        if not hidden:
            raise CheckpointError(
                f"{str(contents.path)!r} has a top-p head alone and no hidden_size in a config.json: add that file"
            )
    statistics = True
    if top_p is not None:
        if top_p[1] - hidden not in (1, 1 + STATISTICS):
            raise CheckpointError(
                f"{str(contents.path)!r}: the top-p head takes {top_p[1]} numbers, which fits a hidden size of "
                f"{top_p[1] - 1 - STATISTICS} or {top_p[1] - 1}, not {hidden}: the heads are of two different models"
            )
        statistics = top_p[1] - hidden > 1
    on = _switched_on(contents.config)
    built = {_TEMPERATURE: temperature is not None, _TOP_P: top_p is not None}
    if not any(on[head] and built[head] for head in built):
        raise CheckpointError(
            f"{str(contents.path)!r}: config.json switches off every head there is; set enable_temperature_head or "
            "enable_top_p_head (train_temp, train_top_p in old files) to true if they were trained"
        )
    return HeadsConfig(
        hidden_size=hidden,
        statistics=statistics,
        temperature=built[_TEMPERATURE] and on[_TEMPERATURE],
        top_p=built[_TOP_P] and on[_TOP_P],
        **({"temperature_width": temperature[0]} if temperature else {}),
        **({"top_p_width": top_p[0]} if top_p else {}),
    )


def _switched_on(config: dict[str, Any]) -> dict[str, bool]:
    """By the config's present field or by its older one."""
    return {
        head: bool(config.get(present, config.get(older, True)))
        for head, present, older in (
            (_TEMPERATURE, "enable_temperature_head", "train_temp"),
            (_TOP_P, "enable_top_p_head", "train_top_p"),
        )
    }


def _width_and_inputs(contents: Contents, head: str) -> tuple[int, int] | None:
    """Hidden units and features of a head; None if it is not there."""
    tensors = {part: contents.heads.get(f"{head}.{part}") for part in _PARTS}
    present = {part: tensor.shape for part, tensor in tensors.items() if tensor is not None}
    if not present:
        return None
    missing = [f"{head}.{part}" for part in _PARTS if part not in present]
    if missing:
        raise CheckpointError(f"{str(contents.path)!r} lacks {', '.join(missing)}: the checkpoint is not whole")
    shape = present["mlp.0.weight"]
    width, inputs = shape if len(shape) == 2 else (0, 0)
    if [present[part] for part in _PARTS] != [(width, inputs), (width,), (1, width), (1,)]:
        raise CheckpointError(f"{str(contents.path)!r}: the shapes of {head} do not fit together: {present}")
    return width, inputs


def _promised(folder: Path) -> set[str]:
    """The tensors of heads that the indexes of a folder name."""
    names = (name for index in folder.glob("*.index.json") for name in read_json(index).get("weight_map", {}))
    return {found[1] for name in names if (found := _HEAD_NAME.search(name))}
