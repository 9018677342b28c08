"""What lets a cheap answer pass: the filter between the two stages of a cascade.

A filter measures the samples of a request, a number called their level, and lets the answer pass from a level on. The same code
runs while a cascade is tuned and while it answers. It never fails a request: whatever goes wrong in it, the answer does not pass,
and the verdict says why.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError, model_validator

from policies.params import Count, Real
from selfreg_sdk.errors import ConfigError
from selfreg_sdk.tuner.examples.examples import Example
from selfreg_sdk.tuner.examples.functions import load_function
from selfreg_sdk.tuner.examples.texts import beside
from selfreg_sdk.tuner.scoring.json_rule import JsonSchema
from selfreg_sdk.tuner.scoring.reading import code_in
from selfreg_sdk.tuner.scoring.sandbox import Limits, Sandbox
from selfreg_sdk.tuner.scoring.scoring import Scoring, ScoringError
from selfreg_sdk.tuner.task.metric import Reference, Text, json_file
from selfreg_sdk.tuner.task.strict import Strict, explained
from selfreg_sdk.tuner.task.yaml_text import Document
from selfreg_sdk.wire.background import background_loop


def _levels(value: object) -> object:
    """One level or several; each once, the lowest first."""
    if isinstance(value, list | tuple):
        if not value:
            raise ConfigError("an empty list names no level; write a number, or leave at_least out")
        return tuple(sorted(set(value))) if all(type(level) in (int, float) for level in value) else tuple(value)
    return (value,)


Share = Annotated[Real, Field(gt=0, le=1)]
Shares = Annotated[
    tuple[Share, ...],
    BeforeValidator(_levels, json_schema_input_type=Share | Annotated[list[Share], Field(min_length=1)]),
]
Levels = Annotated[
    tuple[Real, ...],
    BeforeValidator(_levels, json_schema_input_type=Real | Annotated[list[Real], Field(min_length=1)]),
]


class AgreementFilter(Strict):
    """Passes where enough of the samples say the same as a vote compares them; one without text agrees with none."""

    kind: Literal["agreement"]
    at_least: Shares = Field((0.6, 0.8, 1.0), description="Share that must agree; of several, the best one is found.")


class RegexFilter(Strict):
    """Passes where a pattern is found in the answer."""

    kind: Literal["regex"]
    pattern: Text = Field(description="Python regular expression, searched for anywhere in the answer.")
    ignore_case: bool = Field(False, description="Capitals do not matter.")


class JsonFilter(Strict):
    """Passes where the answer holds JSON, bare, fenced or in prose, that fits a schema."""

    kind: Literal["json_schema"]
    inline: dict[str, Any] | None = Field(None, alias="schema", description="The schema itself; default: any JSON.")
    file: Text | None = Field(None, description="A JSON file that holds it.")

    @model_validator(mode="after")
    def _one(self) -> JsonFilter:
        """One schema, from one place."""
        if self.inline is not None and self.file is not None:
            raise ConfigError("a json_schema filter takes one of 'schema' and 'file'; write one of them")
        return self


class CodeFilter(Strict):
    """Passes where the Python code in the answer runs to its end, and through tests, in a process of its own with limits."""

    kind: Literal["code"]
    tests: tuple[Text, ...] = Field((), description="Python code that must run after it, the same for every answer.")
    seconds: Real = Field(10.0, gt=0, le=600, description="Time for one answer.")
    memory_mb: Count = Field(512, ge=64, le=1 << 20, description="Memory for one answer, in MiB.")


class PythonFilter(Strict):
    """A function, sync or async, whose truth or number is the level; its module is looked for beside the task file."""

    kind: Literal["python"]
    function: Reference
    of: Literal["answer", "answers"] = Field(
        "answer", description="It takes the chosen answer, or the list of all samples' answers."
    )
    at_least: Levels = Field((0.5,), description="What it must return; of several, the best one is found.")
    seconds: Real = Field(30.0, gt=0, description="Time for one call.")


FilterSpec = AgreementFilter | RegexFilter | JsonFilter | CodeFilter | PythonFilter


def _in_full(value: object) -> object:
    """A kind alone stands for its defaults, 'module:function' for the function."""
    if not isinstance(value, str):
        return value
    return {"kind": "python", "function": value} if ":" in value else {"kind": value}


FilterField = Annotated[
    Annotated[FilterSpec, Field(discriminator="kind")],
    BeforeValidator(
        _in_full, json_schema_input_type=Literal["agreement", "json_schema", "code"] | Reference | FilterSpec
    ),
]


@dataclass(frozen=True, kw_only=True)
class Answers:
    """The samples of one request.

    Attributes:
        texts: in order of arrival; None where a sample has no text.
        ballots: what a vote compares, one per text.
        chosen: index of the answer.
    """

    texts: tuple[str | None, ...]
    ballots: tuple[str | None, ...]
    chosen: int = 0


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a filter says.

    Attributes:
        passed: the answer is good enough.
        level: what was measured; None where that failed.
        problem: why it failed.
    """

    passed: bool
    level: float | None
    problem: str | None = None


