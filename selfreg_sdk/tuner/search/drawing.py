"""Samples of a configuration: how a search method asks for them, and how its wishes are carried out.

A method is a generator that yields steps and is sent their results, so it holds no I/O, and the same code runs
sequentially, on an event loop, or in a test without any provider.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Protocol, TypeVar

from selfreg_sdk.errors import BudgetExceeded, ConfigError, ProviderError
from selfreg_sdk.tuner.examples.examples import Example
from selfreg_sdk.tuner.search.dimensions import Point

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class DrawRequest:
    """A wish for samples of one configuration on one example.

    Attributes:
        config: the settings as they shall be sent, but n: that is ``count``.
        messages: the prompt, filled in.
        example: what it was filled in from.
        start: index of the first sample wanted. Samples of the same configuration and example are numbered from 0; two
            requests for different numbers get different draws, and a journal may serve the same number twice.
        count: samples wanted.
    """

    config: Point
    messages: Sequence[Mapping[str, str]]
    example: Example
    start: int
    count: int


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One sample of a model's answer.

    Attributes:
        tokens: its output tokens, if the provider tells them apart.
        cut: it ended at max_tokens.
        at: where a journal keeps it: (key of the configuration and example, number of the sample).
    """

    text: str
    tokens: int | None = None
    cut: bool = False
    at: tuple[str, int] | None = None


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """What came of a request.

    Attributes:
        samples: as many as were asked for.
        prompt_tokens: of the prompt, once.
        output_tokens: billed for all samples together.
        cost: USD, when it was first paid.
    """

    samples: tuple[Sample, ...]
    prompt_tokens: int
    output_tokens: int
    cost: Decimal


class OutOfOrder(Exception):
    """Whoever draws or values cannot go on at all: no fate of a trial, it ends the run with the error behind it."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class Draws(Protocol):
    """Gets samples. Raises ProviderError or BudgetExceeded when there are none, OutOfOrder when there will be none."""

    def draw(self, request: DrawRequest) -> Drawn:
        """The samples, drawn now or found in a journal."""
        ...


class AsyncDraws(Protocol):
    """`Draws` on an event loop."""

    async def draw(self, request: DrawRequest) -> Drawn:
        """The samples, drawn now or found in a journal."""
        ...


Value = Callable[[Example, Sequence[Sample]], float | Awaitable[float]]
"""What the samples of one example are worth."""


@dataclass(frozen=True, kw_only=True)
class DrawStep:
    """Draw all of these; they do not depend on one another.

    The result is a list in the same order of `Drawn`, `ProviderError` or `BudgetExceeded`. It may end early, after an error.
    """

    requests: tuple[DrawRequest, ...]


@dataclass(frozen=True, kw_only=True)
class ScoreStep:
    """Value all of these; the result is a list of numbers or of what was raised. It may end early, after an error."""

    answers: tuple[tuple[Example, tuple[Sample, ...]], ...]


Step = DrawStep | ScoreStep
Results = list[Any]


def drive(machine: Generator[Step, Results, T], draws: Draws, value: Value) -> T:
    """Carry out the steps one after another.

    Raises:
        ConfigError: ``value`` is asynchronous; use `adrive`.
        Exception: whatever ``draws`` raises but ProviderError and BudgetExceeded; what is behind an `OutOfOrder`.
    """

    def score(answer: tuple[Example, tuple[Sample, ...]]) -> float:
        result = value(*answer)
        if inspect.isawaitable(result):
            if inspect.iscoroutine(result):
                result.close()
            raise ConfigError("the scorer is asynchronous; tune with atune()")
        return result

    def collect(call: Callable[[Any], Any], items: Sequence[Any], caught: type[Exception] | tuple[Any, ...]) -> Results:
        done: Results = []
        for item in items:
            try:
                done.append(call(item))
            except OutOfOrder as end:
                raise end.error from None
            except ConfigError:
                raise
            except caught as error:
                done.append(error)
                break
        return done

    try:
        step = next(machine)
        while True:
            match step:
                case DrawStep():
                    results = collect(draws.draw, step.requests, _NO_SAMPLES)
                case ScoreStep():
                    results = collect(score, step.answers, Exception)
            step = machine.send(results)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]  # StopIteration is not generic
    finally:
        machine.close()


async def adrive(machine: Generator[Step, Results, T], draws: AsyncDraws, value: Value, *, parallel: int = 32) -> T:
    """Carry out each step's parts at the same time, at most ``parallel`` of them.

    The results are those of `drive` if the draws are. When one part fails in an unforeseen way, the others still end, so
    that what they paid for is recorded, before the error is raised.
    """
    slots = asyncio.Semaphore(parallel)

    async def draw(request: DrawRequest) -> Any:
        async with slots:
            return await draws.draw(request)

    async def score(answer: tuple[Example, tuple[Sample, ...]]) -> float:
        async with slots:
            result = value(*answer)
            return await result if inspect.isawaitable(result) else result

    async def collect(calls: Sequence[Awaitable[Any]], caught: type[Exception] | tuple[Any, ...]) -> Results:
        done = await asyncio.gather(*calls, return_exceptions=True)
        for result in done:
            if isinstance(result, OutOfOrder):
                raise result.error
            if isinstance(result, BaseException) and (
                isinstance(result, ConfigError) or not isinstance(result, caught)
            ):
                raise result
        return done

    try:
        step = next(machine)
        while True:
            match step:
                case DrawStep():
                    results = await collect([draw(request) for request in step.requests], _NO_SAMPLES)
                case ScoreStep():
                    results = await collect([score(answer) for answer in step.answers], Exception)
            step = machine.send(results)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]  # StopIteration is not generic
    finally:
        machine.close()


_NO_SAMPLES = (ProviderError, BudgetExceeded)
