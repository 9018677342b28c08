"""How answers are scored and what the scores are worth, as a task file says it."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from policies.params import Count, Real
from selfreg_sdk.errors import ConfigError
from selfreg_sdk.tuner.examples.texts import beside, read_text
from selfreg_sdk.tuner.scoring.code_rule import Code
from selfreg_sdk.tuner.scoring.json_rule import JsonSchema
from selfreg_sdk.tuner.scoring.metrics import Metric, MetricName, Mode, metric
from selfreg_sdk.tuner.scoring.reading import Percent
from selfreg_sdk.tuner.scoring.rule import Rule
from selfreg_sdk.tuner.scoring.sandbox import Limits, Sandbox
from selfreg_sdk.tuner.scoring.text_rules import Exact, Numeric, Regex
from selfreg_sdk.tuner.task.strict import Strict

_REFERENCE = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$"


def _reference(value: str) -> str:
    if re.fullmatch(_REFERENCE, value) is None:
        raise ConfigError(f"{value[:80]!r} names no function; write it as 'module:function', like 'scores:length'")
    return value


Text = Annotated[str, Field(min_length=1)]
Reference = Annotated[
    str,
    AfterValidator(_reference),
    Field(description="A Python function, as 'module:function'.", json_schema_extra={"pattern": _REFERENCE}),
]


class ExactScorer(Strict):
    """1 where the answer is the expected text, or one of a list of these; else 0."""

    kind: Literal["exact"]
    ignore_case: bool = Field(False, description="Capitals do not matter.")
    ignore_white_space: bool = Field(
        True, description="White space around the text, and how much of it, do not matter."
    )
    ignore_punctuation: bool = Field(False, description="Punctuation does not matter.")
    ignore_markdown: bool = Field(False, description="Headings, bullets, emphasis and fences do not matter.")


class NumericScorer(Strict):
    """1 where the number that the answer ends on is the expected one; else 0."""

    kind: Literal["numeric"]
    tolerance: Real = Field(0.0, ge=0, description="Most absolute difference that still counts as equal.")
    relative: Real = Field(1e-9, ge=0, lt=1, description="The same as a share of the expected number.")
    percent: Percent = Field("number", description="45% is the number 45 or the share 0.45.")


class RegexScorer(Strict):
    """With a group: 1 where its text is the expected one. Without: 1 where the pattern is found. The last place counts."""

    kind: Literal["regex"]
    pattern: Text = Field(description="Python regular expression, searched for anywhere in the answer.")
    group: Count | str | None = Field(None, description="Number or name of the group; default: the first, if any.")
    ignore_case: bool = Field(False, description="Capitals do not matter.")


class JsonSchemaScorer(Strict):
    """1 where the answer holds JSON that fits the schema; compared with the expected value, the share of it that is right."""

    kind: Literal["json_schema"]
    inline: dict[str, Any] | None = Field(None, alias="schema", description="The schema itself.")
    file: Text | None = Field(None, description="A JSON file that holds it.")
    compare: bool = Field(False, description="Compare the fields with those of the expected answer.")
    whole: bool = Field(False, description="Only an answer with all fields right, and no others, counts.")

    @model_validator(mode="after")
    def _one(self) -> JsonSchemaScorer:
        """One schema, from one place."""
        if (self.inline is None) == (self.file is None):
            raise ConfigError("a json_schema scorer takes one of 'schema' and 'file'; write one of them")
        return self


class CodeScorer(Strict):
    """The share of an example's tests that the code in the answer passes, run in a process of its own with limits."""

    kind: Literal["code"]
    tests: Text = Field("tests", description="Field of the examples with the tests: Python code, or a list of pieces.")
    before: Text | None = Field(None, description="Field with code that goes in front of the answer's.")
    after: str = Field("", description="Code that ends every test, like 'check({entry_point})', filled in from fields.")
    all_or_nothing: bool = Field(False, description="1 if all tests pass, else 0.")
    seconds: Real = Field(10.0, gt=0, le=600, description="Time for one answer.")
    memory_mb: Count = Field(512, ge=64, le=1 << 20, description="Memory for one answer, in MiB.")


