"""A run's folder: the heads as a checkpoint, and within it what the run needs to go on. And the way a run is stopped."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.optim import Optimizer

from local_backend.checkpoint.identity import BaseIdentity
from local_backend.checkpoint.load import load_heads
from local_backend.checkpoint.save import WEIGHTS, save_heads
from local_backend.config import SetupError
from local_backend.heads import Heads
from local_backend.training.state import Best, TrainState

RUN = "training"
"""Folder within `out` for the state and the metrics."""


@dataclass(kw_only=True)
class RunFolder:
    """Where a run leaves its heads and its state.

    Attributes:
        out: a new folder, or one of an earlier run; it loads as a heads checkpoint from the first save on.
        base: the model.
        base_name: where it is found.
        recipe: everything that decides the weights; a run only goes on under the same, on the same base.
        heads: what is trained.
        optimiser: by what.
        best: the heads with the lowest held-out loss, of runs that keep them.
    """

    out: Path
    base: Any
    base_name: str
    recipe: Mapping[str, Any]
    heads: Heads
    optimiser: Optimizer
    best: Best | None = None

    @property
    def inner(self) -> Path:
        """For the state, the metrics, and whatever else tells of the run."""
        return self.out / RUN

    @property
    def _identity(self) -> dict[str, Any]:
        return {**self.recipe, "base": BaseIdentity.of(self.base).record()}

    def begin(self, *, resume: bool, overwrite: bool) -> int:
        """Restore an earlier run's heads and optimiser, where one is to go on, and return its step; else 0.

        Raises:
            SetupError: there is one, and it is neither to go on nor to be overwritten; or it was another run.
        """
        state = None if overwrite else TrainState.load(self.inner)
        if state is None:
            if not overwrite and self._others_heads(resume=resume):
                raise SetupError(f"{str(self.out)!r} holds heads already: overwrite them, or name another folder")
            return 0
        if not resume:
            raise SetupError(
                f"{str(self.out)!r} holds a run at step {state.step}: resume it, overwrite it, or name another folder"
            )
        self.best = state.best
        return state.restore(self._identity, self.heads, self.optimiser)

    def _others_heads(self, *, resume: bool) -> bool:
        """Whether `out` holds heads that no state belongs to; a run killed before its first state leaves untrained ones."""
        if not (self.out / WEIGHTS).exists():
            return False
        return not resume or load_heads(self.out)[1].recipe.get("steps_done") != 0

    def offer(self, step: int, loss: float) -> None:
        """Keep the heads as they are now, if their held-out loss is the lowest so far."""
        if self.best is None or loss < self.best.loss:
            copied = {name: tensor.clone() for name, tensor in self.heads.state_dict().items()}
            self.best = Best(step=step, loss=loss, heads=copied)

    def save(self, step: int, *, tokenizer: Any = None) -> None:
        """Write heads, then state, each whole or not at all; a kill between the two costs the steps since the last state."""
        recipe = {**self.recipe, "steps_done": step}
        save_heads(self.out, self.heads, base=self.base, base_name=self.base_name, recipe=recipe, tokenizer=tokenizer)
        self.inner.mkdir(exist_ok=True)
        TrainState(
            step=step,
            recipe=self._identity,
            heads=self.heads.state_dict(),
            optimiser=self.optimiser.state_dict(),
            best=self.best,
        ).save(self.inner)

    def end(self, step: int, *, write: bool) -> None:
        """Put the best heads in place of the last, where any are kept, and write them; the state stays that of the last."""
        if self.best is None:
            return
        self.heads.load_state_dict(self.best.heads)
        if write:
            recipe = {**self.recipe, "steps_done": step, "chosen_step": self.best.step}
            save_heads(self.out, self.heads, base=self.base, base_name=self.base_name, recipe=recipe)


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """An event that Ctrl-C or SIGTERM sets, so that a step is never torn; a second one is not waited with."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {int(number): signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, _: Any) -> None:
        asked.set()
        signal.signal(number, before[number])

    for number in before:
        signal.signal(number, ask)
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
