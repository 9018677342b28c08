"""What a training run on a reward is: one frozen object, checked when it is made, and the part of it that decides the heads."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from local_backend.config import SetupError
from local_backend.heads import WIDTH

_RATE, _RATE_SIZE = 3e-3, 192


@dataclass(frozen=True, kw_only=True)
class RewardConfig:
    """How to train heads on a reward; the first two have to be given.

    Attributes:
        model: name of the base, for the checkpoint.
        out: folder for the heads, the metrics, and the state while the run lasts.
        steps: rounds of drawing.
        prompts: prompts a round, spread evenly over the tasks.
        samples: samples a prompt; at least two, and at least any task's n.
        updates: gradient steps on each round's samples.
        learning_rate: Adam's, falls to a tenth over the run; None is 3e-3 up to a hidden size of 192, and falls in proportion above.
        clip: how far a token's probability ratio counts, as in PPO.
        max_norm: largest gradient norm of an update.
        noise: scale of the noise on logit(P) while drawing.
        start_top_p: P of fresh heads; T starts at 1.
        statistics: the top-p head sees the distribution.
        width: hidden units of each head.
        seed: of the first weights, the prompts and the samples.
        chunk_mib: size of the largest piece of logits in memory, in float32.
        checkpoint_seconds: how often the state is written; 0 is after every step.
        tensorboard: also write TensorBoard's event files.
        resume: go on from the state in `out`, or start where there is none.
        overwrite: start anew though `out` holds heads or a state.
    """

    model: str
    out: Path
    steps: int = 30
    prompts: int = 24
    samples: int = 8
    updates: int = 4
    learning_rate: float | None = None
    clip: float = 0.2
    max_norm: float = 1.0
    noise: float = 0.5
    start_top_p: float = 0.95
    statistics: bool = True
    width: int = WIDTH
    seed: int = 0
    chunk_mib: int = 128
    checkpoint_seconds: float = 60.0
    tensorboard: bool = False
    resume: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Reject what no run can be made of.

        Raises:
            SetupError: names the setting and its value.
        """
        for name, good, rule in (
            *(
                (name, getattr(self, name) >= 1, "at least 1")
                for name in ("steps", "prompts", "updates", "width", "chunk_mib")
            ),
            ("samples", self.samples >= 2, "at least 2: a sample is judged by the others of its prompt"),
            *((name, getattr(self, name) > 0, "> 0") for name in ("clip", "max_norm", "noise")),
            ("learning_rate", self.learning_rate is None or self.learning_rate > 0, "> 0"),
            ("start_top_p", 0 < self.start_top_p < 1, "in (0, 1)"),
            ("checkpoint_seconds", self.checkpoint_seconds >= 0, ">= 0"),
        ):
            if not good:
                raise SetupError(f"{name}={getattr(self, name)!r} must be {rule}")

    def rate(self, hidden_size: int) -> float:
        """The learning rate at the start for a base of this hidden size."""
        return _RATE * min(1.0, _RATE_SIZE / hidden_size) if self.learning_rate is None else self.learning_rate


def deciding(config: RewardConfig) -> dict[str, Any]:
    """The settings that decide the weights; the rest says where and how often things are written."""
    beside = {"out", "chunk_mib", "checkpoint_seconds", "tensorboard", "resume", "overwrite"}
    return {name: value for name, value in asdict(config).items() if name not in beside}
