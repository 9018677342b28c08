"""An agent of four steps on the embedded model behind its real server, with both middlewares.

It handles orders: who works on it (route), what is ordered (extract), a check sum (compute), a note for the customer (write).
Every step is an agent in a node of a graph, with a prompt of the kind that the embedded model was trained for.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict

from local_backend.tiny.families import FAMILIES
from selfreg_sdk import ChatSelfReg, PriceOverride, Prices
from selfreg_sdk.cli.local_server import LocalServer, local_server
from selfreg_sdk.middleware import BudgetMiddleware, SelfRegulationMiddleware
from selfreg_sdk.runtime import runtime

AGENTS = 16
STEPS = {"route": "reasoning", "extract": "extraction", "compute": "maths", "write": "creative"}
"""Step to the family of its prompts, whose checker judges its answers."""
PRICE = PriceOverride(input_usd_per_mtok=Decimal("0.10"), output_usd_per_mtok=Decimal("0.40"))


class Order(TypedDict, total=False):
    """An order on its way: what came in, then what each step found."""

    clerks: str
    text: str
    route: str
    extract: str
    compute: str
    write: str
    asked: dict[str, str]
    records: dict[str, Any]


def prompt(step: str, order: Order) -> str:
    """What a step asks."""
    if step == "route":
        return f"Join the last letters of {order['clerks']}."
    if step == "extract":
        return f"Make JSON: {order['text']}"
    if step == "compute":
        return f"Add {found(order, 'qty', 12)}, {found(order, 'eur', 34)} and {found(order, 'room', 56)}."
    return f"Write two sentences with {str(found(order, 'item', 'books')).removesuffix('s')} and letter."


def found(order: Order, name: str, otherwise: Any) -> Any:
    """What the extraction says; a small model may write what is no JSON."""
    try:
        return json.loads(order["extract"]).get(name, otherwise)
    except (ValueError, AttributeError):
        return otherwise


def handling(model: ChatSelfReg, budget: BudgetMiddleware[Any, Any]) -> Any:
    """The agent: four steps in a row, each with settings of its own, all under one budget."""
    graph = StateGraph(Order)
    for step in STEPS:
        graph.add_node(
            step, node(step, create_agent(model, middleware=[budget, SelfRegulationMiddleware()], name=step))
        )
    for here, there in zip([START, *STEPS], [*STEPS, END], strict=True):
        graph.add_edge(here, there)
    return graph.compile(checkpointer=InMemorySaver())


def node(step: str, agent: Any) -> Any:
    """One step: ask its agent, keep the answer and what was decided for it."""

    async def ask(order: Order) -> Order:
        text = prompt(step, order)
        done = await agent.ainvoke({"messages": [{"role": "user", "content": text}]})
        answer = done["messages"][-1]
        record = answer.response_metadata.get("selfreg")
        return Order(
            **{step: answer.text},
            asked={**order.get("asked", {}), step: text},
            records={**order.get("records", {}), step: record},
        )

    return ask


def orders(count: int) -> list[Order]:
    """Orders as customers write them; numbers and words stay inside what the model was trained for."""
    chance = random.Random(3)
    people = [
        "Al",
        "Bo",
        "Cy",
        "Di",
        "Ed",
        "Flo",
        "Gus",
        "Hal",
        "Ida",
        "Jo",
        "Kim",
        "Lea",
        "Max",
        "Ned",
        "Ola",
        "Pam",
        "Ray",
        "Sam",
        "Tom",
        "Una",
    ]
    items = ["apples", "books", "cups", "doors", "flags", "hats", "keys", "lamps", "maps", "nails", "plates", "rings"]
    made = []
    for _ in range(count):
        quantity, price, room = (chance.randint(1, 5) * 10 + chance.randint(1, 9) for _ in range(3))
        who, item = chance.choice(["Anna", "Ben", "Clara", "David", "Emma", "Felix"]), chance.choice(items)
        text = f"{who} orders {quantity} {item} at {price} euros, room {room}."
        made.append(Order(clerks=", ".join(chance.sample(people, 4)), text=text))
    return made


async def handle(graph: Any, all_orders: list[Order], name: str) -> list[Any]:
    """The orders, all at the same time, each in a thread of its own."""

    def config(index: int) -> dict[str, Any]:
        return {"configurable": {"thread_id": f"{name} {index}", "user_id": "shop"}}

    return await asyncio.gather(*(graph.ainvoke(order, config(index)) for index, order in enumerate(all_orders)))


@pytest.fixture(scope="module")
def server() -> Iterator[LocalServer]:
    with local_server("tiny") as running:
        yield running


@pytest.fixture
def model(server: LocalServer, tmp_path: Path) -> ChatSelfReg:
    return ChatSelfReg(
        model=server.model,
        base_url=server.base_url,
        server="selfreg",
        store=tmp_path / "agents.db",
        prices=Prices({server.model: PRICE}),
    )


async def test_each_step_has_its_own_settings_and_a_second_run_plans_nothing(
    model: ChatSelfReg, server: LocalServer, tmp_path: Path
) -> None:
    graph = handling(model, BudgetMiddleware(user="1 USD/day", store=tmp_path / "agents.db"))
    meter, before = runtime(tmp_path / "agents.db").meter, server.tokens()
    first, *_ = await handle(graph, orders(1), "first")
    records = first["records"]
    assert [records[step]["task"].split("|")[0] for step in STEPS] == [f"{step}/start" for step in STEPS]
    assert {record["source"] for record in records.values()} == {"plan"}
    assert len({record["config_version"] for record in records.values()}) == len(STEPS)
    assert {step: record["plan"]["family"] for step, record in records.items()} == STEPS
    assert records["write"]["sent"]["temperature"] > records["extract"]["sent"]["temperature"]
    assert meter.totals(purpose="plan").settled == len(STEPS)

    again = await handle(graph, orders(2), "again")
    assert {record["source"] for done in again for record in done["records"].values()} == {"cached plan"}
    assert meter.totals(purpose="plan").settled == len(STEPS)
    right = [
        FAMILIES[family].check(done["asked"][step], done[step])
        for done in (first, *again)
        for step, family in STEPS.items()
    ]
    assert sum(right) >= len(right) * 3 / 4
    assert meter.totals().tokens == server.tokens() - before


async def test_the_budget_holds_under_sixteen_agents(model: ChatSelfReg, server: LocalServer, tmp_path: Path) -> None:
    budget = BudgetMiddleware(user="0.0006 USD/day", run="0.01 USD", store=tmp_path / "agents.db")
    before = server.tokens()
    done = await handle(handling(model, budget), orders(AGENTS), "many")
    meter = runtime(tmp_path / "agents.db").meter
    (shop,) = [status for status in meter.status() if status.scope.startswith("user/shop@")]
    assert Decimal(0) < shop.spent + shop.held <= Decimal("0.0006")
    assert meter.totals().tokens == server.tokens() - before  # the server counts what it made, the ledger what it cost
    steps = [(state[step], state["records"][step]) for state in done for step in STEPS]
    stopped = [text for text, record in steps if record is None]
    assert 0 < len(stopped) < len(steps)
    assert all("budget 'user/shop" in text for text in stopped)
