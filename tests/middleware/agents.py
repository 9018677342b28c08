"""Real agents on the loopback provider: a model that calls tools, and the four ways to run a graph."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from langchain.agents import create_agent
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver

from selfreg_sdk import ChatSelfReg
from selfreg_sdk.middleware import BudgetMiddleware
from selfreg_sdk.runtime import runtime
from selfreg_sdk.store.ledger import LedgerEntry
from tests.fake_provider import FakeProvider
from tests.sdk.regulated import MODEL, PRICES, chat

TINY = "0.000001 USD"
"""Less than any call."""
AMPLE = "1 USD"


@tool
def search(query: str) -> str:
    """Search."""
    return f"found {query}"


@tool
def weather(place: str) -> str:
    """Tell the weather."""
    return f"rain in {place}"


def openai(provider: FakeProvider, model: str = MODEL, **given: Any) -> ChatOpenAI:
    """A model of LangChain's on the provider; nobody but selfreg repeats its calls."""
    return ChatOpenAI(model=model, base_url=provider.base_url, api_key="key", max_retries=0, **given)


def regulated(provider: FakeProvider, **given: Any) -> ChatSelfReg:
    """A model of ours on the provider, in the test's store."""
    return chat(provider, **({"store": None, "prices": PRICES, "planner": "off"} | given))


def budget(**given: Any) -> BudgetMiddleware[Any, Any]:
    """Budgets that know the provider's prices."""
    return BudgetMiddleware(**({"prices": PRICES} | given))


MODELS = ((openai, "invoke"), (openai, "astream"), (regulated, "ainvoke"), (regulated, "stream"))
"""A model of LangChain's and one of ours, each in two ways to run a graph."""


def agent(model: Any, *middleware: Any, tools: Sequence[Any] = (search,), **given: Any) -> Any:
    """An agent with a memory of its threads."""
    usual = {"name": "support", "checkpointer": InMemorySaver()}
    return create_agent(model, tools=list(tools), middleware=list(middleware), **(usual | given))


def on(thread: str = "one", **configurable: Any) -> dict[str, Any]:
    """The config of a run."""
    return {"configurable": {"thread_id": thread, **configurable}}


def said(text: str) -> dict[str, Any]:
    """The input of a run."""
    return {"messages": [{"role": "user", "content": text}]}


async def run(
    graph: Any, text: str = "search for 'cats'", face: str = "invoke", config: Any = None, **given: Any
) -> Any:
    """The state after one run, by one of the four ways to run a graph."""
    config = config or on()
    match face:
        case "invoke":
            return await asyncio.to_thread(graph.invoke, said(text), config, **given)
        case "ainvoke":
            return await graph.ainvoke(said(text), config, **given)
        case "stream":
            return await asyncio.to_thread(
                lambda: list(graph.stream(said(text), config, stream_mode="values", **given))[-1]
            )
        case _:
            return [state async for state in graph.astream(said(text), config, stream_mode="values", **given)][-1]


def records(state: Any) -> list[dict[str, Any]]:
    """What was decided for each answer of a run."""
    return [message.response_metadata["selfreg"] for message in answers(state)]


def last(state: Any) -> str:
    """The last word of a run."""
    return str(state["messages"][-1].text)


def answers(state: Any) -> list[AIMessage]:
    return [message for message in state["messages"] if isinstance(message, AIMessage)]


def open_calls(messages: Sequence[BaseMessage]) -> set[str]:
    """Tool calls that nobody answered: the next request with such a history is refused."""
    called = {call["id"] for message in messages if isinstance(message, AIMessage) for call in message.tool_calls}
    return called - {getattr(message, "tool_call_id", None) for message in messages}


def ledger() -> tuple[LedgerEntry, ...]:
    """All attempts in the test's store, oldest first."""
    return runtime().meter.ledger()[::-1]


def spent(prefix: str) -> Decimal:
    """USD counted in the budgets whose names begin so."""
    return sum((status.spent for status in runtime().meter.status() if status.scope.startswith(prefix)), Decimal(0))
