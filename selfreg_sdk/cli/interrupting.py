"""Long work on an event loop that shows how far it is, and that Ctrl-C ends without losing anything."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from selfreg_sdk.cli.output import err
from selfreg_sdk.cli.watch import CHECKING, Show, watching

if TYPE_CHECKING:
    from selfreg_sdk.tuner.study.results import Progress

T = TypeVar("T")

INTERRUPTED = 130
"""Exit code of a command that Ctrl-C ended."""


def run_watched(work: Callable[[Show], Coroutine[Any, Any, T]], *, quiet: bool, checking: str = CHECKING) -> T:
    """Run it to its end.

    The first Ctrl-C lets the calls in flight end, as they are paid for anyway; the second does not.

    Args:
        work: is given what to tell its progress to, which it does when no call is in flight.
        quiet: show no progress.
        checking: what it is doing when it measures.

    Raises:
        typer.Exit: after Ctrl-C, with the usual code and a word on how to go on.
    """
    try:
        with watching(quiet=quiet, checking=checking) as show:
            return asyncio.run(_until_stopped(work, show))
    except KeyboardInterrupt:
        _say("interrupted: everything paid for is kept, and the same command goes on from here")
        raise typer.Exit(INTERRUPTED) from None


class _Stopped(Exception):
    """Leaves the work from within."""


async def _until_stopped(work: Callable[[Show], Coroutine[Any, Any, T]], show: Show) -> T:
    asked = 0

    def told(progress: Progress) -> None:
        show(progress)
        if asked and progress.phase != "done":
            raise _Stopped

    def ask() -> None:
        nonlocal asked
        asked += 1
        if asked == 1:
            _say("stopping when the calls in flight have ended; Ctrl-C again does not wait for them")
        else:
            task.cancel()

    task = asyncio.ensure_future(work(told))
    with _on_interrupt(ask):
        try:
            return await task
        except (_Stopped, asyncio.CancelledError):
            if asked:
                raise KeyboardInterrupt from None
            raise


@contextmanager
def _on_interrupt(ask: Callable[[], None]) -> Iterator[None]:
    """Call ``ask`` at Ctrl-C; where signals cannot be handled on a loop, asyncio cancels the work as ever.

    A shell may have started the command with Ctrl-C ignored; then it stays ignored.
    """
    loop = asyncio.get_running_loop()
    handled = False
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        with suppress(NotImplementedError, ValueError, RuntimeError):
            loop.add_signal_handler(signal.SIGINT, ask)
            handled = True
    try:
        yield
    finally:
        if handled:
            loop.remove_signal_handler(signal.SIGINT)


def _say(text: str) -> None:
    err.print(text, markup=False, highlight=False, soft_wrap=True)
