"""Progress of a tuning: a bar for people at a terminal, a line now and then for logs, nothing for programs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from selfreg_sdk.cli.figures import config_text, score_text, seconds_text, usd_text
from selfreg_sdk.cli.output import err

if TYPE_CHECKING:
    from selfreg_sdk.tuner.tune import Progress

Show = Callable[["Progress"], None]

_EVERY = 10.0
"""Seconds between two lines of a log."""

CHECKING = "checking on held-out examples"


@contextmanager
def watching(*, quiet: bool = False, checking: str = CHECKING, console: Console | None = None) -> Iterator[Show]:
    """A function to tell progress to, shown on stderr.

    Args:
        quiet: show nothing.
        checking: what the work is doing in the phase "check".
        console: shown here instead.
    """
    screen = console or err
    phases = {"search": "searching", "check": checking, "done": "done"}
    if quiet:
        yield lambda _: None
    elif screen.is_terminal:
        with Live(console=screen, refresh_per_second=4, transient=True) as live:
            yield lambda progress: live.update(panel(progress, phases[progress.phase]))
    else:
        yield _logging(screen, phases)


def _logging(screen: Console, phases: Mapping[str, str]) -> Show:
    last: tuple[str, float] = ("", 0.0)

    def show(progress: Progress) -> None:
        nonlocal last
        now = time.monotonic()
        if progress.phase != last[0] or now - last[1] >= _EVERY:
            last = (progress.phase, now)
            screen.print(line(progress, phases[progress.phase]), markup=False, highlight=False, soft_wrap=True)

    return show


def line(progress: Progress, doing: str) -> str:
    """All of it in one line."""
    best = best_text(progress)
    return " · ".join([doing, *counts(progress), *([best] if best else [])])


def panel(progress: Progress, doing: str) -> Group:
    """A bar of the money, what it bought, and the best so far."""
    bar = Table.grid(padding=(0, 1))
    bar.add_row(doing, ProgressBar(total=float(progress.total), completed=float(progress.spent), width=30))
    best = best_text(progress)
    return Group(bar, Text(" · ".join(counts(progress))), *([Text(best)] if best else []))


def counts(progress: Progress) -> list[str]:
    """Money, requests, configurations, time."""
    scored = [f"{progress.configurations} configurations scored"] if progress.configurations else []
    return [
        f"{usd_text(progress.spent)} of {usd_text(progress.total)} USD",
        f"{progress.requests} requests",
        *scored,
        f"{seconds_text(progress.seconds)}",
    ]


def best_text(progress: Progress) -> str | None:
    """The best configuration so far, what it scores and costs."""
    best = progress.best
    if best is None:
        return None
    score = score_text(best.score, best.low, best.high)
    return f"best so far {score} at {usd_text(best.cost)} USD: {config_text(best.config)}"
