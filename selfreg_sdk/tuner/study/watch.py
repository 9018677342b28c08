"""Tells how far a tuning is."""

from __future__ import annotations

import time
from collections.abc import Callable
from decimal import Decimal

from selfreg_sdk.tuner.measuring.measured import Measured
from selfreg_sdk.tuner.study.results import Progress, Tuned
from selfreg_sdk.tuner.study.searched import SoFar

_EVERY = 2.0
"""Seconds between two looks at the best configuration so far: each takes a fit."""


class Watch:
    """Passes on what methods tell.

    Args:
        total: USD.
        on_progress: of the user.
    """

    def __init__(self, total: Decimal, on_progress: Callable[[Progress], None] | None) -> None:
        self._total, self._on_progress = total, on_progress
        self._began = time.monotonic()
        self._looked = self._began
        self._last = SoFar(spent=Decimal(0), requests=0, samples=0, configurations=0, best=None)
        self._checked: SoFar | None = None

    @property
    def curious(self) -> bool:
        """Whether it is time to tell the best configuration so far."""
        return self._on_progress is not None and time.monotonic() - self._looked >= _EVERY

    def __call__(self, so_far: SoFar) -> None:
        """Tell how far the search is; the best that was told before stands until another is."""
        if so_far.best is None:
            so_far = SoFar(**{**vars(so_far), "best": self._last.best})
        else:
            self._looked = time.monotonic()
        self._last = so_far
        self._tell(Progress(**vars(so_far), phase="search", total=self._total, seconds=self._seconds))

    def checking(self, measured: tuple[Measured, ...]) -> None:
        """Tell how far the check on held-out examples is."""
        last = self._last
        samples = sum(len(outcome.scores) for each in measured for outcome in each.outcomes)
        more = SoFar(
            spent=last.spent + sum((each.spent for each in measured), Decimal(0)),
            requests=last.requests + sum(each.examples for each in measured),
            samples=last.samples + samples,
            configurations=last.configurations,
            best=last.best,
        )
        self._checked = more
        self._tell(Progress(**vars(more), phase="check", total=self._total, seconds=self._seconds))

    def done(self, tuned: Tuned) -> None:
        """Tell the end."""
        last = self._checked or self._last
        end = {**vars(last), "spent": tuned.spent, "configurations": tuned.configurations, "best": tuned.winner}
        self._tell(Progress(**end, phase="done", total=self._total, seconds=self._seconds))

    @property
    def _seconds(self) -> float:
        return time.monotonic() - self._began

    def _tell(self, progress: Progress) -> None:
        if self._on_progress is not None:
            self._on_progress(progress)
