"""Regulated models over the loopback provider, and a provider that plans."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from policies import PLAN_MARKER, Plan
from selfreg_sdk import ChatSelfReg, DecodingParams, PriceOverride, Prices, Retry, StaticPolicy
from tests.fake_provider import FakeProvider, echo

MODEL = "fake-model"
PLAN = Plan(family="creative", determinism="open", diversity="many", depth="none", length="line")
PLANNED_TEMPERATURE, PLANNED_TOP_P, PLANNED_MAX_TOKENS = 1.2, 0.95, 192
ONCE = Retry(attempts=1)

Payload = dict[str, Any]
Texts = str | list[str]


def priced(*models: str) -> Prices:
    """What the provider charges, whatever the model."""
    return Prices(dict.fromkeys(models, PriceOverride(input_usd_per_mtok="0.40", output_usd_per_mtok="1.60")))


PRICES = priced(MODEL)


def is_plan(payload: Payload) -> bool:
    return str(payload["messages"][0]["content"]).startswith(PLAN_MARKER)


def planning(answer: Callable[[Payload], Texts] = echo, plan: str = PLAN.to_json()) -> Callable[[Payload], Texts]:
    """A provider's reply: the plan to planning calls, the answer to others."""
    return lambda payload: plan if is_plan(payload) else answer(payload)


def plans(provider: FakeProvider) -> list[Payload]:
    return [payload for payload in provider.payloads if is_plan(payload)]


def answers(provider: FakeProvider) -> list[Payload]:
    return [payload for payload in provider.payloads if not is_plan(payload)]


def chat(provider: FakeProvider, **given: Any) -> ChatSelfReg:
    """A model on the provider, with a store of its own."""
    usual = {"model": MODEL, "base_url": provider.base_url, "store": ":memory:", "retry": ONCE}
    return ChatSelfReg(**(usual | given))


def wanting(**params: Any) -> dict[str, Any]:
    """Constructor arguments of a model whose policy wants ``params`` and nothing else."""
    return {"policy": StaticPolicy(params=DecodingParams(**params)), "planner": "off"}


def record(message: Any) -> dict[str, Any]:
    return message.response_metadata["selfreg"]
