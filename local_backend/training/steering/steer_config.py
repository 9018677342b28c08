"""What a steering run is: one frozen object, checked when it is made, and the part of it that decides the heads."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from local_backend.config import Dtype, SetupError
from local_backend.training.steering.commands import Place


@dataclass(frozen=True, kw_only=True)
class SteerConfig:
    """How to teach heads to follow commands; the first three have to be given.

    Attributes:
        heads: where to start from: trained heads, whose decisions normal prompts keep.
        data: JSONL with messages, or with prompt and completion, see `local_backend.training.data`.
        out: folder for the new heads, the metrics, and the state while the run lasts.
        model: the base; None is the one that the heads name.
        commands: JSON file of wordings; None is English ones.
        place: where in the prompt a command stands. A base that was never shown such sentences
            may answer worse with them, whatever the heads decide: look at its answers.
        held_out: prompts to judge on; at most a fifth of all.
        variants: how often each prompt is trained on, each time with other wordings.
        temperature_margin: by how much the mean T of low and of high prompts should differ from that of normal ones.
        top_p_margin: the same for P.
        anchor: weight of what keeps normal prompts' decisions where they were.
        steps: optimiser steps.
        batch_size: prompts a step, each at all three levels.
        learning_rate: AdamW's peak; falls linearly to 0.
        weight_decay: AdamW's.
        clip: largest gradient norm of a step.
        max_length: longest prompt and completion in tokens; None is the model's context.
        seed: of the wordings, the split and the order.
        dtype: of the base's weights; auto is the checkpoint's own on a GPU and float32 on a CPU.
        device: auto takes a GPU where there is one.
        chunk_mib: size of the largest piece of logits in memory, in float32.
        micro_batch_tokens: padded tokens the base sees at once.
        keep_mib: hidden states up to this size are computed once and kept.
        checkpoint_seconds: how often the state is written; 0 is after every step.
        tensorboard: also write TensorBoard's event files.
        resume: go on from the state in `out`, or start where there is none.
        overwrite: start anew though `out` holds heads or a state.
    """

    heads: str
    data: Path
    out: Path
    model: str | None = None
    commands: Path | None = None
    place: Place = "before"
    held_out: int = 100
    variants: int = 1
    temperature_margin: float = 0.15
    top_p_margin: float = 0.05
    anchor: float = 1.0
    steps: int = 1000
    batch_size: int = 32
    learning_rate: float = 3e-3
    weight_decay: float = 0.0
    clip: float = 1.0
    max_length: int | None = None
    seed: int = 0
    dtype: Dtype = "auto"
    device: str = "auto"
    chunk_mib: int = 128
    micro_batch_tokens: int = 16_384
    keep_mib: int = 2048
    checkpoint_seconds: float = 60.0
    tensorboard: bool = False
    resume: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Reject what no run can be made of.

        Raises:
            SetupError: names the setting and its value.
        """
        at_least_one = ("held_out", "variants", "steps", "batch_size", "chunk_mib", "micro_batch_tokens")
        for name, good, rule in (
            *((name, getattr(self, name) >= 1, "at least 1") for name in at_least_one),
            ("max_length", self.max_length is None or self.max_length >= 1, "at least 1"),
            ("temperature_margin", 0 < self.temperature_margin < 1, "in (0, 1)"),
            ("top_p_margin", 0 < self.top_p_margin < 0.5, "in (0, 0.5)"),
            *((name, getattr(self, name) > 0, "> 0") for name in ("learning_rate", "clip")),
            *(
                (name, getattr(self, name) >= 0, ">= 0")
                for name in ("anchor", "weight_decay", "keep_mib", "checkpoint_seconds")
            ),
        ):
            if not good:
                raise SetupError(f"{name}={getattr(self, name)!r} must be {rule}")


def deciding(config: SteerConfig) -> dict[str, Any]:
    """The settings that decide the weights; the rest says where, and how fast, and how often things are written."""
    beside = {"heads", "data", "out", "model", "commands", "device", "chunk_mib", "micro_batch_tokens", "keep_mib"}
    beside |= {"checkpoint_seconds", "tensorboard", "resume", "overwrite"}
    return {name: value for name, value in asdict(config).items() if name not in beside}
