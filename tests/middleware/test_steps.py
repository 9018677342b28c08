"""Names of an agent's steps: readable, stable, and different where the situation is."""

from __future__ import annotations

from typing import Any

import pytest
from langchain.agents.middleware.types import ModelRequest
from langchain.agents.structured_output import ToolStrategy
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.graph import END, START, MessagesState, StateGraph
from pydantic import BaseModel

from selfreg_sdk.middleware import SelfRegulationMiddleware
from selfreg_sdk.middleware.steps import step_name
from tests.fake_provider import FakeProvider
from tests.middleware.agents import agent, openai, run, search, weather
from tests.sdk.regulated import PRICES, planning

MODEL = FakeListChatModel(responses=["fine"])


class Note(BaseModel):
    """A note."""

    text: str


def request(*messages: Any, **given: Any) -> ModelRequest[Any]:
    return ModelRequest(model=MODEL, messages=list(messages) or [HumanMessage("hello")], **given)


def answered(*tools: str) -> list[Any]:
    calls = [{"name": name, "args": {}, "id": str(index)} for index, name in enumerate(tools)]
    said = [ToolMessage("found", tool_call_id=str(index), name=name) for index, name in enumerate(tools)]
    return [HumanMessage("hello"), AIMessage("", tool_calls=calls), *said]


@pytest.mark.parametrize(
    ("made", "name"),
    [
        (request(), "agent/start"),
        (request(tools=[search]), "agent/start+tools"),
        (request(*answered("search"), tools=[search]), "agent/after:search+tools"),
        (request(*answered("weather", "search", "search"), tools=[search]), "agent/after:search,weather+tools"),
        (request(*answered("search"), HumanMessage("and now?"), tools=[search]), "agent/start+tools"),
        (request(HumanMessage("hello"), AIMessage("that was no note")), "agent/continued"),
        (request(response_format=ToolStrategy(Note)), "agent/start+format"),
        (request(*answered("a|b\nc/d")), "agent/after:a-b c-d"),
    ],
)
def test_what_has_happened_and_what_may_be_done(made: ModelRequest[Any], name: str) -> None:
    assert step_name(made) == name


def test_a_given_name_wins_and_cannot_spoil_the_key() -> None:
    assert step_name(request(), "my|agent") == "my-agent/start"


def test_long_names_are_cut_and_told_apart() -> None:
    one, other = (step_name(request(*answered(*(f"tool-{index}-{end}" for index in range(40))))) for end in "ab")
    assert one != other
    assert max(len(one), len(other)) <= 160


@pytest.fixture
def planner(provider: FakeProvider) -> FakeProvider:
    provider.reply = planning(lambda payload: "fine")
    return provider


async def test_an_agent_in_a_graph_is_told_by_its_node(planner: FakeProvider) -> None:
    seen: list[str] = []

    def task(asked: ModelRequest[Any]) -> str:
        seen.append(step_name(asked))
        return seen[-1]

    def one(**given: Any) -> Any:
        regulation = SelfRegulationMiddleware(task=task, prices=PRICES)
        return agent(openai(planner), regulation, tools=(), checkpointer=None, **given)

    graph = StateGraph(MessagesState)
    graph.add_node("triage", one(name="triage"))
    graph.add_node("answer", one(name="writer"))
    graph.add_node("check", lambda state: one(name=None).invoke({"messages": state["messages"][:1]}))
    for here, there in ((START, "triage"), ("triage", "answer"), ("answer", "check"), ("check", END)):
        graph.add_edge(here, there)
    await run(graph.compile(), "hello", config={})
    assert seen == ["triage/start", "answer/writer/continued", "check/agent/start"]


async def test_the_metadata_of_a_run_names_what_its_steps_belong_to(planner: FakeProvider) -> None:
    graph = agent(openai(planner), SelfRegulationMiddleware(prices=PRICES), tools=(weather,), checkpointer=None)
    state = await run(graph, "hello", config={"metadata": {"selfreg_task": "shop"}})
    assert state["messages"][-1].response_metadata["selfreg"]["task"] == "shop/support/start+tools|fake-model|first"