class JudgeScorer(Strict):
    """A grade in [0, 1] by a model, whose calls count under the same budget."""

    kind: Literal["judge"]
    rubric: Text = Field(description="What a good answer is.")
    model: Text | None = Field(None, description="The judging model; default: the first of the task's.")
    scale: dict[Text, Annotated[Real, Field(ge=0, le=1)]] | None = Field(
        None, min_length=2, description="Verdicts and their scores; default: wrong (0) to right (1), in five steps."
    )
    show: tuple[Text, ...] | None = Field(None, description="Fields of the example that the judge sees; default: all.")
    max_tokens: Count = Field(256, ge=1, description="Cap on the judge's reply.")


class PythonScorer(Strict):
    """A function of answer and example, sync or async, that returns the score; its module is looked for beside the task file."""

    kind: Literal["python"]
    function: Reference
    seconds: Real = Field(30.0, gt=0, description="Time for one answer.")


ScorerSpec = ExactScorer | NumericScorer | RegexScorer | JsonSchemaScorer | CodeScorer | JudgeScorer | PythonScorer


def _in_full(value: object) -> object:
    """A kind alone stands for its defaults, 'module:function' for the function."""
    if not isinstance(value, str):
        return value
    return {"kind": "python", "function": value} if ":" in value else {"kind": value}


Scored = Annotated[
    Annotated[ScorerSpec, Field(discriminator="kind")],
    BeforeValidator(_in_full, json_schema_input_type=Literal["exact", "numeric"] | Reference | ScorerSpec),
]


class MetricSpec(Strict):
    """What n samples of an example are worth, and with it how samples become one answer."""

    name: MetricName = Field(
        description="first, mean: one answer; success, expected_success: any right answer of n; vote: the most frequent "
        "answer; best: the one with the best score."
    )
    scorer: Scored = Field(ExactScorer(kind="exact"), description="How one answer is scored.")
    mode: Mode = Field("max", description="min where scores are losses.")
    threshold: Real = Field(0.5, description="From which score on an answer is a success.")
    vote_key: Reference | None = Field(None, description="Function from an answer to its ballot in a vote.")
    range: tuple[Real, Real] | None = Field(
        None, description="Lowest and highest score of a scorer of your own; default: 0 and 1."
    )

    @model_validator(mode="after")
    def _fits(self) -> MetricSpec:
        """Refuse what does not fit together."""
        if self.range is not None and not self.range[0] < self.range[1]:
            raise ConfigError(
                f"range={list(self.range)!r}: write the lowest score first, then the highest, like [0, 10]"
            )
        if self.vote_key is not None and self.name != "vote":
            raise ConfigError(f"vote_key is for the metric 'vote', not for {self.name!r}; leave it out")
        self.metric()
        return self

    def metric(self) -> Metric:
        """The metric itself."""
        return metric(self.name, mode=self.mode, threshold=self.threshold)


def rule_of(scorer: ScorerSpec, *, answer: str, folder: Path) -> Rule | None:
    """The scorer itself; None for those that take calls (judge) or code of the user's (python).

    Args:
        answer: field of the examples with the expected answer.
        folder: where names of files start from.

    Raises:
        ConfigError: a pattern or a schema is wrong.
    """
    match scorer:
        case ExactScorer():
            return Exact(expected=answer, **_options(scorer))
        case NumericScorer():
            return Numeric(expected=answer, **_options(scorer))
        case RegexScorer():
            return Regex(expected=answer, **_options(scorer))
        case JsonSchemaScorer():
            schema = scorer.inline if scorer.file is None else json_file(beside(folder, scorer.file))
            return JsonSchema(schema=schema, expected=answer if scorer.compare else None, whole=scorer.whole)
        case CodeScorer():
            limits = Limits(wall=scorer.seconds, cpu=math.ceil(scorer.seconds), memory=scorer.memory_mb << 20)
            rest = _options(scorer, "seconds", "memory_mb")
            return Code(**rest, sandbox=Sandbox(limits=limits))
    return None


def _options(scorer: ScorerSpec, *without: str) -> dict[str, Any]:
    """The scorer's options, which bear the names of the rule's."""
    return {name: value for name, value in scorer if name not in ("kind", *without)}


def json_file(file: Path) -> Any:
    """The JSON schema in a file.

    Raises:
        ConfigError: it cannot be read, or is not JSON.
    """
    text = read_text(file, "schema")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"schema {str(file)!r} is not JSON: {error}") from None


def _named(value: object) -> object:
    """The name of a metric alone stands for its defaults."""
    return {"name": value} if isinstance(value, str) else value


MetricField = Annotated[MetricSpec, BeforeValidator(_named, json_schema_input_type=MetricName | MetricSpec)]
