"""What a steering run is: one frozen object, checked when it is made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from local_backend.training.run_config import RecordsConfig
from local_backend.training.steering.commands import Place


@dataclass(frozen=True, kw_only=True)
class SteerConfig(RecordsConfig):
    """How to teach heads to follow commands; heads, data and out have to be given. A record of a batch counts at all three levels.

    Attributes:
        heads: where to start from: trained heads, whose decisions normal prompts keep.
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
        learning_rate: AdamW's peak; falls linearly to 0.
    """

    heads: str
    model: str | None = None
    commands: Path | None = None
    place: Place = "before"
    held_out: int = 100
    variants: int = 1
    temperature_margin: float = 0.15
    top_p_margin: float = 0.05
    anchor: float = 1.0
    steps: int = 1000
    learning_rate: float = 3e-3

    def __post_init__(self) -> None:
        """Reject what no run can be made of.

        Raises:
            SetupError: names the setting and its value.
        """
        super().__post_init__()
        self.at_least_one("held_out", "variants", "steps")
        self.demand(
            ("temperature_margin", 0 < self.temperature_margin < 1, "in (0, 1)"),
            ("top_p_margin", 0 < self.top_p_margin < 0.5, "in (0, 0.5)"),
            ("learning_rate", self.learning_rate > 0, "> 0"),
            ("anchor", self.anchor >= 0, ">= 0"),
        )