class Filter:
    """A filter, ready to run; safe to share between threads, tasks and event loops.

    Args:
        spec: what was written.
        folder: where names of files and modules in it start from; None looks for modules on the Python path alone.

    Attributes:
        spec: the same without names of files: all that another machine needs, but the module of a function.
        reads_all: it looks at all samples, not at the chosen answer alone.
        cheap: it takes no process and no code of the user's.
        folder: where its function's module was looked for, too; None for other filters.
        graded: it measures in degrees, of which the task file may name several.

    Raises:
        ConfigError: a pattern, schema or test is wrong, or there is no such function.
    """

    def __init__(self, spec: FilterSpec, *, folder: Path | None = None) -> None:
        self.spec: FilterSpec = spec
        self.reads_all = spec.kind == "agreement" or (spec.kind == "python" and spec.of == "answers")
        self.cheap = spec.kind not in ("code", "python")
        self.graded = spec.kind in ("agreement", "python")
        self.folder = folder if spec.kind == "python" else None
        self._rule: Callable[[str], float] | None = None
        match spec:
            case RegexFilter():
                self._rule = _regex(spec)
            case JsonFilter():
                if spec.file is not None:
                    found = json_file(beside(folder or Path(), spec.file))
                    self.spec = spec = spec.model_copy(update={"inline": found, "file": None})
                self._rule = _json(spec)
            case CodeFilter():
                _check_tests(spec)
                limits = Limits(wall=spec.seconds, cpu=math.ceil(spec.seconds), memory=spec.memory_mb << 20)
                self._sandbox = Sandbox(limits=limits)
            case PythonFilter():
                function = load_function(spec.function, folder=folder, arguments=1)
                whole = spec.of == "answers"
                # The guard of users' scorers: a thread and a time limit, and what comes back is a finite number.
                self._guard = Scoring(
                    lambda answer, example: function(list(example.fields["answers"]) if whole else answer),
                    timeout=spec.seconds,
                    name=spec.function,
                )

    @property
    def levels(self) -> tuple[float, ...]:
        """The levels from which on an answer may pass, lowest first; all of them come from one measurement."""
        return self.spec.at_least if isinstance(self.spec, AgreementFilter | PythonFilter) else (1.0,)

    def at(self, level: float) -> Filter:
        """The same with this one level."""
        if not isinstance(self.spec, AgreementFilter | PythonFilter):
            return self
        made = object.__new__(type(self))
        made.__dict__.update(self.__dict__)
        made.spec = self.spec.model_copy(update={"at_least": (float(level),)})
        return made

    def written(self) -> dict[str, Any]:
        """The filter as JSON, which `parse_filter` reads."""
        return self.spec.model_dump(mode="json", by_alias=True, exclude_none=True)

    def passes(self, answers: Answers) -> Verdict:
        """Whether the answer passes; from several levels on, if it reaches the lowest."""
        if self.cheap:
            return self._judged(self._measured, answers)
        return background_loop().call(self.apasses(answers))

    async def apasses(self, answers: Answers) -> Verdict:
        """`passes` for asyncio. A function runs in a thread, or on the loop if it is asynchronous."""
        if self.cheap:
            return self._judged(self._measured, answers)
        try:
            level = await self._ameasured(answers)
        except ScoringError as error:
            return Verdict(passed=False, level=None, problem=error.message)
        except Exception as error:
            return Verdict(passed=False, level=None, problem=f"{type(error).__name__}: {error}"[:300])
        return self._judged(lambda _: level, answers)

    def _judged(self, measure: Callable[[Answers], float | None], answers: Answers) -> Verdict:
        try:
            level = measure(answers)
        except Exception as error:
            return Verdict(passed=False, level=None, problem=f"{type(error).__name__}: {error}"[:300])
        if level is None:
            return Verdict(passed=False, level=None, problem="there is no text")
        return Verdict(passed=reaches(level, self.levels[0]), level=level)

    def _measured(self, answers: Answers) -> float | None:
        if self.spec.kind == "agreement":
            return agreement(answers.ballots)
        text = answers.texts[answers.chosen]
        return None if text is None or self._rule is None else self._rule(text)

    async def _ameasured(self, answers: Answers) -> float | None:
        text = answers.texts[answers.chosen]
        if text is None:
            return None
        if isinstance(self.spec, CodeFilter):
            run = await self._sandbox.arun(code_in(text), self.spec.tests or ("pass",))
            return float(all(run.passed))
        samples = [sample for sample in answers.texts if sample is not None]
        return (await self._guard.score(text, Example(id="request", fields={"answers": samples}))).score


def agreement(ballots: Sequence[str | None]) -> float:
    """The share of samples, those without a ballot included, that have the most frequent ballot; 0 without any."""
    counts = Counter(ballot for ballot in ballots if ballot is not None)
    return max(counts.values(), default=0) / len(ballots) if ballots else 0.0


def reaches(level: float, at_least: float) -> bool:
    """Whether a level is reached; 3 of 5 reach .6 however either was computed."""
    return level >= at_least or math.isclose(level, at_least, rel_tol=1e-9, abs_tol=1e-12)


def parse_filter(written: Mapping[str, Any] | str) -> FilterSpec:
    """A filter as a task file or a stored configuration writes it.

    Raises:
        ConfigError: it is none; names what is wrong.
    """
    try:
        return _READER.validate_python(written)
    except ValidationError as error:
        raise explained(error, Document(value=written, origin="filter", folder=Path())) from None


def _regex(spec: RegexFilter) -> Callable[[str], float]:
    try:
        pattern = re.compile(spec.pattern, re.IGNORECASE if spec.ignore_case else 0)
    except (re.error, RecursionError, OverflowError) as error:
        raise ConfigError(f"filter 'regex': {spec.pattern[:80]!r} is not a regular expression: {error}") from None
    return lambda text: float(pattern.search(text) is not None)


def _json(spec: JsonFilter) -> Callable[[str], float]:
    rule, nothing = JsonSchema(schema=spec.inline), Example(id="request", fields={})
    return lambda text: rule(text, nothing)


def _check_tests(spec: CodeFilter) -> None:
    for test in spec.tests:
        try:
            compile(test, "<tests>", "exec", dont_inherit=True)
        except (SyntaxError, ValueError) as error:
            raise ConfigError(f"filter 'code': {test[:80]!r} is not Python: {error}") from None


_READER: TypeAdapter[FilterSpec] = TypeAdapter(FilterField)
