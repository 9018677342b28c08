"""What a task file holds, key by key."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Discriminator, Field, JsonValue, Tag, field_validator, model_validator

from policies import Aggregation, DecodingParams
from policies.params import Count, Real
from policies.task import task_key
from selfreg_sdk.endpoint import parse_base_url
from selfreg_sdk.errors import ConfigError
from selfreg_sdk.money import usd
from selfreg_sdk.tuner.examples.files import Format
from selfreg_sdk.tuner.examples.prompts import Role
from selfreg_sdk.tuner.search.dimensions import Choice, Float, Int
from selfreg_sdk.tuner.task.cascade import CascadeField
from selfreg_sdk.tuner.task.metric import MetricField
from selfreg_sdk.tuner.task.space import SpaceSpec, TemperatureOrTopP
from selfreg_sdk.tuner.task.strict import Strict

Method = Literal["pool", "ecooptigen"]

_NAME: dict[str, JsonValue] = {"type": "string", "pattern": r"^[^|\n]*[^|\s][^|\n]*$"}
_MONEY: dict[str, JsonValue] = {
    "anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "examples": ["0.30 USD"]}]
}


def _amount(value: object) -> object:
    """An amount; a number in YAML keeps its decimals as written."""
    return usd(repr(value) if isinstance(value, float) else value)  # type: ignore[arg-type]  # usd refuses the rest


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


Name = Annotated[str, Field(min_length=1)]
Usd = Annotated[Decimal, BeforeValidator(_amount), Field(json_schema_extra=lambda schema: _replace(schema, _MONEY))]
Names = Annotated[
    tuple[Name, ...],
    Field(min_length=1),
    BeforeValidator(_listed, json_schema_input_type=Name | Annotated[list[Name], Field(min_length=1)]),
]


class ExampleFile(Strict):
    """Examples in a file beside the task file."""

    file: Name = Field(description="JSON lines (.jsonl, .ndjson) or CSV (.csv, .tsv) with a header.")
    format: Format | None = Field(None, description="Where the name does not tell it.")
    id: Name | None = Field(None, description="Field with the ids; default: 'id', else ids are made of the content.")
    delimiter: Name | None = Field(None, description="Between the cells of a CSV file; default: found out.")
    limit: Count | None = Field(None, ge=1, description="So many of them, drawn by the seed.")


class Message(Strict):
    """One message of a prompt, its text here or in a file."""

    role: Role
    content: Name | None = Field(None, description="Text; {field} is filled in, {{ and }} are braces.")
    file: Name | None = Field(None, description="A file with the text.")

    @model_validator(mode="after")
    def _one(self) -> Message:
        """One text, from one place."""
        if (self.content is None) == (self.file is None):
            raise ConfigError("a message takes one of 'content' and 'file'; write one of them")
        return self


class PromptFile(Strict):
    """A prompt of one user message, its text in a file."""

    file: Name


def _prompts(value: object) -> object:
    """Every way to write prompts as name → messages."""
    if isinstance(value, str | list | tuple) or (isinstance(value, Mapping) and value.keys() == {"file"}):
        return {"default": _messages(value)}
    if isinstance(value, Mapping):
        if "file" in value:
            raise ConfigError("'file' is no name for a prompt beside others; write 'a name: {file: prompt.txt}'")
        return {name: _messages(prompt) for name, prompt in value.items()}
    return value


def _messages(prompt: object) -> object:
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    if isinstance(prompt, Mapping):
        return [{"role": "user", **prompt}]
    return prompt


_OnePrompt = Name | PromptFile | Annotated[list[Message], Field(min_length=1)]
Messages = Annotated[tuple[Message, ...], Field(min_length=1)]
Prompts = Annotated[
    dict[Name, Messages],
    Field(min_length=1),
    BeforeValidator(
        _prompts, json_schema_input_type=_OnePrompt | Annotated[dict[Name, _OnePrompt], Field(min_length=1)]
    ),
]


def _kind_of_examples(value: object) -> str | None:
    if isinstance(value, str):
        return "name"
    if isinstance(value, Mapping | ExampleFile):
        return "in a file"
    return "inline" if isinstance(value, list | tuple) else None


Examples = Annotated[
    Annotated[Name, Tag("name")]
    | Annotated[ExampleFile, Tag("in a file")]
    | Annotated[tuple[dict[str, Any], ...], Tag("inline")],
    Discriminator(
        _kind_of_examples,
        custom_error_type="examples",
        custom_error_message="write the name of a file, 'file: ...' or a list of examples",
    ),
]


def _replace(schema: dict[str, JsonValue], by: dict[str, JsonValue]) -> None:
    kept = {name: schema[name] for name in ("description", "default") if name in schema}
    schema.clear()
    schema.update(by | kept)


def _one_stop(schema: dict[str, Any]) -> None:
    schema["properties"]["stop"]["anyOf"].append({"type": "string"})


class Baseline(Strict, DecodingParams, json_schema_extra=_one_stop):
    """The configuration in use today, which the winner has to beat on examples nobody searched on."""

    model: Name | None = Field(None, description="Default: the first of the task's models.")
    prompt: Name | None = Field(None, description="Default: the first of the task's prompts.")

    def params(self) -> DecodingParams:
        """Its decoding parameters alone."""
        return DecodingParams(**{name: getattr(self, name) for name in DecodingParams.model_fields})


class TaskSpec(Strict):
    """A task for the tuner."""

    name: str = Field(description="The task's name, under which ChatSelfReg finds the result.", json_schema_extra=_NAME)
    examples: Examples = Field(description="What configurations are tried on.")
    answer: Name = Field("answer", description="Field of the examples that holds the expected answer.")
    prompts: Prompts = Field(description="A text, a list of messages, 'file: ...', or several of these by name.")
    models: Names = Field(description="The models to choose from, as the provider spells them.")
    base_url: str | None = Field(None, description="OpenAI-compatible endpoint; default: as in the settings.")
    prices: Name | None = Field(None, description="YAML file with prices of your own.")
    space: SpaceSpec | None = Field(
        None,
        description="What is varied; default: temperature from 0 to 1.5 or top_p from 0.1 to 1, max_tokens from 64 to 1024, "
        "and n from 1 to 10 unless the metric takes one answer.",
    )
    metric: MetricField = Field(description="How answers are scored and what the scores are worth.")
    cascade: CascadeField | None = Field(None, description="Look for a cascade of two configurations, too.")
    baseline: Baseline = Field(Baseline(), description="The configuration that the winner has to beat.")
    inference_budget: Usd | None = Field(None, description="Most USD that a request may cost on average.")
    budget: Usd | None = Field(None, description="Most USD that the tuning may cost in all, never a cent over.")
    method: Method = Field("pool", description="pool shares samples between configurations; ecooptigen is the paper's.")
    seed: Count = Field(0, ge=0, lt=2**63, description="Same seed and same answers: same proposals.")
    holdout: Real = Field(0.3, ge=0, lt=1, description="Share of the examples that the winner is checked on.")
    test: Real = Field(0.0, ge=0, lt=1, description="Share of the examples that nothing is decided on.")
    workers: Count = Field(8, ge=1, le=1024, description="Calls in flight at once.")

    @field_validator("name")
    @classmethod
    def _key(cls, value: str) -> str:
        """Refuse names that no task key may have."""
        task_key(name=value, messages=(), model="", aggregation=Aggregation())
        return value

    @field_validator("models")
    @classmethod
    def _once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        """Refuse a model that is named twice."""
        if twice := [model for model in value if value.count(model) > 1]:
            raise ConfigError(f"{twice[0]!r} is named twice; name every model once")
        return value

    @field_validator("base_url")
    @classmethod
    def _url(cls, value: str | None) -> str | None:
        """Refuse what is no http(s) URL, and what may hold a key."""
        if value is not None:
            parse_base_url(value)
            parts = urlsplit(value)
            if parts.username is not None or parts.query:
                raise ConfigError(
                    "a user name, a password or a query does not belong into the base_url of a task file, which is shared "
                    "and stored; set SELFREG_BASE_URL in the environment instead"
                )
        return value

    @model_validator(mode="after")
    def _fits(self) -> TaskSpec:
        """Refuse what does not fit together."""
        for name, known in (("model", self.models), ("prompt", tuple(self.prompts))):
            chosen = getattr(self.baseline, name)
            if chosen is not None and chosen not in known:
                raise ConfigError(f"baseline: the {name} {chosen!r} is not one of {', '.join(known)}")
        if self.metric.metric().aggregation == "first":
            several = _most(self.varied.n)
            if max(several, self.baseline.n or 1) > 1:
                where = "space.n" if several > 1 else "baseline.n"
                raise ConfigError(
                    f"the metric {self.metric.name!r} takes one answer, but {where} allows more; leave n out, or take the "
                    f"metric vote, success, expected_success or best"
                )
        if self.cascade is not None and self.method != "pool":
            raise ConfigError(
                f"a cascade is looked for by the method 'pool' alone, not by {self.method!r}; leave one out"
            )
        if self.holdout + self.test >= 1:
            raise ConfigError(f"holdout={self.holdout!r} and test={self.test!r} leave nothing to search on; lower them")
        return self

    @property
    def varied(self) -> SpaceSpec:
        """The space, or what stands in for it where none is given."""
        if self.space is not None:
            return self.space
        one = self.metric.metric().aggregation == "first"
        return SpaceSpec(
            temperature_or_top_p=TemperatureOrTopP(temperature=Float(0.0, 1.5), top_p=Float(0.1, 1.0)),
            n=Choice((1,)) if one else Int(1, 10, log=True),
            max_tokens=Int(64, 1024, log=True),
        )

    @property
    def most_samples(self) -> int:
        """The largest number of samples that a configuration may take."""
        return int(_most(self.varied.n))


def _most(n: Choice | Float | Int) -> float:
    return max(n.values) if isinstance(n, Choice) else n.high
