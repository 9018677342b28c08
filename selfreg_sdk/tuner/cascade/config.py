"""A cascade as a configuration: two stages and the filter between them, as the store holds it and as it runs.

The stages may differ in everything but the prompt, which is the caller's and goes to both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from policies import Aggregation, DecodingParams, parse_params
from selfreg_sdk.errors import ConfigError
from selfreg_sdk.tuner.task.filters import Filter, parse_filter


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One of the two configurations.

    Attributes:
        model: that answers.
        params: how, the number of samples included.
        aggregation: how its samples become one answer.
    """

    model: str
    params: DecodingParams
    aggregation: Aggregation

    @classmethod
    def of(cls, config: Mapping[str, Any], aggregation: str) -> Stage:
        """The stage of a configuration with "model", and perhaps "prompt", among its parameters.

        Raises:
            ConfigError: something in it cannot be sent.
        """
        params = {name: value for name, value in config.items() if name not in ("model", "prompt")}
        return _stage({"model": config.get("model"), "params": params, "aggregation": aggregation})

    def written(self) -> dict[str, Any]:
        """As JSON."""
        params = self.params.model_dump(mode="json", exclude_none=True)
        return {"model": self.model, "params": params, "aggregation": str(self.aggregation)}

    @property
    def config(self) -> dict[str, Any]:
        """Model and parameters in one mapping, with "n"."""
        return {"model": self.model, **self.params.as_dict(), "n": self.aggregation.n}


@dataclass(frozen=True, kw_only=True)
class CascadeConfig:
    """Answers with ``first``; where ``gate`` does not let that pass, with ``second``."""

    first: Stage
    second: Stage
    gate: Filter

    @classmethod
    def read(cls, written: Any) -> CascadeConfig:
        """The opposite of `written`. A function that the filter names is imported.

        Raises:
            ConfigError: it is none, or the filter's function cannot be imported.
        """
        try:
            first, second = (_stage(one) for one in written["cascade"])
            spec, folder = parse_filter(written["filter"]), written.get("folder")
        except (TypeError, KeyError, ValueError) as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(
                f"{str(written)[:80]!r} is no cascade; write 'cascade' with two stages and 'filter'"
            ) from None
        return cls(first=first, second=second, gate=Filter(spec, folder=None if folder is None else Path(folder)))

    def written(self) -> dict[str, Any]:
        """As JSON: {"cascade": [first, second], "filter": ...}, and the "folder" of a function's module."""
        folder = {} if self.gate.folder is None else {"folder": str(self.gate.folder.resolve())}
        return {"cascade": [self.first.written(), self.second.written()], "filter": self.gate.written(), **folder}

    def __str__(self) -> str:
        level = f" {self.gate.levels[0]:g}" if len(self.gate.levels) == 1 and self.gate.graded else ""
        return f"{self.first.model}, unless {self.gate.spec.kind}{level}: {self.second.model}"


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What is expected of a cascade on new examples.

    Attributes:
        score: in the metric's unit: the best single configuration's and the gain.
        gain: over that one, on examples it was not chosen by; in the metric's unit, more is better.
        gain_error: its standard error.
        passes: share of requests that the first stage answers.
        cost: mean USD of a request; ``cost_error`` its standard error.
        keep: probability that the mean cost keeps the budget of a request, with `Caution.slack`.
        examples: that this rests on.
    """

    score: float
    gain: float
    gain_error: float
    passes: float
    cost: float
    cost_error: float
    keep: float
    examples: int


@dataclass(frozen=True, kw_only=True)
class CascadeCandidate:
    """A cascade worth a check: itself, the name of the prompt of both stages, and what is expected of it."""

    config: CascadeConfig
    prompt: str
    expected: Expected


def _stage(written: Mapping[str, Any]) -> Stage:
    model = written["model"]
    if not isinstance(model, str) or not model.strip():
        raise ConfigError(f"a stage of a cascade names the model {model!r}; give its id as the endpoint knows it")
    try:
        aggregation = Aggregation.parse(written["aggregation"])
        params = parse_params({**written["params"], "n": aggregation.n if aggregation.n > 1 else None})
    except ValueError as error:
        raise ConfigError(f"a stage of a cascade cannot be sent: {error}") from None
    return Stage(model=model, params=params, aggregation=aggregation)
