"""What a training run on a reward is: one frozen object, checked when it is made."""

from __future__ import annotations

from dataclasses import dataclass

from local_backend.heads import WIDTH
from local_backend.training.run_config import RunConfig

_RATE, _RATE_SIZE = 3e-3, 192


@dataclass(frozen=True, kw_only=True)
class RewardConfig(RunConfig):
    """How to train heads on a reward; model and out have to be given.

    Attributes:
        model: name of the base, for the checkpoint.
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
    """

    model: str
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

    def __post_init__(self) -> None:
        """Reject what no run can be made of.

        Raises:
            SetupError: names the setting and its value.
        """
        super().__post_init__()
        self.at_least_one("steps", "prompts", "updates", "width")
        self.demand(
            ("samples", self.samples >= 2, "at least 2: a sample is judged by the others of its prompt"),
            *((name, getattr(self, name) > 0, "> 0") for name in ("clip", "max_norm", "noise")),
            ("learning_rate", self.learning_rate is None or self.learning_rate > 0, "> 0"),
            ("start_top_p", 0 < self.start_top_p < 1, "in (0, 1)"),
        )

    def rate(self, hidden_size: int) -> float:
        """The learning rate at the start for a base of this hidden size."""
        return _RATE * min(1.0, _RATE_SIZE / hidden_size) if self.learning_rate is None else self.learning_rate
