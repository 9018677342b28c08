"""Inside a LangChain agent: the loop works, and nothing of a plan gets into its messages or its streams."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from pydantic import BaseModel

from policies import CHOICES
from selfreg_sdk import ChatSelfReg
from tests.competent_server import CompetentServer
from tests.langchain.asking import Runs
from tests.sdk.regulated import MODEL, ONCE, answers, chat, is_plan, plans, record


@pytest.fixture
def server() -> Iterator[CompetentServer]:
    with CompetentServer() as running:
        yield running
        assert running.problems == []


def around(server: CompetentServer, **given: Any) -> ChatSelfReg:
    inner = ChatOpenAI(model=MODEL, base_url=server.base_url, api_key="sk-test", http_socket_options=())  # type: ignore[arg-type]
    return ChatSelfReg(inner=inner, **({"store": ":memory:", "retry": ONCE} | given))


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


class Total(BaseModel):
    """A total."""

    total: int


class Planned(ChatSelfReg):
    """Every step may be planned, as a middleware asks for it."""

    def bind_tools(self, *args: Any, **kwargs: Any) -> Any:
        return super().bind_tools(*args, **kwargs, selfreg_plan=True)


QUESTION = {"messages": [HumanMessage("Please add 3 and 4.")]}
HELLO = {"messages": [HumanMessage("hello")]}
WORDS = tuple(CHOICES)  # the keys of a plan


@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
@pytest.mark.parametrize("make", [chat, around])
async def test_the_loop(server: CompetentServer, make: Any, way: str) -> None:
    agent: Any = create_agent(make(server), [add], checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "1"}}
    state = await agent.ainvoke(QUESTION, config) if way == "ainvoke" else agent.invoke(QUESTION, config)
    kinds = [type(message) for message in state["messages"]]
    assert kinds == [HumanMessage, AIMessage, ToolMessage, AIMessage]
    assert state["messages"][2].content == "7"
    assert state["messages"][3].text == "You said: 7"
    assert all(record(message)["task"] for message in state["messages"] if isinstance(message, AIMessage))
    assert len(answers(server)) == 2


@pytest.mark.parametrize("way", ["stream", "astream"])
@pytest.mark.parametrize("tools", [[], [add]], ids=["no tools", "tools"])
@pytest.mark.parametrize("kind", [ChatSelfReg, Planned])
async def test_plans_stay_out_of_the_message_stream(server: CompetentServer, kind: Any, tools: Any, way: str) -> None:
    llm = kind(model=MODEL, base_url=server.base_url, store=":memory:", retry=ONCE)
    agent: Any = create_agent(llm, tools)
    runs = Runs()
    config: Any = {"callbacks": [runs]}
    if way == "stream":
        seen = list(agent.stream(QUESTION, config, stream_mode="messages"))
    else:
        seen = [item async for item in agent.astream(QUESTION, config, stream_mode="messages")]
    text = "".join(message.text for message, _ in seen if isinstance(message, AIMessage))
    assert len(plans(server)) == (not tools or kind is Planned) * (2 if tools else 1) or len(plans(server)) == 1
    assert ("selfreg plan" in [run.name for run in runs.all.values()]) == bool(plans(server))
    assert text == ("You said: 7" if tools else "You said: Please add 3 and 4.")
    assert not any(word in text for word in WORDS)
    assert {about.get("lc_source") for _, about in seen} == {None}
    ids = {message.id for message, _ in seen if isinstance(message, AIMessage)}
    assert len(ids) == (2 if tools else 1), "one message for each answer"


async def test_plans_stay_out_of_the_states_and_of_their_usage(server: CompetentServer) -> None:
    llm = Planned(model=MODEL, base_url=server.base_url, store=":memory:", retry=ONCE)
    state = await create_agent(llm, [add]).ainvoke(QUESTION)  # type: ignore[arg-type]
    replies = [message for message in state["messages"] if isinstance(message, AIMessage)]
    assert plans(server)
    spent = [message.usage_metadata["total_tokens"] for message in replies if message.usage_metadata]
    billed = server.billed.prompt_tokens + server.billed.completion_tokens
    assert sum(spent) < billed
    assert len(spent) == 2
    assert not any(word in str(message.content) for message in replies for word in WORDS)


@pytest.mark.parametrize("make", [chat, around])
async def test_structured_answers(server: CompetentServer, make: Any) -> None:
    state = await create_agent(make(server), [add], response_format=Total).ainvoke(QUESTION)  # type: ignore[arg-type]
    assert state["structured_response"] == Total(total=state["structured_response"].total)
    assert plans(server) == []


async def test_events_of_an_agent_show_the_plan_as_an_internal_run(server: CompetentServer) -> None:
    agent: Any = create_agent(chat(server), [])
    events = [event async for event in agent.astream_events(HELLO, version="v2")]
    streamed = [event for event in events if event["event"] == "on_chat_model_stream"]
    assert "".join(event["data"]["chunk"].text for event in streamed) == "You said: hello"
    started = [event for event in events if event["event"] == "on_chat_model_start"]
    assert [event["metadata"].get("lc_source") for event in started] == [None, "selfreg_plan"]
    assert started[1]["parent_ids"][-1] == started[0]["run_id"]
    assert sum(is_plan(payload) for payload in server.payloads) == 1
