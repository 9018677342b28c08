"""What a checkpoint of heads holds, from headers and config.json alone: as fast for 100 GB as for 4 MB."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local_backend.checkpoint.layouts import Contents, read
from local_backend.checkpoint.load import HeadsInfo, info
from local_backend.checkpoint.source import locate


@dataclass(frozen=True, kw_only=True)
class Description:
    """What there is to say about a checkpoint.

    Attributes:
        info: about the heads.
        tensors: each tensor of the heads: its name in the file, number format and shape.
        parameters: of the heads.
        base_files: files with tensors of the base; none for heads alone.
        base_parameters: of the base, if it is there.
    """

    info: HeadsInfo
    tensors: dict[str, tuple[str, tuple[int, ...]]]
    parameters: int
    base_files: int
    base_parameters: int

    def record(self) -> dict[str, Any]:
        """The JSON form."""
        config, base = self.info.config, self.info.base
        return {
            "path": str(self.info.path),
            "layout": self.info.layout,
            "hidden_size": config.hidden_size,
            "temperature_head": {"width": config.temperature_width} if config.temperature else None,
            "top_p_head": {"width": config.top_p_width, "statistics": config.statistics} if config.top_p else None,
            "dtype": self.info.dtype,
            "parameters": self.parameters,
            "tensors": {name: {"dtype": code, "shape": list(shape)} for name, (code, shape) in self.tensors.items()},
            "base": {
                "name": self.info.base_name,
                "model_type": base.model_type,
                "hidden_size": base.hidden_size,
                "vocab_size": base.vocab_size,
                "layers": base.layers,
                "fingerprint": bool(base.values),
                "files": self.base_files,
                "parameters": self.base_parameters,
            },
            "recipe": dict(self.info.recipe),
        }

    def rows(self) -> list[tuple[str, str]]:
        """The table for people: what, and its value."""
        told = self.record()
        base = told["base"]
        shape = ", ".join(f"{name.replace('_', ' ')} {base[name]}" for name in ("hidden_size", "vocab_size", "layers"))
        heads = {"temperature head": told["temperature_head"], "top-p head": told["top_p_head"]}
        return [
            ("layout", self.info.layout),
            ("hidden size", str(told["hidden_size"])),
            *((name, _head(head)) for name, head in heads.items()),
            ("parameters", f"{self.parameters:,} in {self.info.dtype}"),
            ("base", base["name"] or "not named: give --base"),
            ("base model", f"{base['model_type'] or 'unknown'} ({shape})"),
            (
                "base within",
                f"{self.base_parameters:,} parameters, files: {self.base_files}" if self.base_files else "no",
            ),
            ("base checked by", "shape and numbers" if base["fingerprint"] else "shape"),
            *((f"recipe: {name}", str(value)) for name, value in self.info.recipe.items()),
            *((name, f"{code} {list(shape)}") for name, (code, shape) in self.tensors.items()),
        ]


def describe(source: str | Path) -> Description:
    """Look into a folder, a file of weights or a Hub name.

    Raises:
        CheckpointError: there are no heads, or they are damaged.
    """
    contents = read(locate(source, what="heads"))
    return Description(
        info=info(contents),
        tensors={contents.head_names[name]: (tensor.code, tensor.shape) for name, tensor in contents.heads.items()},
        parameters=sum(math.prod(tensor.shape) for tensor in contents.heads.values()),
        base_files=len(contents.base),
        base_parameters=_base_parameters(contents),
    )


def _base_parameters(contents: Contents) -> int:
    return sum(math.prod(tensor.shape) for tensors in contents.base.values() for tensor in tensors.values())


def _head(head: dict[str, Any] | None) -> str:
    if head is None:
        return "none, or switched off"
    statistics = {True: ", sees the distribution", False: ", does not see the distribution"}
    return f"width {head['width']}" + (statistics[head["statistics"]] if "statistics" in head else "")
