"""What a training run is: one frozen object, checked when it is made, and the part of it that a checkpoint remembers."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from local_backend.config import SetupError
from local_backend.training.data import TooLong
from local_backend.training.losses import LossConfig
from local_backend.training.run_config import RecordsConfig

Schedule = Literal["linear", "cosine", "constant"]
Which = Literal["both", "temperature", "top_p"]
PUBLISHED_RATE = 5e-6
PUBLISHED_STEPS = 400


@dataclass(frozen=True, kw_only=True)
class TrainConfig(RecordsConfig):
    """How to train heads; model, data and out have to be given.

    Attributes:
        model: the base: a Hugging Face folder, a Hub name, or tiny.
        validation: held-out records; None holds a share of `data` out.
        validation_fraction: that share; 0 holds nothing out, and then nothing is said about what the heads buy.
        loss: form and constants.
        which: train both heads or one; the other then decides 1.
        statistics: the top-p head sees the distribution, as in all released heads.
        width: hidden units of each head.
        learning_rate: AdamW's peak; None is the published 5e-6 for a hidden size of 2048 and more, and rises to 1e-3 as it shrinks.
        schedule: linear falls to 0 over the run, as published.
        warmup_steps: steps of linear rise before.
        epochs: passes over the data; None is one, or as many as 400 steps take.
        steps: exact number of steps instead.
        too_long: drop longer records or cut their completion.
        data_temperature: what the completions were sampled at, for the record; None takes it from the records.
        autocast: compute the base in bfloat16 whatever its weights are in. Heads are float32 always.
        validate_every: steps between held-out losses; None is ten times a run.
        keep_best: end with the heads of the lowest held-out loss, not with the last ones: few records overfit soon.
    """

    model: str
    validation: Path | None = None
    validation_fraction: float = 0.1
    loss: LossConfig = field(default_factory=LossConfig)
    which: Which = "both"
    statistics: bool = True
    width: int = 256
    learning_rate: float | None = None
    schedule: Schedule = "linear"
    warmup_steps: int = 0
    epochs: int | None = None
    steps: int | None = None
    too_long: TooLong = "drop"
    data_temperature: float | None = None
    autocast: bool = False
    validate_every: int | None = None
    keep_best: bool = True

    def __post_init__(self) -> None:
        """Reject what no run can be made of.

        Raises:
            SetupError: names the setting and its value.
        """
        super().__post_init__()
        self.at_least_one("width", "epochs", "steps", "validate_every")
        self.demand(
            ("validation_fraction", 0 <= self.validation_fraction < 1, "in [0, 1)"),
            ("learning_rate", self.learning_rate is None or self.learning_rate > 0, "> 0"),
            ("warmup_steps", self.warmup_steps >= 0, ">= 0"),
        )
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
