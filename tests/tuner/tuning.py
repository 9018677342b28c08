"""A small world to tune in: a provider whose answers depend on model and temperature, deterministic for each request."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

from selfreg_sdk.calls import Retry
from selfreg_sdk.prices import PriceOverride, Prices
from selfreg_sdk.tuner.study.results import Candidate, Tuned
from tests.fake_provider import FakeProvider, Payload

PRICE = PriceOverride(input_usd_per_mtok=Decimal("0.40"), output_usd_per_mtok=Decimal("1.60"))
"""What `FakeProvider` bills by default, whatever the model."""
PRICES = Prices({name: PRICE for name in ("small", "large", "judge")})
QUICK = Retry(attempts=3, first_wait=0.01, longest_wait=0.02)

TASK: dict[str, Any] = {
    "name": "sums",
    "examples": [
        {"question": f"{number} + {number * 7 % 10}", "answer": str(number + number * 7 % 10)} for number in range(30)
    ],
    "prompts": "What is {question}?",
    "models": ["small", "large"],
    "space": {"temperature": [0.0, 0.5, 1.0, 1.5], "n": [1, 2, 3], "max_tokens": 32},
    "metric": {"name": "vote", "scorer": "numeric"},
    "baseline": {"model": "small", "temperature": 1.5, "max_tokens": 32},
    "inference_budget": "0.0002 USD",
    "budget": "0.02 USD",
    "workers": 4,
}

LENGTH = {"small": 3, "large": 12}
"""Words of an answer: the large model talks, and so costs more."""


def chance(model: str, temperature: float) -> float:
    """That an answer is right: at .5 more often than anywhere else, and with the large model."""
    best = {"small": 0.55, "large": 0.85}[model]
    return best * math.exp(-(((temperature - 0.5) / 0.7) ** 2))


def answers(payload: Payload) -> list[str]:
    """The same request gets the same answers."""
    random = Random(hashlib.sha256(json.dumps(payload, sort_keys=True).encode()).hexdigest())
    first, second = payload["messages"][-1]["content"].removeprefix("What is ").removesuffix("?").split(" + ")
    right = int(first) + int(second)
    model, temperature = payload["model"], payload.get("temperature", 1.0)

    def answer() -> str:
        said = right if random.random() < chance(model, temperature) else right + random.randint(1, 30)
        return " ".join([*["so"] * LENGTH[model], str(said)])

    return [answer() for _ in range(payload.get("n") or 1)]


def found(tuned: Tuned) -> dict[str, Any]:
    """What was found, without what a clock says."""

    def timeless(candidate: Candidate | None) -> Candidate | None:
        return None if candidate is None else replace(candidate, seconds=None)

    return {
        "verdict": tuned.verdict,
        "reason": tuned.reason,
        "winner": timeless(tuned.winner),
        "frontier": [timeless(each) for each in tuned.frontier],
        "per_model": {model: timeless(each) for model, each in tuned.per_model.items()},
        "values": [None if each is None else each.values for each in (tuned.measured, tuned.baseline)],
        "ending": tuned.ending,
        "configurations": tuned.configurations,
        "trials": [(trial.point, trial.fate, trial.value) for trial in tuned.trials],
    }


def access(provider: FakeProvider, folder: Path) -> dict[str, Any]:
    """How `tune` reaches the world, and where it keeps the study."""
    return {
        "store": folder / "tune.db",
        "base_url": provider.base_url,
        "api_key": "sk-test",
        "prices": PRICES,
        "retry": QUICK,
    }


def world(**given: Any) -> FakeProvider:
    """A provider of this world; a context manager."""
    return FakeProvider(reply=answers, **given)


def task(**changes: Any) -> dict[str, Any]:
    """The task with these changes; None takes a key out."""
    return {name: value for name, value in (TASK | changes).items() if value is not None}
