"""From the words of a plan to numbers: the prior table.

A table and not a formula, because it is meant to be replaced row by row by measured configurations. The prior follows
what the sweeps in the literature and our own agree on: one exact answer wants temperature 0; a vote wants some spread;
"any of n" and "best of n" want samples that differ, the more the better the model's form is (arXiv 2303.04673 finds n and
temperature to interact; notes on recorded answers: any-of-10 is .58 at T=0 and .89 at T=.5).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from policies.params import DecodingParams, Effort, Verbosity
from policies.plan import Plan
from policies.task import Aggregation

TEMPERATURE: Mapping[tuple[str, str], float] = {
    # (determinism, diversity) -> temperature
    ("exact", "one"): 0.0,
    ("exact", "few"): 0.5,
    ("exact", "many"): 0.9,
    ("steady", "one"): 0.3,
    ("steady", "few"): 0.7,
    ("steady", "many"): 1.0,
    ("open", "one"): 0.8,
    ("open", "few"): 1.0,
    ("open", "many"): 1.2,
}

TOP_P_ABOVE_ONE = 0.95
"""A warm distribution needs its tail cut: above temperature 1 the noise grows faster than the choice."""

EFFORT: Mapping[str, Effort] = {"none": "low", "short": "medium", "long": "high"}
"""Depth to reasoning effort; depth "none" asks for the least effort but never switches reasoning off."""

VERBOSITY: Mapping[str, Verbosity] = {"word": "low", "line": "low", "paragraph": "medium", "page": "high"}

ANSWER_TOKENS: Mapping[str, int] = {"word": 64, "line": 192, "paragraph": 512, "page": 2048}
"""Length to a cap on the visible answer, generous: a cap is there to stop runaways, not to cut answers."""

DEPTH_FACTOR: Mapping[str, int] = {"none": 1, "short": 2, "long": 4}
"""Worked steps stand in the answer too, so depth widens the cap."""


def numbers(plan: Plan, aggregation: Aggregation) -> DecodingParams:
    """Every number a plan implies, for a model that takes them all; `policies.compile` keeps what the model takes."""
    wanted: dict[str, Any] = {
        "temperature": _temperature(plan, aggregation),
        "reasoning_effort": EFFORT[plan.depth],
        "verbosity": VERBOSITY[plan.length],
        "max_tokens": ANSWER_TOKENS[plan.length] * DEPTH_FACTOR[plan.depth],
        "n": aggregation.n,
    }
    if wanted["temperature"] > 1:
        wanted["top_p"] = TOP_P_ABOVE_ONE
    return DecodingParams(**wanted)


def _temperature(plan: Plan, aggregation: Aggregation) -> float:
    """The table's temperature, but never 0 where identical samples would make the other n - 1 worthless."""
    value = TEMPERATURE[plan.determinism, plan.diversity]
    return max(value, TEMPERATURE["exact", "few"]) if aggregation.n > 1 else value
