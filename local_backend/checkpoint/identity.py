"""Which base heads belong to: its shape, and a few of its numbers, so that another base of the same shape is found out.

Numbers, not a digest: they are compared with a tolerance, since the same base is kept in float32 here and in bfloat16 there.
A base that was tuned further without touching its output embedding and its last norm is not told apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from local_backend.checkpoint.tensors import AnyTensor

_PER_MATRIX, _PER_VECTOR = 16, 4
_RELATIVE, _ABSOLUTE = 0.01, 1e-6
"""bfloat16 is good to 0.4 %."""


@dataclass(frozen=True, kw_only=True)
class BaseIdentity:
    """What is known of a base; None where nothing is.

    Attributes:
        model_type: transformers' name of the architecture, such as qwen2.
        hidden_size: width of its hidden states.
        vocab_size: rows of its output embedding.
        layers: number of its layers.
        values: numbers from its output embedding and from its norms outside the layers, by the tensor's name.
    """

    model_type: str | None = None
    hidden_size: int | None = None
    vocab_size: int | None = None
    layers: int | None = None
    values: Mapping[str, list[float]] = field(default_factory=dict)

    @classmethod
    def of(cls, base: PreTrainedModel | PreTrainedConfig) -> Self:
        """Read it from a model, or as far as a configuration goes."""
        config = base if isinstance(base, PreTrainedConfig) else base.config
        text = config.get_text_config()
        return cls(
            model_type=config.model_type,
            hidden_size=getattr(text, "hidden_size", None),
            vocab_size=getattr(text, "vocab_size", None),
            layers=getattr(text, "num_hidden_layers", None),
            values={} if base is config else _values(base),
        )

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Self:
        """Read back what `record` gave."""
        names = ("model_type", "hidden_size", "vocab_size", "layers")
        return cls(**{name: record.get(name) for name in names}, values=dict(record.get("values") or {}))

    @classmethod
    def of_published(cls, config: Mapping[str, Any]) -> Self:
        """Read it from a published config.json, where the base's fields lie beside the heads'."""
        return cls(
            model_type=config.get("base_model_type"),
            hidden_size=config.get("hidden_size"),
            vocab_size=config.get("vocab_size"),
            layers=config.get("num_hidden_layers"),
        )

    def record(self) -> dict[str, Any]:
        """The JSON form."""
        return asdict(self)

    def differences(self, other: BaseIdentity) -> list[str]:
        """What both know and do not agree on, in words: `layers 2, not 4`. The other one's numbers stand second."""
        shapes = [
            f"{name.replace('_', ' ')} {getattr(other, name)!r}, not {getattr(self, name)!r}"
            for name in ("model_type", "hidden_size", "vocab_size", "layers")
            if None not in (getattr(self, name), getattr(other, name)) and getattr(self, name) != getattr(other, name)
        ]
        return shapes or [
            f"other numbers in {name!r}"
            for name in self.values.keys() & other.values.keys()
            if not _agree(self.values[name], other.values[name])
        ]


def _values(base: PreTrainedModel) -> dict[str, list[float]]:
    output = base.get_output_embeddings()
    matrix = None if output is None else getattr(output, "weight", None)
    return {
        name: parameter.detach().flatten()[positions(tuple(parameter.shape))].double().cpu().tolist()
        for name, parameter in base.named_parameters()
        if (parameter is matrix or (parameter.ndim == 1 and not _in_a_layer(name)))
        and parameter.is_floating_point()
        and not parameter.is_meta
    }


def stored_values(names: Iterable[str], tensors: Mapping[str, AnyTensor]) -> dict[str, list[float]]:
    """The same numbers from tensors on the disk, for as many of the names as are found there."""
    found: dict[str, list[float]] = {}
    for name in names:
        tensor = next((tensors[other] for other in tensors if _same(name, other)), None)
        values = None if tensor is None else tensor.values(positions(tensor.shape))
        if values is not None:
            found[name] = values
    return found


def positions(shape: tuple[int, ...]) -> list[int]:
    """Evenly spread flat positions of a tensor."""
    elements = math.prod(shape)
    count = min(_PER_MATRIX if len(shape) > 1 else _PER_VECTOR, elements)
    return [index * elements // count for index in range(count)]


def _in_a_layer(name: str) -> bool:
    return any(part.isdigit() for part in name.split("."))


def _same(name: str, other: str) -> bool:
    """Files leave out or add the first parts of a name: transformer.ln_f.weight, ln_f.weight."""
    return name == other or name.endswith(f".{other}") or other.endswith(f".{name}")


def _agree(one: list[float], other: list[float]) -> bool:
    a, b = torch.tensor(one, dtype=torch.float64), torch.tensor(other, dtype=torch.float64)
    return a.shape == b.shape and bool(torch.isclose(a, b, rtol=_RELATIVE, atol=_ABSOLUTE).all())
