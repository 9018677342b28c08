"""The decoding parameters of one request, and how several opinions about them merge."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
Verbosity = Literal["low", "medium", "high"]
Why = Literal["caller", "capability", "conflict", "bound", "budget"]

EFFORTS: tuple[str, ...] = get_args(Effort)
"""Reasoning efforts from least to most."""
VERBOSITIES: tuple[str, ...] = get_args(Verbosity)
"""Verbosities from least to most."""


def _stop_as_tuple(value: Any) -> Any:
    """OpenAI takes one string or a list; one shape inside keeps equality and hashing simple."""
    return (value,) if isinstance(value, str) else value


def _no_bool(value: Any) -> Any:
    """``True`` is an int to Python, never a temperature or a count."""
    if isinstance(value, bool):
        raise ValueError("a number is needed, not a bool")
    return value


Real = Annotated[float, BeforeValidator(_no_bool)]
Count = Annotated[int, BeforeValidator(_no_bool)]


class DecodingParams(BaseModel):
    """Decoding settings; ``None`` means not set, so the provider's default applies.

    Ranges are the widest any known API takes; what a given model accepts is in `policies.capabilities`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    temperature: Real | None = Field(None, ge=0, le=2)
    top_p: Real | None = Field(None, gt=0, le=1)
    top_k: Count | None = Field(None, ge=1)
    min_p: Real | None = Field(None, ge=0, le=1)
    max_tokens: Count | None = Field(None, ge=1)
    n: Count | None = Field(None, ge=1)
    stop: Annotated[tuple[str, ...] | None, BeforeValidator(_stop_as_tuple)] = None
    seed: Count | None = None
    presence_penalty: Real | None = Field(None, ge=-2, le=2)
    frequency_penalty: Real | None = Field(None, ge=-2, le=2)
    repetition_penalty: Real | None = Field(None, gt=0)
    reasoning_effort: Effort | None = None
    verbosity: Verbosity | None = None

    def set_fields(self) -> dict[str, Any]:
        """The fields that are set, in declaration order."""
        return {name: value for name, value in self.__dict__.items() if value is not None}

    def as_dict(self) -> dict[str, Any]:
        """The fields that are set, JSON-ready."""
        values = self.set_fields()
        if "stop" in values:
            values["stop"] = list(values["stop"])
        return values

    def replace(self, **changes: Any) -> DecodingParams:
        """A validated copy with ``changes``; ``None`` unsets a field."""
        return parse_params(self.set_fields() | changes)


FIELDS: tuple[str, ...] = tuple(DecodingParams.model_fields)
"""Every field name, in declaration order."""

SAMPLING_FIELDS: tuple[str, ...] = ("temperature", "top_p", "top_k", "min_p")
"""The fields that shape the distribution a token is drawn from."""


_NOTHING = DecodingParams()


def parse_params(values: Mapping[str, Any]) -> DecodingParams:
    """Build `DecodingParams` from untrusted values.

    Raises:
        ValueError: one line naming the field, the value and what is allowed.
    """
    if not values:
        return _NOTHING
    try:
        return DecodingParams(**{str(name): value for name, value in values.items()})
    except ValidationError as exc:
        raise ValueError(_one_line(exc)) from None


def _one_line(exc: ValidationError) -> str:
    problems = []
    for error in exc.errors(include_url=False):
        name = str(error["loc"][0]) if error["loc"] else "params"
        if error["type"] == "extra_forbidden":
            problems.append(f"{name!r} is not a decoding parameter; known ones: {', '.join(FIELDS)}")
        else:
            problems.append(f"{name}={reprlib.repr(error['input'])}: {error['msg']}")
    return "; ".join(dict.fromkeys(problems))


def merge(*layers: DecodingParams) -> DecodingParams:
    """Merge opinions, the first that sets a field wins: ``merge(caller, policy, default)``."""
    merged: dict[str, Any] = {}
    only = _NOTHING
    for layer in layers:
        if layer is _NOTHING or not (fields := layer.set_fields()):
            continue
        only = _NOTHING if merged else layer
        for name, value in fields.items():
            merged.setdefault(name, value)
    # Most calls have one opinion at most, and parameters are immutable.
    return DecodingParams.model_construct(**merged) if merged and only is _NOTHING else only


class Interval(BaseModel):
    """A closed interval of allowed numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    low: float
    high: float

    def model_post_init(self, _context: Any) -> None:
        """Refuse an empty interval.

        Raises:
            ValueError: if low > high.
        """
        if self.low > self.high:
            raise ValueError(f"interval is empty: low={self.low!r} > high={self.high!r}")

    def clamp(self, value: float) -> float:
        """The nearest allowed number; the type of an int is kept."""
        if value < self.low:
            return type(value)(self.low)
        return type(value)(self.high) if value > self.high else value

    def within(self, outer: Interval) -> Interval:
        """The part inside ``outer``; its nearest point if they do not meet."""
        return Interval(low=outer.clamp(self.low), high=outer.clamp(self.high))


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What a policy may choose; a caller's explicit values are not bound by it.

    Together with the money left, ``n`` and ``max_tokens`` are the cost ceiling: a policy may choose less, never more.

    Attributes:
        temperature, top_p: allowed numbers.
        n: largest number of samples in one request.
        max_tokens: largest answer, in tokens, per sample.
        efforts: allowed reasoning efforts; without "none", a policy cannot switch reasoning off.
    """

    temperature: Interval = Interval(low=0, high=2)
    top_p: Interval = Interval(low=0.01, high=1)
    n: int = 1
    max_tokens: int = 4096
    efforts: tuple[Effort, ...] = ("minimal", "low", "medium", "high")

    def __post_init__(self) -> None:
        for name in ("n", "max_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"bounds: {name}={getattr(self, name)!r} must be at least 1")
        for name in ("temperature", "top_p"):
            for end in (getattr(self, name).low, getattr(self, name).high):
                try:
                    parse_params({name: end})
                except ValueError as exc:
                    raise ValueError(f"bounds: {exc}") from None
        if unknown := [effort for effort in self.efforts if effort not in EFFORTS]:
            raise ValueError(f"bounds: efforts {unknown!r} unknown; choose from {EFFORTS}")

    def interval(self, name: str) -> Interval | None:
        """The allowed interval of a numeric field, or None if it is not bounded."""
        match name:
            case "temperature":
                return self.temperature
            case "top_p":
                return self.top_p
            case "n":
                return Interval(low=1, high=self.n)
            case "max_tokens":
                return Interval(low=1, high=self.max_tokens)
        return None


@dataclass(frozen=True, kw_only=True)
class Adjustment:
    """One difference between what was wanted and what is sent.

    Attributes:
        field: the decoding parameter.
        wanted: value before.
        sent: value after, None if the field is not sent.
        why: caller = an explicit argument won; capability = the model does not take it; conflict = the model does not
            take it together with another; bound = outside the policy's bounds; budget = would not fit the money.
        detail: one phrase for a person.
    """

    field: str
    wanted: Any
    sent: Any
    why: Why
    detail: str = ""

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {"field": self.field, "wanted": self.wanted, "sent": self.sent, "why": self.why, "detail": self.detail}
