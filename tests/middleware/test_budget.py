"""BudgetMiddleware in real agents: what counts, under which cap, and how a run ends."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import LLMToolSelectorMiddleware, ModelFallbackMiddleware, ModelRetryMiddleware
from langchain.agents.middleware.types import ModelRequest, ModelResponse
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langgraph.runtime import Runtime
from langgraph.types import Command, interrupt

from selfreg_sdk import ConfigError
from selfreg_sdk.middleware import BudgetMiddleware, SelfRegulationMiddleware
from selfreg_sdk.runtime import runtime
from selfreg_sdk.store.engine import Store
from tests.competent_server import CompetentServer
from tests.fake_provider import FakeProvider, status
from tests.middleware.agents import (
    AMPLE,
    MODELS,
    TINY,
    agent,
    budget,
    last,
    ledger,
    on,
    openai,
    regulated,
    run,
    search,
    spent,
    weather,
)
from tests.sdk.regulated import MODEL, PRICES, plans, priced

# -- what counts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("made", "face"), MODELS)
async def test_every_call_of_a_run_counts(server: CompetentServer, made: Any, face: str) -> None:
    state = await run(agent(made(server), budget(run=AMPLE)), face=face)
    assert last(state) == "You said: found cats"
    assert spent("run/") == server.billed.usd > 0
    (status,) = runtime().meter.status()
    assert status.held == 0


async def test_plans_count(server: CompetentServer) -> None:
    await run(agent(openai(server), budget(run=AMPLE), SelfRegulationMiddleware(prices=PRICES)))
    assert len(plans(server)) == 2
    assert spent("run/") == server.billed.usd
    assert {entry.purpose for entry in ledger()} == {"plan", "answer"}


async def test_a_model_that_is_only_counted_is_sent_what_it_was(server: CompetentServer) -> None:
    model = openai(server, temperature=0.3, max_tokens=77, seed=5)
    await run(agent(model, budget(run=AMPLE)))
    fields = {"temperature", "top_p", "max_completion_tokens", "max_tokens", "seed"}
    sent = [{name: value for name, value in payload.items() if name in fields} for payload in server.payloads]
    assert sent == [{"temperature": 0.3, "max_completion_tokens": 77, "seed": 5}] * 2


async def test_what_an_answer_may_cost_is_shortened_to_what_is_left(server: CompetentServer) -> None:
    await run(agent(openai(server, max_tokens=100_000), budget(run="0.01 USD")), "hello")
    (payload,) = server.payloads
    assert 1000 < payload["max_completion_tokens"] < 6250  # 0.01 USD at 1.60 USD per million, less the prompt


async def test_failed_attempts_and_fallbacks_count(server: CompetentServer) -> None:
    with FakeProvider() as broken:
        broken.script(*[status(500, "later", body="<html>")] * 9)  # nobody says that it was not billed
        both = priced(MODEL, "second-model")
        graph = agent(
            openai(broken),
            budget(run=AMPLE),
            ModelFallbackMiddleware(openai(server, "second-model")),
            ModelRetryMiddleware(max_retries=1, initial_delay=0.0, jitter=False, on_failure="error"),
            SelfRegulationMiddleware(prices=both, max_retries=0),
        )
        state = await run(graph, "hello")
        assert last(state) == "You said: hello"
        assert spent("run/") >= broken.billed.usd + server.billed.usd
        states = [entry.state for entry in ledger() if entry.model == MODEL]
        assert len(states) == len(broken.payloads)
        assert set(states) == {"unknown"}


async def test_a_selector_s_call_counts(server: CompetentServer) -> None:
    selector = LLMToolSelectorMiddleware(max_tools=1)
    graph = agent(
        openai(server), budget(run=AMPLE), selector, SelfRegulationMiddleware(prices=PRICES), tools=(search, weather)
    )
    await run(graph, "search for 'search'")
    assert len(server.payloads) == 2 * 3  # two steps, each with a choice of tools, a plan and an answer
    assert spent("run/") == server.billed.usd


async def test_models_and_agents_inside_tools_count(server: CompetentServer) -> None:
    inner = agent(openai(server), SelfRegulationMiddleware(prices=PRICES), tools=(), name="inner", checkpointer=None)
    own = regulated(server)

    @tool
    async def ask(question: str) -> str:
        """Ask somebody else."""
        first = await own.ainvoke("what?")
        second = await inner.ainvoke({"messages": [first.text]})
        return str(second["messages"][-1].text)

    state = await run(agent(regulated(server), budget(run=AMPLE), tools=[ask]), "ask 'me'", "ainvoke")
    assert last(state) == "You said: You said: You said: what?"
    assert len(server.payloads) == 5  # two steps, the tool's own call, and a plan with an answer
    assert spent("run/") == server.billed.usd
    assert {entry.scopes for entry in ledger()} == {ledger()[0].scopes}


async def test_an_agent_with_a_budget_of_its_own_inside_a_tool(server: CompetentServer) -> None:
    inner = agent(regulated(server), budget(run=TINY, name="inner"), tools=(), name="inner", checkpointer=None)

    @tool
    async def ask(question: str) -> str:
        """Ask somebody else."""
        return last(await inner.ainvoke({"messages": [question]}))

    state = await run(agent(regulated(server), budget(run=AMPLE), tools=[ask]), "ask 'me'", "ainvoke")
    assert last(state).startswith("You said: The agent stopped: budget 'inner/run/")  # it ended, its caller did not
    assert len(server.payloads) == 2
    assert spent("run/") == server.billed.usd


async def test_the_outer_budget_ends_the_outer_agent_from_within_the_inner(server: CompetentServer) -> None:
    long = regulated(server, max_tokens=1_000_000)
    inner = agent(long, budget(run="10 USD", name="inner"), tools=(), name="inner", checkpointer=None)

    @tool
    async def ask(question: str) -> str:
        """Ask somebody else."""
        return last(await inner.ainvoke({"messages": [question]}))

    state = await run(agent(regulated(server), budget(run="0.1 USD"), tools=[ask]), "ask 'me'", "ainvoke")
    assert last(state).startswith("The agent stopped: budget 'run/")
    assert len(server.payloads) == 1


async def test_calls_outside_the_steps_do_not_count(server: CompetentServer) -> None:
    await run(agent(regulated(server), budget(run=AMPLE)), "hello")
    before = spent("run/")
    regulated(server).invoke("hello")
    assert spent("run/") == before > 0


async def test_the_event_loop_never_waits_for_the_database(
    server: CompetentServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = agent(openai(server), budget(thread=AMPLE), SelfRegulationMiddleware(prices=PRICES))
    used: list[bool] = []

    def watched(original: Any) -> Any:
        def use(*given: Any, **more: Any) -> Any:
            with contextlib.suppress(RuntimeError):
                asyncio.get_running_loop()
                used.append(True)
            used.append(False)
            return original(*given, **more)

        return use

    for name in ("read", "write"):
        monkeypatch.setattr(Store, name, watched(getattr(Store, name)))
    await run(graph, face="ainvoke")
    assert used
    assert not any(used)


# -- scopes -----------------------------------------------------------------------------------------------------------


async def test_runs_threads_and_users_have_budgets_of_their_own(server: CompetentServer) -> None:
    graph = agent(regulated(server), budget(run=AMPLE, thread=AMPLE, user="5 USD/day", name="team"))
    for thread, user in (("one", "ann"), ("one", "ann"), ("two", "ann"), ("three", "bob")):
        await run(graph, "hello", config=on(thread, user_id=user))
    scopes = [status.scope.partition("@")[0] for status in runtime().meter.status()]
    assert len([scope for scope in scopes if scope.startswith("team/run/")]) == 4
    assert sorted(scope for scope in scopes if "run" not in scope) == [
        "team/thread/one", "team/thread/three", "team/thread/two", "team/user/ann", "team/user/bob",
    ]  # fmt: skip
    total = server.billed.usd
    assert spent("team/run/") == spent("team/thread/") == spent("team/user/") == total
    assert spent("team/user/ann") == spent("team/thread/one") + spent("team/thread/two") > spent("team/user/bob") > 0


@pytest.mark.parametrize("face", ["invoke", "ainvoke"])
async def test_a_thread_goes_on_until_its_budget_is_used_up(server: CompetentServer, face: str) -> None:
    graph = agent(regulated(server), budget(thread="0.0009 USD"))
    for _ in range(40):
        state = await run(graph, "hello", face=face)
        if "budget" in last(state):
            break
    assert "The agent stopped: budget 'thread/one' of 0.0009 USD" in last(state)
    assert Decimal(0) < server.billed.usd == spent("thread/") <= Decimal("0.0009")
    elsewhere = await run(graph, "hello", face=face, config=on("two"))
    assert last(elsewhere) == "You said: hello"


@dataclass
class Context:
    user_id: str


@pytest.mark.parametrize(
    ("given", "how"),
    [
        ({}, {"context": Context(user_id="ann")}),
        ({}, {"config": on(user_id="ann")}),
        ({"user_of": lambda runtime: runtime.context.user_id.lower()}, {"context": Context(user_id="ANN")}),
    ],
)
async def test_who_the_user_is(server: CompetentServer, given: Any, how: Any) -> None:
    graph = agent(regulated(server), budget(user=AMPLE, **given), context_schema=Context)
    await run(graph, "hello", **how)
    assert [status.scope for status in runtime().meter.status()] == ["user/ann"]


@pytest.mark.parametrize(("cap", "asked"), [("thread", "'thread_id'"), ("user", "user_of=<function")])
async def test_a_cap_for_somebody_unknown_is_refused(server: CompetentServer, cap: str, asked: str) -> None:
    graph = agent(regulated(server), budget(**{cap: AMPLE}), checkpointer=None)
    with pytest.raises(ConfigError, match=asked):
        await run(graph, "hello", config={"configurable": {}, "tags": ["none"]})
    assert server.payloads == []


async def test_a_resumed_run_is_the_same_run_and_a_new_one_is_not(server: CompetentServer) -> None:
    @tool
    def approve(what: str) -> str:
        """Approve something."""
        return str(interrupt("may I?"))

    graph = agent(regulated(server), budget(run=AMPLE), tools=[approve])
    stopped = await run(graph, "approve 'this'", "ainvoke")
    assert stopped["__interrupt__"]
    state = await graph.ainvoke(Command(resume="yes"), on())
    assert last(state) == "You said: yes"
    assert len(ledger()) == 2
    assert len(runtime().meter.status()) == 1
    assert not {"selfreg_run", "selfreg_over"} & set(state)
    await run(graph, "hello", "ainvoke")
    assert len(runtime().meter.status()) == 2


# -- the soft limit ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("face", ["invoke", "ainvoke"])
async def test_the_soft_limit_is_told_of_once(server: CompetentServer, face: str) -> None:
    told: list[tuple[str, Decimal, Decimal]] = []

    def tell(*about: Any) -> None:
        told.append(about)
        raise RuntimeError("of the receiver's own")

    graph = agent(regulated(server), budget(thread="0.01 USD", user=AMPLE, soft="0.002", on_soft=tell))
    for _ in range(4):
        assert "You said" in last(await run(graph, "hello", face, on(user_id="ann")))
    ((name, used, cap),) = told
    assert (name, cap) == ("thread/one", Decimal("0.01"))
    assert cap / 500 <= used <= spent("thread/")


# -- hooks alone, and arguments ---------------------------------------------------------------------------------------


def test_the_hooks_outside_a_graph(server: CompetentServer) -> None:
    made = budget(run=TINY)
    assert made.before_agent({"messages": []}, Runtime()).keys() == {"selfreg_run", "selfreg_over"}
    assert made.before_model({"messages": [], "selfreg_run": "1"}, Runtime()) is None
    request = ModelRequest(
        model=regulated(server), messages=[HumanMessage("hello")], state={"selfreg_run": "1"}, runtime=Runtime()
    )

    def handler(given: ModelRequest[Any]) -> ModelResponse[Any]:
        return ModelResponse(result=[given.model.invoke(given.messages)])

    ended = made.wrap_model_call(request, handler)
    assert ended.command.update["jump_to"] == "end"
    said = ended.model_response.result
    stopped = made.before_model({"messages": said, **ended.command.update}, Runtime())
    assert stopped == {"jump_to": "end", "messages": []}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "give at least one cap"),
        ({"run": "1 EUR"}, "the currency 'EUR' is not USD"),
        ({"run": AMPLE, "exit_behavior": "stop"}, "exit_behavior='stop': expected 'end' or 'error'"),
        ({"run": AMPLE, "uncounted": "yes"}, "uncounted='yes'"),
        ({"run": AMPLE, "max_tokens": 0}, "max_tokens=0"),
        ({"run": AMPLE, "soft": "1.5", "on_soft": print}, "soft='1.5' must be above 0"),
        ({"run": AMPLE, "store": ":memory:"}, "store=':memory:': the models' own would be another one"),
    ],
)
def test_arguments_that_cannot_work(given: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BudgetMiddleware(**given)


async def test_an_agent_without_memory_works_too(server: CompetentServer) -> None:
    graph = create_agent(regulated(server), middleware=[budget(run=AMPLE)])
    assert last(await graph.ainvoke({"messages": "hello"})) == "You said: hello"
