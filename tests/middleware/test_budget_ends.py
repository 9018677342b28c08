"""How a run ends when its budget does, and what is refused because it could not be counted."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from langchain.agents.middleware import ModelFallbackMiddleware, ModelRetryMiddleware, ToolRetryMiddleware
from langchain.agents.structured_output import ToolStrategy
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.tools import tool
from pydantic import BaseModel

from selfreg_sdk import BudgetExceeded, ChatSelfReg, ConfigError
from selfreg_sdk.middleware import BudgetMiddleware
from tests.competent_server import CompetentServer
from tests.fake_provider import FakeProvider, status
from tests.middleware.agents import (
    AMPLE,
    MODELS,
    TINY,
    agent,
    answers,
    budget,
    last,
    open_calls,
    openai,
    regulated,
    run,
    search,
    spent,
)
from tests.sdk.regulated import MODEL, ONCE, PRICES

# -- how a run ends ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("made", "face"), MODELS)
async def test_the_last_message_names_the_budget(server: CompetentServer, made: Any, face: str) -> None:
    state = await run(agent(made(server), budget(run=TINY)), face=face)
    assert "budget 'run/" in last(state)
    assert "does not cover the next call" in last(state)
    assert isinstance(state["messages"][-1], AIMessage)
    assert len(answers(state)) == 1
    assert server.payloads == []


@pytest.mark.parametrize("face", ["invoke", "astream"])
async def test_an_error_has_the_numbers(server: CompetentServer, face: str) -> None:
    graph = agent(regulated(server), budget(thread=TINY, exit_behavior="error"))
    with pytest.raises(BudgetExceeded) as caught:
        await run(graph, face=face)
    assert (caught.value.scope, caught.value.cap) == ("thread/one", Decimal("0.000001"))
    assert caught.value.wanted > caught.value.cap
    assert server.payloads == []


@pytest.mark.parametrize("exit_behavior", ["end", "error"])
@pytest.mark.parametrize("face", ["invoke", "ainvoke"])
async def test_a_retry_in_between_does_not_swallow_the_end(
    server: CompetentServer, exit_behavior: Any, face: str
) -> None:
    retry = ModelRetryMiddleware(max_retries=1, initial_delay=0.0, jitter=False)  # turns every error into a message
    graph = agent(regulated(server), budget(run=TINY, exit_behavior=exit_behavior), retry)
    if exit_behavior == "error":
        with pytest.raises(BudgetExceeded):
            await run(graph, face=face)
    else:
        assert last(await run(graph, face=face)).startswith("The agent stopped: budget 'run/")


@pytest.mark.parametrize("face", ["invoke", "ainvoke"])
async def test_a_used_up_budget_prepares_no_request(server: CompetentServer, face: str) -> None:
    made = budget(thread="0.0009 USD")
    graph = agent(regulated(server), made)
    await run(graph, "hello", face=face)
    lower = BudgetMiddleware(thread=spent("thread/"))
    state = await run(agent(regulated(server), lower), "hello", face=face)
    assert last(state) == f"The agent stopped: budget 'thread/one' of {spent('thread/')} USD is used up."
    assert len(server.payloads) == 1


@pytest.mark.parametrize("face", ["invoke", "ainvoke"])
async def test_tool_calls_are_answered_when_the_budget_ends_inside_tools(server: CompetentServer, face: str) -> None:
    costly = regulated(server, max_tokens=1_000_000)

    @tool
    def ponder(question: str) -> str:
        """Ponder at length."""
        return str(costly.invoke(question).text)

    calls = [
        {"id": str(index), "type": "function", "function": {"name": name, "arguments": f'{{"{argument}": "x"}}'}}
        for index, (name, argument) in enumerate([("ponder", "question"), ("search", "query"), ("ponder", "question")])
    ]
    server.reply = lambda payload: {"content": None, "tool_calls": calls}
    state = await run(agent(regulated(server), budget(run="0.1 USD"), tools=[ponder, search]), "go", face)
    assert open_calls(state["messages"]) == set()
    told = [message for message in state["messages"] if isinstance(message, ToolMessage)]
    assert [message.status for message in told] == ["error", "success", "error"]
    assert last(state) == told[0].text
    assert "budget 'run/" in last(state)
    assert len(server.payloads) == 1


async def test_an_error_handler_for_tools_does_not_swallow_the_end(server: CompetentServer) -> None:
    costly = regulated(server, max_tokens=1_000_000)

    @tool
    def ponder(question: str) -> str:
        """Ponder at length."""
        return str(costly.invoke(question).text)

    patient = ToolRetryMiddleware(max_retries=1, initial_delay=0.0, jitter=False)  # turns every error into an answer
    graph = agent(regulated(server), budget(run="0.1 USD"), patient, tools=[ponder])
    state = await run(graph, "ponder 'this'")
    assert last(state).startswith("The agent stopped: budget 'run/")
    assert open_calls(state["messages"]) == set()


async def test_a_tool_that_helps_itself_is_left_alone(server: CompetentServer) -> None:
    costly = regulated(server, max_tokens=1_000_000)

    @tool
    def ponder(question: str) -> str:
        """Ponder at length, or say that it is too dear."""
        try:
            return str(costly.invoke(question).text)
        except BudgetExceeded:
            return "too dear"

    state = await run(agent(regulated(server), budget(run="0.1 USD"), tools=[ponder]), "ponder 'this'")
    assert last(state) == "You said: too dear"


async def test_a_tool_s_own_budget_is_the_tool_s_business(server: CompetentServer) -> None:
    poor = regulated(server, budget=TINY, budget_name="pocket")

    @tool
    def ponder(question: str) -> str:
        """Ponder."""
        return str(poor.invoke(question).text)

    with pytest.raises(BudgetExceeded, match="'pocket'"):
        await run(agent(regulated(server), budget(run=AMPLE), tools=[ponder]), "ponder 'this'")


async def test_a_structured_agent_ends_as_well(server: CompetentServer) -> None:
    class Note(BaseModel):
        """A note."""

        text: str

    graph = agent(regulated(server), budget(run=TINY), tools=(), response_format=ToolStrategy(Note))
    state = await run(graph, "write 'hello'")
    assert last(state).startswith("The agent stopped")
    assert state.get("structured_response") is None


async def test_the_next_run_of_a_thread_begins_anew(server: CompetentServer) -> None:
    graph = agent(regulated(server), budget(run="0.0012 USD"))
    ended = await run(graph, "search for " + "'a' " * 200)
    assert "The agent stopped" in last(ended)
    assert open_calls(ended["messages"]) == set()
    short = agent(regulated(server), budget(run=AMPLE), checkpointer=graph.checkpointer)
    assert last(await run(short, "hello")) == "You said: hello"


# -- what fails closed ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("face", ["invoke", "ainvoke"])
async def test_an_unknown_price_is_said_at_once(server: CompetentServer, face: str) -> None:
    retry = ModelRetryMiddleware(max_retries=1, initial_delay=0.0, jitter=False)
    graph = agent(openai(server), BudgetMiddleware(run=AMPLE), retry)
    with pytest.raises(ConfigError, match="no price is known for model 'fake-model'"):
        await run(graph, face=face)
    assert server.payloads == []


@pytest.mark.parametrize("face", ["invoke", "ainvoke"])
async def test_a_model_with_another_store_is_refused(server: CompetentServer, face: str) -> None:
    graph = agent(regulated(server, store=":memory:"), budget(run=AMPLE))
    with pytest.raises(ConfigError, match="give both the same store="):
        await run(graph, face=face)
    assert server.payloads == []


@pytest.mark.parametrize("face", ["invoke", "ainvoke"])
async def test_a_model_that_nobody_counts_is_refused(server: CompetentServer, face: str) -> None:
    raw = openai(server)

    @tool
    def ask(question: str) -> str:
        """Ask somebody else."""
        return str(raw.invoke(question).text)

    with pytest.raises(ConfigError, match="ChatOpenAI is called under a budget, but selfreg does not count it"):
        await run(agent(regulated(server), budget(run=AMPLE), tools=[ask]), "ask 'me'", face)
    assert len(server.payloads) == 1
    state = await run(agent(regulated(server), budget(run=AMPLE, uncounted="allow"), tools=[ask]), "ask 'me'", face)
    assert last(state) == "You said: You said: me"


async def test_a_fallback_that_nobody_counts_is_refused(server: CompetentServer) -> None:
    with FakeProvider() as broken:
        broken.script(status(400, "no such thing"))
        with pytest.raises(ConfigError, match="does not count it"):
            await run(agent(regulated(broken), budget(run=AMPLE), ModelFallbackMiddleware(openai(server))), "hello")
    assert server.payloads == []


class Mine(ChatSelfReg):
    """A user's subclass."""


async def test_a_subclass_of_ours_is_counted(server: CompetentServer) -> None:
    model = Mine(model=MODEL, base_url=server.base_url, prices=PRICES, planner="off", retry=ONCE)
    await run(agent(model, budget(run=AMPLE)), "hello")
    assert spent("run/") == server.billed.usd > 0
