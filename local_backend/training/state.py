"""What a run needs to go on as if it had never stopped, written so that a kill at any moment leaves the old or the new state whole."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

from local_backend.config import SetupError
from local_backend.heads import Heads

FILE = "state.pt"


@dataclass(frozen=True, kw_only=True)
class Best:
    """The heads with the lowest held-out loss so far, and after which step that was."""

    step: int
    loss: float
    heads: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class TrainState:
    """A run after `step` steps: the place in the data and every random number follow from the step and the recipe."""

    step: int
    recipe: Mapping[str, Any]
    heads: Mapping[str, Any]
    optimiser: Mapping[str, Any]
    best: Best | None = None

    def save(self, folder: Path) -> None:
        """Write it in place of the folder's last one."""
        partial = folder / (FILE + ".partial")
        with partial.open("wb") as file:
            # The recipe as text: what is loaded back is compared with `==`, and JSON has one form of every number.
            best = None if self.best is None else vars(self.best)
            torch.save({**vars(self), "recipe": json.dumps(self.recipe), "best": best}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, folder / FILE)

    @classmethod
    def load(cls, folder: Path) -> TrainState | None:
        """The folder's state; None where there is none.

        Raises:
            SetupError: the file cannot be read.
        """
        path = folder / FILE
        if not path.exists():
            return None
        try:
            saved = torch.load(path, map_location="cpu", weights_only=True)
            best = None if saved["best"] is None else Best(**saved["best"])
            return cls(**{**saved, "recipe": json.loads(saved["recipe"]), "best": best})
        except Exception as error:  # Torn, foreign or of another version: torch has an error of its own for each.
            raise SetupError(f"{str(path)!r} is no training state ({error}): start anew with overwrite") from error

    def restore(self, recipe: Mapping[str, Any], heads: Heads, optimiser: Optimizer) -> int:
        """Put it into a run and return its step.

        Raises:
            SetupError: the run has another recipe.
        """
        asked = json.loads(json.dumps(recipe))
        changed = [name for name in {**self.recipe, **asked} if self.recipe.get(name) != asked.get(name)]
        if changed:
            told = ", ".join(f"{name} was {self.recipe.get(name)!r} and is {asked.get(name)!r}" for name in changed)
            raise SetupError(
                f"the run in progress was started differently ({told}): give the same settings, or overwrite it"
            )
        heads.load_state_dict(self.heads)
        optimiser.load_state_dict(dict(self.optimiser))
        return self.step
