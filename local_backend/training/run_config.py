"""What every run of training is told beside what it learns: what it reads, where it writes, how often, and how it goes on."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from local_backend.config import Dtype, SetupError


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Of any run; of all this the seed alone decides the weights.

    Attributes:
        out: folder for the heads, the metrics, and the state while the run lasts.
        seed: of every random choice.
        chunk_mib: size of the largest piece of logits in memory, in float32.
        checkpoint_seconds: how often the state is written; 0 is after every step.
        tensorboard: also write TensorBoard's event files.
        resume: go on from the state in `out`, or start where there is none.
        overwrite: start anew though `out` holds heads or a state.
    """

    out: Path
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
        self.demand(
            ("chunk_mib", self.chunk_mib >= 1, "at least 1"),
            ("checkpoint_seconds", self.checkpoint_seconds >= 0, ">= 0"),
        )

    def demand(self, *rules: tuple[str, bool, str]) -> None:
        """Reject the first setting that is not as it has to be.

        Args:
            rules: name of a setting, whether it is good, and what it must be.

        Raises:
            SetupError: names the setting and its value.
        """
        for name, good, rule in rules:
            if not good:
                raise SetupError(f"{name}={getattr(self, name)!r} must be {rule}")

    def at_least_one(self, *names: str) -> None:
        """Reject settings below 1; None is not below."""
        self.demand(*((name, (value := getattr(self, name)) is None or value >= 1, "at least 1") for name in names))

    def deciding(self, *beside: str) -> dict[str, Any]:
        """The settings that decide the weights, JSON-able where paths are left out: the seed, and what a kind of run adds.

        Args:
            beside: settings of that kind that do not.
        """
        out = {*beside, *(field.name for field in fields(RunConfig))} - {"seed"}
        return {name: value for name, value in asdict(self).items() if name not in out}


@dataclass(frozen=True, kw_only=True)
class RecordsConfig(RunConfig):
    """Of a run over records, on the hidden states that a frozen base computes for them.

    Attributes:
        data: JSONL, see `local_backend.training.data`.
        max_length: longest record in tokens; None is the model's context.
        batch_size: records a step, over all processes.
        weight_decay: AdamW's.
        clip: largest gradient norm of a step.
        dtype: of the base's weights; auto is the checkpoint's own on a GPU and float32 on a CPU.
        device: auto takes the GPU of this process where there is one; cpu; cuda:1.
        micro_batch_tokens: padded tokens the base sees at once; accumulation to `batch_size` follows, and changes no result.
        keep_mib: hidden states up to this size are computed once and kept, which saves the base's work in all later epochs.
    """

    data: Path
    max_length: int | None = None
    batch_size: int = 32
    weight_decay: float = 0.0
    clip: float = 1.0
    dtype: Dtype = "auto"
    device: str = "auto"
    micro_batch_tokens: int = 16_384
    keep_mib: int = 2048

    def __post_init__(self) -> None:
        """Reject what no run can be made of.

        Raises:
            SetupError: names the setting and its value.
        """
        super().__post_init__()
        self.at_least_one("max_length", "batch_size", "micro_batch_tokens")
        self.demand(
            ("weight_decay", self.weight_decay >= 0, ">= 0"),
            ("clip", self.clip > 0, "> 0"),
            ("keep_mib", self.keep_mib >= 0, ">= 0"),
        )
