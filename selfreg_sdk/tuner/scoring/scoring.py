"""From one answer to its score, whatever the scorer does: a fault of a scorer fails a trial, never the study.

A scorer is any function of answer and example, sync or async. Rules (`selfreg_sdk.tuner.scoring.rule`) keep
their own limits. Functions of users do not, so they are called with a time limit and what they return is checked: whatever
goes wrong is one typed error that names the example.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import math
import reprlib
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from selfreg_sdk.aggregate import ballot_of, plain
from selfreg_sdk.errors import BudgetExceeded, ConfigError, SelfregError
from selfreg_sdk.tuner.examples.examples import Example
from selfreg_sdk.tuner.scoring.rule import Rule

Scorer = Callable[[str, Example], float | Awaitable[float]]
Ballot = Callable[[str, Example], str | None]
Fault = Literal["raised", "value", "timeout"]

_THREADS = 16
"""Most calls of one scorer's sync function at a time."""

_MOST_STUCK = 8
"""Calls that never ended, from which on a function is not called again: each keeps a thread and a share of the processor."""

_GRACE = 1.0
"""Seconds for a cancelled scorer to end."""


class ScoringError(SelfregError):
    """An answer could not be scored; its trial fails.

    Attributes:
        scorer: name of the scorer.
        example_id: the example it was given.
        fault: it raised, its value is no finite number, or its time was up.
    """

    def __init__(self, message: str, *, scorer: str, example_id: str, fault: Fault = "raised") -> None:
        self.message, self.scorer, self.example_id, self.fault = message, scorer, example_id, fault
        super().__init__(f"scorer {scorer!r}, example {example_id!r}: {message}")

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuilt, (self.message, self.scorer, self.example_id, self.fault))


def _rebuilt(message: str, scorer: str, example_id: str, fault: Fault) -> ScoringError:
    return ScoringError(message, scorer=scorer, example_id=example_id, fault=fault)


@dataclass(frozen=True, kw_only=True)
class Mark:
    """One answer, scored.

    Attributes:
        score: finite.
        ballot: what a vote compares; None abstains.
    """

    score: float
    ballot: str | None


