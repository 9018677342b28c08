"""What a training run is: one frozen object, checked when it is made, and the part of it that a checkpoint remembers."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from local_backend.config import Dtype, SetupError
from local_backend.training.data import TooLong
from local_backend.training.losses import LossConfig

Schedule = Literal["linear", "cosine", "constant"]
Which = Literal["both", "temperature", "top_p"]
PUBLISHED_RATE = 5e-6
PUBLISHED_STEPS = 400


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How to train heads; only the first three have to be given.

    Attributes:
        model: the base: a Hugging Face folder, a Hub name, or tiny.
        data: JSONL, see `local_backend.training.data`.
        out: folder for the heads, the metrics, and the state while the run lasts.
        validation: held-out records; None holds a share of `data` out.
        validation_fraction: that share; 0 holds nothing out, and then nothing is said about what the heads buy.
        loss: form and constants.
        which: train both heads or one; the other then decides 1.
        statistics: the top-p head sees the distribution, as in all released heads.
        width: hidden units of each head.
        learning_rate: AdamW's peak; None is the published 5e-6 for a hidden size of 2048 and more, and rises to 1e-3 as it shrinks.
        schedule: linear falls to 0 over the run, as published.
        warmup_steps: steps of linear rise before.
        weight_decay: AdamW's.
        clip: largest gradient norm of a step.
        batch_size: examples a step, over all processes.
        epochs: passes over the data; None is one, or as many as 400 steps take.
        steps: exact number of steps instead.
        max_length: longest record in tokens; None is the model's context.
        too_long: drop longer records or cut their completion.
        data_temperature: what the completions were sampled at, for the record; None takes it from the records.
        seed: of the first weights, the order and the masks.
        dtype: of the base's weights; auto is the checkpoint's own on a GPU and float32 on a CPU.
        autocast: compute the base in bfloat16 whatever its weights are in. Heads are float32 always.
        device: auto takes the GPU of this process where there is one; cpu; cuda:1.
        chunk_mib: size of the largest piece of logits in memory, in float32.
        micro_batch_tokens: padded tokens the base sees at once; accumulation to `batch_size` follows, and changes no result.
        keep_mib: hidden states up to this size are computed once and kept, which saves the base's work in all later epochs.
        checkpoint_seconds: how often the state is written; 0 is after every step.
        validate_every: steps between held-out losses; None is ten times a run.
        keep_best: end with the heads of the lowest held-out loss, not with the last ones: few records overfit soon.
        tensorboard: also write TensorBoard's event files.
        resume: go on from the state in `out`, or start where there is none.
        overwrite: start anew though `out` holds heads or a state.
    """

    model: str
    data: Path
    out: Path
    validation: Path | None = None
    validation_fraction: float = 0.1
    loss: LossConfig = field(default_factory=LossConfig)
    which: Which = "both"
    statistics: bool = True
    width: int = 256
    learning_rate: float | None = None
    schedule: Schedule = "linear"
    warmup_steps: int = 0
    weight_decay: float = 0.0
    clip: float = 1.0
    batch_size: int = 32
    epochs: int | None = None
    steps: int | None = None
    max_length: int | None = None
    too_long: TooLong = "drop"
    data_temperature: float | None = None
    seed: int = 0
    dtype: Dtype = "auto"
    autocast: bool = False
    device: str = "auto"
    chunk_mib: int = 128
    micro_batch_tokens: int = 16_384
    keep_mib: int = 2048
    checkpoint_seconds: float = 60.0
    validate_every: int | None = None
    keep_best: bool = True
    tensorboard: bool = False
    resume: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Reject what no run can be made of.

        Raises:
            SetupError: names the setting and its value.
        """
        for name in (
            "width",
            "batch_size",
            "epochs",
            "steps",
            "max_length",
            "chunk_mib",
            "micro_batch_tokens",
            "validate_every",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SetupError(f"{name}={value!r} must be at least 1")
        for name, good, rule in (
            ("validation_fraction", 0 <= self.validation_fraction < 1, "in [0, 1)"),
            ("learning_rate", self.learning_rate is None or self.learning_rate > 0, "> 0"),
            ("warmup_steps", self.warmup_steps >= 0, ">= 0"),
            ("weight_decay", self.weight_decay >= 0, ">= 0"),
            ("clip", self.clip > 0, "> 0"),
            ("checkpoint_seconds", self.checkpoint_seconds >= 0, ">= 0"),
        ):
            if not good:
                raise SetupError(f"{name}={getattr(self, name)!r} must be {rule}")
        if self.epochs is not None and self.steps is not None:
            raise SetupError(f"epochs={self.epochs!r} and steps={self.steps!r} exclude each other: give one")

    def rate(self, hidden_size: int) -> float:
        """The peak learning rate for a base of this hidden size."""
        if self.learning_rate is not None:
            return self.learning_rate
        return min(1e-3, PUBLISHED_RATE * max(1.0, 2048 / hidden_size) ** 2)


def recipe(config: TrainConfig, **facts: Any) -> dict[str, Any]:
    """Everything that decides the weights, JSON-able; a run only goes on under the same recipe."""
    asked = asdict(config)
    deciding = (
        "loss", "which", "statistics", "width", "schedule", "warmup_steps", "weight_decay", "clip", "batch_size", "max_length",
        "too_long", "validation_fraction", "keep_best", "seed", "dtype", "autocast",
    )  # fmt: skip
    return {"model": config.model, **{name: asked[name] for name in deciding}, **facts}
