"""SelfRegulationMiddleware in real agents: what each step is sent, what it costs, and who wins."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from langchain.agents.middleware import AgentMiddleware, ModelFallbackMiddleware, ModelRetryMiddleware
from langchain.agents.middleware.types import ModelRequest, ModelResponse
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.types import Command, interrupt
from pydantic import BaseModel

from policies import DecodingParams, StaticPolicy
from selfreg_sdk import ChatSelfReg, ConfigError
from selfreg_sdk.langchain.regulate import regulate
from selfreg_sdk.middleware import SelfRegulationMiddleware
from selfreg_sdk.runtime import runtime
from tests.competent_server import CompetentServer
from tests.fake_provider import FakeProvider, status
from tests.middleware.agents import AMPLE, MODELS, agent, answers, budget, on, open_calls, openai, records, run, said
from tests.sdk.regulated import MODEL, PLANNED_TEMPERATURE, PRICES, is_plan, plans, priced
from tests.sdk.regulated import answers as answered

ROOT = Path(__file__).parents[2]
START, AFTER = "support/start+tools", "support/after:search+tools"


class Spy(AgentMiddleware[Any, Any, Any]):
    """Sees requests on their way and what the state holds."""

    def __init__(self, change: Any = None) -> None:
        super().__init__()
        self.seen: list[ModelRequest[Any]] = []
        self.change = change

    def wrap_model_call(self, request: Any, handler: Any) -> Any:
        self.seen.append(request)
        return handler(self.change(request) if self.change else request)

    async def awrap_model_call(self, request: Any, handler: Any) -> Any:
        self.seen.append(request)
        return await handler(self.change(request) if self.change else request)


class Inner(Spy):
    """The same under another name: an agent takes each once."""


# -- plans and settings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("made", "face"), MODELS)
async def test_each_step_is_planned_once_and_a_second_run_plans_nothing(
    server: CompetentServer, made: Any, face: str
) -> None:
    graph = agent(made(server), SelfRegulationMiddleware(planner="auto"))
    first = await run(graph, face=face)
    assert [record["task"] for record in records(first)] == [f"{START}|{MODEL}|first", f"{AFTER}|{MODEL}|first"]
    assert [record["source"] for record in records(first)] == ["plan", "plan"]
    assert len(plans(server)) == 2
    second = await run(graph, face=face, config=on("two"))
    assert [record["source"] for record in records(second)] == ["cached plan", "cached plan"]
    assert len(plans(server)) == 2
    assert [payload["temperature"] for payload in answered(server)] == [PLANNED_TEMPERATURE] * 4


async def test_plans_outlive_the_agent(server: CompetentServer) -> None:
    await run(agent(openai(server), SelfRegulationMiddleware()))
    await run(agent(openai(server), SelfRegulationMiddleware()))
    assert len(plans(server)) == 2


async def test_a_step_that_could_not_be_planned_is_not_planned_again_in_the_run(provider: FakeProvider) -> None:
    calls = [{"id": "1", "type": "function", "function": {"name": "search", "arguments": '{"query": "x"}'}}]

    def reply(payload: Any) -> Any:
        if is_plan(payload):
            return "I would rather not."
        asked = sum(message["role"] == "tool" for message in payload["messages"])
        return {"content": None, "tool_calls": calls} if asked < 3 else "done"

    provider.reply = reply
    state = await run(agent(openai(provider), SelfRegulationMiddleware()))
    assert [record["source"] for record in records(state)] == ["default"] * 4
    assert len(plans(provider)) == 2  # one for the start, one for what comes after the search


async def test_explicit_settings_win(server: CompetentServer) -> None:
    spy = Spy(lambda request: request.override(model_settings={"temperature": 0.1, "max_completion_tokens": 9}))
    state = await run(agent(openai(server), spy, SelfRegulationMiddleware()))
    assert [(sent["temperature"], sent["max_completion_tokens"]) for sent in answered(server)] == [(0.1, 9)] * 2
    assert all("caller" in {change["why"] for change in record["ignored"]} for record in records(state))


async def test_a_task_of_the_caller_s_wins(server: CompetentServer) -> None:
    spy = Spy(lambda request: request.override(model_settings={"selfreg_task": "mine"}))
    state = await run(agent(openai(server), spy, SelfRegulationMiddleware()))
    assert {record["task"] for record in records(state)} == {f"mine|{MODEL}|first"}
    assert len(plans(server)) == 1


async def test_a_function_names_the_tasks(server: CompetentServer) -> None:
    named = SelfRegulationMiddleware(task=lambda request: f"turn {len(request.messages)}")
    state = await run(agent(openai(server), named))
    assert [record["task"] for record in records(state)] == [f"turn 1|{MODEL}|first", f"turn 3|{MODEL}|first"]


async def test_a_policy_and_a_planner_of_the_user_s(server: CompetentServer) -> None:
    with CompetentServer() as other:
        planned = SelfRegulationMiddleware(planner=openai(other))
        await run(agent(openai(server), planned))
        await run(agent(ChatSelfReg(model=MODEL, base_url=server.base_url, task="x"), planned, name="second"))
        await run(agent(regulate(openai(server)), planned, name="third"))
        assert (len(plans(server)), len(plans(other))) == (0, 6)
    policy = StaticPolicy(params=DecodingParams(temperature=0.6))
    await run(agent(openai(server), SelfRegulationMiddleware(policy=policy), name="fourth"))
    assert [payload["temperature"] for payload in answered(server)] == [PLANNED_TEMPERATURE] * 6 + [0.6] * 2


# -- which model ------------------------------------------------------------------------------------------------------


async def test_where_nothing_is_left_to_regulate_the_request_is_left_alone(provider: FakeProvider) -> None:
    every = {"temperature": 0.2, "top_p": 0.9, "max_tokens": 50, "presence_penalty": 0, "frequency_penalty": 0}
    before, spy = Spy(lambda request: request.override(model_settings=every)), Inner()
    state = await run(agent(openai(provider), before, SelfRegulationMiddleware(), spy))
    assert [type(request.model) for request in spy.seen] == [ChatOpenAI]
    assert spy.seen[0].model_settings == every
    assert len(provider.payloads) == 1
    assert "selfreg" not in answers(state)[0].response_metadata


async def test_the_model_stays_an_instance_of_its_class(server: CompetentServer) -> None:
    spy = Inner()
    await run(agent(openai(server), SelfRegulationMiddleware(), spy))
    assert all(isinstance(request.model, ChatOpenAI) for request in spy.seen)


async def test_settings_do_not_leak_into_a_fallback(server: CompetentServer) -> None:
    with FakeProvider() as broken:
        broken.script(*[status(400, "no such thing")] * 20)
        fallback = ModelFallbackMiddleware(openai(server, "second-model"))
        graph = agent(openai(broken), fallback, SelfRegulationMiddleware(prices=priced("second-model")))
        state = await run(graph)
    assert {record["task"] for record in records(state)} == {
        f"{START}|second-model|first",
        f"{AFTER}|second-model|first",
    }
    assert all(payload["model"] == "second-model" for payload in server.payloads)
    assert len(plans(server)) == 2


async def test_placed_before_a_fallback_it_says_so(server: CompetentServer) -> None:
    with FakeProvider() as broken:
        broken.script(*[status(400, "no such thing")] * 20)
        graph = agent(openai(broken), SelfRegulationMiddleware(), ModelFallbackMiddleware(openai(server)))
        with pytest.warns(UserWarning, match="put SelfRegulationMiddleware last"):
            await run(graph)
    assert {payload.get("temperature") for payload in server.payloads} == {None}  # what the warning is about


async def test_a_retried_step_is_noted_once(server: CompetentServer) -> None:
    server.script(status(500, "later"), status(500, "later"), status(500, "later"))  # the plan, then what it was for
    retry = ModelRetryMiddleware(max_retries=2, initial_delay=0.0, jitter=False)
    regulation = SelfRegulationMiddleware()
    state = await run(agent(ChatSelfReg(model=MODEL, base_url=server.base_url, max_retries=0), retry, regulation))
    assert [record["attempts"] for record in records(state)] == [1, 1]
    assert len(answers(state)) == 2


# -- what is kept -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("face", ["invoke", "ainvoke"])
async def test_decisions_are_in_the_private_state_of_the_run(server: CompetentServer, face: str) -> None:
    seen: list[Any] = []

    class Reader(AgentMiddleware[Any, Any, Any]):
        def after_model(self, state: Any, runtime: Any) -> None:
            seen.append(dict(state.get("selfreg_steps") or {}))

    regulation = SelfRegulationMiddleware()
    Reader.state_schema = regulation.state_schema
    graph = agent(openai(server), regulation, Reader())
    state = await run(graph, face=face)
    assert [list(steps) for steps in seen] == [[START], [START, AFTER]]
    assert seen[-1][AFTER] == records(state)[-1]
    assert "selfreg_steps" not in state
    assert "selfreg_steps" not in graph.get_state(on()).values
    await run(graph, "hello", face=face)
    assert list(seen[-1]) == [START]  # a new run begins with nothing


@pytest.mark.parametrize("strategy", [ToolStrategy, ProviderStrategy])
@pytest.mark.parametrize("face", ["invoke", "ainvoke"])
async def test_structured_answers(server: CompetentServer, strategy: Any, face: str) -> None:
    class Note(BaseModel):
        """A note."""

        text: str

    graph = agent(openai(server), SelfRegulationMiddleware(), tools=(), response_format=strategy(Note))
    state = await run(graph, "write 'hello'", face=face)
    assert state["structured_response"] == Note(text="hello")
    assert records(state)[0]["task"] == f"support/start+format|{MODEL}|first"
    assert records(state)[0]["source"] == "plan"
    assert len(server.payloads) == 2


async def test_an_interrupted_run_goes_on(server: CompetentServer) -> None:
    @tool
    def approve(what: str) -> str:
        """Approve something."""
        return str(interrupt("may I?"))

    graph = agent(openai(server), SelfRegulationMiddleware(), tools=[approve])
    stopped = await run(graph, "approve 'this'", "ainvoke")
    assert stopped["__interrupt__"]
    state = await graph.ainvoke(Command(resume="yes"), on())
    assert state["messages"][-1].text == "You said: yes"
    assert [record["source"] for record in records(state)] == ["plan", "plan"]
    assert open_calls(state["messages"]) == set()


# -- streams ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_plan_s_tokens_are_in_no_stream_and_an_answer_s_once(
    server: CompetentServer, asynchronous: bool
) -> None:
    graph = agent(openai(server), budget(run=AMPLE), SelfRegulationMiddleware(prices=PRICES))
    if asynchronous:
        parts = [
            part async for part in graph.astream(said("search for 'cats'"), on(), stream_mode=["messages", "updates"])
        ]
    else:
        parts = list(graph.stream(said("search for 'cats'"), on(), stream_mode=["messages", "updates"]))
    streamed = [
        chunk for mode, data in parts if mode == "messages" for chunk in [data[0]] if isinstance(chunk, AIMessage)
    ]
    assert "".join(chunk.text for chunk in streamed) == "You said: found cats"
    updates = [data["model"] for mode, data in parts if mode == "updates" and "model" in data]
    whole = [message for update in updates for message in update["messages"]]
    assert [message.text for message in whole] == ["", "You said: found cats"]
    sent = [payload for payload in server.payloads if not is_plan(payload)]
    assert all(payload["stream"] for payload in sent)
    usages = [chunk.usage_metadata for chunk in streamed if chunk.usage_metadata]
    assert len(usages) == 2  # one for each answer, and none for the plans
    totals = runtime().meter.totals(purpose="answer")
    assert sum(usage["total_tokens"] for usage in usages) == totals.prompt_tokens + totals.completion_tokens
    assert usages == [message.usage_metadata for message in whole]


# -- hooks alone, and arguments ---------------------------------------------------------------------------------------


def test_the_hook_outside_a_graph(server: CompetentServer) -> None:
    request = ModelRequest(model=openai(server), messages=[HumanMessage("hello")])

    def handler(given: ModelRequest[Any]) -> ModelResponse[Any]:
        return ModelResponse(result=[given.model.bind(**given.model_settings).invoke(given.messages)])

    done = SelfRegulationMiddleware(agent="alone").wrap_model_call(request, handler)
    assert list(done.command.update["selfreg_steps"]) == ["alone/start"]
    assert done.model_response.result[0].text == "You said: hello"
    assert request.model_settings == {}


def test_an_unknown_model_is_planned_for_what_it_takes() -> None:
    request = ModelRequest(model=FakeListChatModel(responses=["fine"] * 3), messages=[HumanMessage("hello")])

    def handler(given: ModelRequest[Any]) -> ModelResponse[Any]:
        return ModelResponse(result=[given.model.bind(**given.model_settings).invoke(given.messages)])

    done = SelfRegulationMiddleware().wrap_model_call(request, handler)
    assert done.model_response.result[0].text == "fine"


@pytest.mark.parametrize(
    ("given", "message"),
    [({"agent": " "}, "agent=' '"), ({"task": "triage"}, "task='triage': give a function")],
)
def test_arguments_that_cannot_work(given: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SelfRegulationMiddleware(**given)


def test_without_langchain_s_agents_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['langchain'] = None; import selfreg_sdk.middleware"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert "pip install 'selfreg[agents]'" in done.stderr
