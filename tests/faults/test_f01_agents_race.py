"""F1: agents side by side under one cap. The provider bills no more than it allows, and every agent ends properly."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import pytest
from langchain.agents.middleware import AgentMiddleware
from langchain.agents.middleware.types import hook_config
from langchain_core.messages import AIMessage

from selfreg_sdk.middleware import BudgetMiddleware, SelfRegulationMiddleware
from selfreg_sdk.prices import cost
from selfreg_sdk.runtime import runtime
from selfreg_sdk.usage import Usage
from tests.competent_server import CompetentServer
from tests.fake_provider import FakeProvider
from tests.middleware.agents import agent, on, open_calls, openai, said
from tests.sdk.regulated import MODEL, PRICES

AGENTS = 16
CAP = Decimal("0.004")
"""Pays for some of the agents' calls, not for all: a call is held at about 0.001 USD and costs about a tenth of it."""


class CheckThenCall(AgentMiddleware[Any, Any, Any]):
    """How a cap is usually kept: look at what was spent, make the call, add what it cost."""

    def __init__(self, cap: Decimal) -> None:
        super().__init__()
        self.cap = cap
        self.spent = Decimal(0)

    @hook_config(can_jump_to=["end"])
    def before_model(self, state: Any, runtime: Any) -> dict[str, Any] | None:
        if self.spent >= self.cap:
            return {"jump_to": "end", "messages": [AIMessage("The agent stopped: budget.")]}
        return None

    def after_model(self, state: Any, runtime: Any) -> None:
        used = state["messages"][-1].usage_metadata
        usage = Usage(prompt_tokens=used["input_tokens"], completion_tokens=used["output_tokens"])
        self.spent += cost(PRICES.lookup(MODEL), usage)


def many(graph: Any, asynchronous: bool) -> list[Any]:
    """The final states of all agents, run at the same time."""
    asked = said("search for '" + "cats " * 40 + "'")
    if not asynchronous:
        with ThreadPoolExecutor(AGENTS) as pool:
            return list(
                pool.map(lambda index: graph.invoke(asked, on(f"thread {index}", user_id="ann")), range(AGENTS))
            )

    async def whole() -> list[Any]:
        runs = [graph.ainvoke(asked, on(f"thread {index}", user_id="ann")) for index in range(AGENTS)]
        return await asyncio.gather(*runs)

    return asyncio.run(whole())


@pytest.mark.parametrize("asynchronous", [False, True])
def test_f01_sixteen_agents_stay_under_one_cap(asynchronous: bool) -> None:
    with CompetentServer(latency=0.02) as provider:
        budget = BudgetMiddleware(user=CAP, prices=PRICES)
        states = many(agent(openai(provider), budget, SelfRegulationMiddleware(prices=PRICES)), asynchronous)
        (counted,) = runtime().meter.status()
        assert Decimal(0) < provider.billed.usd <= counted.spent + counted.held <= CAP
        assert provider.problems == []
    stopped = [state for state in states if "budget 'user/ann'" in state["messages"][-1].text]
    assert 0 < len(stopped) < AGENTS + 1
    for state in states:
        assert isinstance(state["messages"][-1], AIMessage)
        assert open_calls(state["messages"]) == set()
        assert state in stopped or state["messages"][-1].text.startswith("You said: found cats")


def test_f01_the_test_catches_a_cap_that_is_only_looked_at() -> None:
    cap = CAP / 20
    with FakeProvider(latency=0.05) as provider:
        many(agent(openai(provider), CheckThenCall(cap), tools=()), asynchronous=True)
        assert provider.billed.usd > cap