class Scoring:
    """How the answers of a task are scored; safe to share between tasks of an event loop, and between loops.

    Args:
        scorer: a rule, or any function of answer and example. A sync function runs in a thread, an async one on the loop.
        ballot: what a vote compares; None is the rule's, or the text without case and white space. Called on the loop.
        timeout: seconds for one call of a function of a user; None for no limit. Rules have limits of their own.
        name: for people and records; None is the rule's, or that of the function.
    """

    def __init__(
        self, scorer: Scorer, *, ballot: Ballot | None = None, timeout: float | None = 30.0, name: str | None = None
    ) -> None:
        if not callable(scorer):
            raise ConfigError(f"scorer {scorer!r} cannot be called; give a function of answer and example")
        if timeout is not None and not timeout > 0:
            raise ConfigError(f"scorer: timeout={timeout!r} must be more than 0 seconds, or None")
        self._scorer = scorer
        self._ballot = ballot or (scorer.ballot if isinstance(scorer, Rule) else _plain_ballot)
        self.timeout = timeout
        self.name = name or (scorer.name if isinstance(scorer, Rule) else _name_of(scorer))
        self._stuck = 0
        self._lock = threading.Lock()
        self._slots: weakref.WeakKeyDictionary[Any, asyncio.Semaphore] = weakref.WeakKeyDictionary()

    def check(self, examples: Iterable[Example]) -> None:
        """Whether all examples have what the scorer needs.

        Raises:
            ConfigError: naming the first that has not, and what is missing.
        """
        if isinstance(self._scorer, Rule):
            for example in examples:
                self._scorer.check(example)

    def worst_case(self, answer: str, example: Example) -> Decimal:
        """USD that scoring an answer can cost at most, as far as the scorer tells; 0 for a function of a user."""
        return (self._scorer.worst_case(answer, example) if isinstance(self._scorer, Rule) else None) or Decimal(0)

    async def score(self, answer: str, example: Example) -> Mark:
        """Score one answer.

        Raises:
            ScoringError: the scorer raised, ran out of time or returned no finite number.
            BudgetExceeded: a paid call of the scorer's own does not fit any more; that is no fault of the answer.
        """
        try:
            value, ballot = await self._called(answer, example)
        except (ScoringError, BudgetExceeded):
            raise
        except Exception as exc:
            raise self._error(example, f"raised {_said(exc)}") from exc
        if ballot is not None and not isinstance(ballot, str):
            raise self._error(example, f"its ballot is no text but {type(ballot).__name__}", "value")
        return Mark(score=self.checked(value, example), ballot=ballot)

    async def score_all(self, answers: Sequence[str], example: Example) -> list[Mark]:
        """Score the answers of one example at the same time, each distinct text once.

        Raises:
            ScoringError: as `score`, for the first that fails; the others are cancelled.
            BudgetExceeded: as `score`.
        """
        tasks = {answer: asyncio.ensure_future(self.score(answer, example)) for answer in dict.fromkeys(answers)}
        try:
            await asyncio.gather(*tasks.values())
        finally:
            for task in tasks.values():
                task.cancel()
            # A cancelled judge still closes its books.
            await asyncio.gather(*tasks.values(), return_exceptions=True)
        return [tasks[answer].result() for answer in answers]

    def checked(self, value: object, example: Example) -> float:
        """A score as a finite number: of numbers, booleans, and what libraries have instead of them.

        Raises:
            ScoringError: it is none.
        """
        numeric = not isinstance(value, str | bytes | bytearray) and getattr(value, "shape", ()) == ()
        try:
            score = float(value) if numeric else math.nan  # type: ignore[arg-type]  # float() says what it takes
        except Exception as exc:
            numeric, score = isinstance(exc, OverflowError), math.nan
        if not math.isfinite(score):
            what = "no finite number" if numeric else f"no number but {type(value).__name__}"
            raise self._error(example, f"returned {reprlib.repr(value)}, {what}; return a finite float", "value")
        return score

    async def _called(self, answer: str, example: Example) -> tuple[object, str | None]:
        scorer = self._scorer
        if isinstance(scorer, Rule):
            value: object = scorer(answer, example)
            return (await value if inspect.isawaitable(value) else value), self._voted(answer, example)
        began = time.monotonic()
        if inspect.iscoroutinefunction(scorer) or inspect.iscoroutinefunction(type(scorer).__call__):
            value = scorer(answer, example)
        else:
            async with self._slot():
                began = time.monotonic()
                value = await self._threaded(lambda: scorer(answer, example), example)
        if inspect.isawaitable(value):
            left = None if self.timeout is None else max(self.timeout - (time.monotonic() - began), 0.0)
            value = await self._awaited(value, left, example)
        return value, self._voted(answer, example)

    def _voted(self, answer: str, example: Example) -> str | None:
        return ballot_of(answer, lambda text: self._ballot(text, example))

    def _slot(self) -> asyncio.Semaphore:
        return self._slots.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(_THREADS))

    async def _threaded(self, work: Callable[[], object], example: Example) -> object:
        """Run a sync function in a thread; one that is late is left behind, for a thread cannot be stopped.

        Not in a pool: whoever is left behind must neither block the others nor the end of the process.
        """
        if self._stuck >= _MOST_STUCK:
            raise self._error(
                example, f"was not called: {self._stuck} earlier calls are still running; it does not end", "timeout"
            )
        call = _ThreadCall(work, asyncio.get_running_loop(), self._gone)
        threading.Thread(target=call.run, name=f"scorer {self.name}", daemon=True).start()
        try:
            await asyncio.wait({call.ended}, timeout=self.timeout)
        finally:
            left = call.leave()
            if left:
                self._gone(+1)
        if left:
            raise self._late(example, "it still runs in its thread, which nothing can stop")
        value, exc = await call.ended
        return self._outcome(value, exc, example)

    async def _awaited(self, awaitable: Awaitable[object], seconds: float | None, example: Example) -> object:
        """Wait for an async scorer; one that is late is cancelled."""
        task = asyncio.ensure_future(_kept(awaitable))
        try:
            await asyncio.wait({task}, timeout=seconds)
        finally:
            late = not task.done()
            if late:
                task.cancel()
                # Its end is waited for, or it would go on beside what comes next.
                await asyncio.wait({task}, timeout=_GRACE)
        if late:
            raise self._late(
                example, "it was cancelled" if task.done() else "it was cancelled, but goes on all the same"
            )
        if task.cancelled():
            raise self._error(example, "cancelled itself")
        value, exc = task.result()
        return self._outcome(value, exc, example)

    def _outcome(self, value: object, exc: BaseException | None, example: Example) -> object:
        if exc is None:
            return value
        if isinstance(exc, ScoringError | BudgetExceeded):
            raise exc
        raise self._error(example, f"raised {_said(exc)}") from exc

    def _gone(self, change: int) -> None:
        """Count the calls that were left behind and still run."""
        with self._lock:
            self._stuck += change

    def _late(self, example: Example, fate: str) -> ScoringError:
        return self._error(example, f"took more than {self.timeout} seconds; {fate}", "timeout")

    def _error(self, example: Example, message: str, fault: Fault = "raised") -> ScoringError:
        return ScoringError(message, scorer=self.name, example_id=example.id, fault=fault)


class _ThreadCall:
    """One call in a thread: its outcome, and whether somebody still waits for it."""

    def __init__(
        self, work: Callable[[], object], loop: asyncio.AbstractEventLoop, gone: Callable[[int], None]
    ) -> None:
        self._work, self._loop, self._gone = work, loop, gone
        self._context = contextvars.copy_context()  # budgets around the caller hold for the scorer's own calls
        self._state: Literal["running", "left", "done"] = "running"
        self._lock = threading.Lock()
        self.ended: asyncio.Future[tuple[object, BaseException | None]] = loop.create_future()

    def run(self) -> None:
        outcome: tuple[object, BaseException | None]
        try:
            outcome = self._context.run(self._work), None
        except BaseException as exc:  # a scorer that calls sys.exit fails its trial too
            outcome = None, exc
        with self._lock:
            left, self._state = self._state == "left", "done"
        if left:
            self._gone(-1)
            return
        with contextlib.suppress(RuntimeError):  # the loop was closed
            self._loop.call_soon_threadsafe(self._tell, outcome)

    def leave(self) -> bool:
        """Stop waiting; whether it was still running."""
        with self._lock:
            if self._state != "running":
                return False
            self._state = "left"
            return True

    def _tell(self, outcome: tuple[object, BaseException | None]) -> None:
        if not self.ended.done():
            self.ended.set_result(outcome)


async def _kept(awaitable: Awaitable[object]) -> tuple[object, BaseException | None]:
    """The outcome as a value: SystemExit of a task would end the whole loop."""
    try:
        return await awaitable, None
    except (Exception, SystemExit) as exc:
        return None, exc


def _name_of(scorer: object) -> str:
    function = getattr(scorer, "func", scorer)  # of a partial
    return str(getattr(function, "__qualname__", type(function).__name__))


def _plain_ballot(answer: str, example: Example) -> str:
    return plain(answer)


def _said(exc: BaseException) -> str:
    try:
        text = str(exc)
    except Exception:
        text = "an error that cannot be printed"
    return f"{type(exc).__name__}: {text}"[:300]
