"""A call is one run in every trace, and its planning call is a run inside it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import RunnableLambda
from langchain_core.tracers import BaseTracer
from langchain_openai import ChatOpenAI

from tests.fake_provider import FakeProvider, hang_before_headers, server_error
from tests.langchain.asking import ANSWER, MODES, AsyncRuns, Runs, around, ask
from tests.sdk.regulated import PLAN, PLANNED_TEMPERATURE, chat, is_plan, planning, plans, record


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with FakeProvider(reply=planning()) as running:
        yield running


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("make", [chat, around])
async def test_one_root_with_the_plan_inside(provider: FakeProvider, make: Any, mode: str) -> None:
    llm, runs = make(provider), Runs()
    message = await ask(llm, mode, config={"callbacks": [runs], "tags": ["mine"], "metadata": {"user": "u1"}})
    assert message.text == ANSWER
    (root,) = runs.roots
    (plan,) = runs.inside(root)
    assert len(runs.all) == 2
    assert root.parent is None
    assert plan.name == "selfreg plan"
    assert {"nostream", "mine"} <= set(plan.tags)
    assert (plan.metadata["lc_source"], plan.metadata["user"]) == ("selfreg_plan", "u1")
    assert plan.message.text == PLAN.to_json()
    assert plan.tokens == []
    assert "".join(token for token in root.tokens if isinstance(token, str)) in ("", ANSWER)
    assert "nostream" not in root.tags
    assert "lc_source" not in root.metadata

    again = Runs()
    await ask(llm, mode, config={"callbacks": [again]})
    assert len(again.all) == 1, "a stored plan is no run"


@pytest.mark.parametrize("mode", MODES)
async def test_inside_a_chain_the_root_is_the_chain(provider: FakeProvider, mode: str) -> None:
    runs = Runs()
    llm = chat(provider)

    async def step(text: str) -> str:
        return (await ask(llm, mode, text)).text

    asked = RunnableLambda(step)
    await asked.ainvoke("hello", {"callbacks": [runs]})
    (answer,) = runs.roots
    assert answer.parent is not None
    assert [run.name for run in runs.inside(answer)] == ["selfreg plan"]


@pytest.mark.parametrize("mode", MODES)
async def test_a_models_own_listeners_hear_of_its_plans(provider: FakeProvider, mode: str) -> None:
    runs = Runs()
    await ask(chat(provider, callbacks=[runs]), mode)
    assert sorted(str(run.name) for run in runs.all.values()) in (
        ["None", "selfreg plan"],
        ["ChatSelfReg", "selfreg plan"],
    )


@pytest.mark.parametrize("mode", ["ainvoke", "astream", "abatch", "aevents v3"])
async def test_listeners_that_are_coroutines(provider: FakeProvider, mode: str) -> None:
    heard = AsyncRuns()
    await ask(chat(provider), mode, config={"callbacks": [heard]})
    (root,) = heard.runs.roots
    assert [run.message.text for run in heard.runs.inside(root)] == [PLAN.to_json()]


class Tree(BaseTracer):
    """Keeps the finished trees, as tracers that send them somewhere do."""

    def __init__(self) -> None:
        super().__init__()
        self.trees: list[Any] = []

    def _persist_run(self, run: Any) -> None:
        self.trees.append(run)


@pytest.mark.parametrize("mode", MODES)
async def test_tracers_get_one_tree(provider: FakeProvider, mode: str) -> None:
    tracer = Tree()
    await ask(chat(provider), mode, config={"callbacks": [tracer]})
    (tree,) = tracer.trees
    (plan,) = tree.child_runs
    assert (tree.run_type, plan.run_type, plan.name) == ("llm", "llm", "selfreg plan") or tree.run_type == "chat_model"
    assert plan.dotted_order.startswith(tree.dotted_order)
    assert plan.end_time <= tree.end_time


async def test_the_id_of_a_run_is_the_callers(provider: FakeProvider) -> None:

    for mode in ("invoke", "stream", "astream", "aevents v3"):
        runs, wanted = Runs(), uuid4()
        await ask(chat(provider), mode, config={"callbacks": [runs], "run_id": wanted, "run_name": "asked"})
        assert [(run.id, run.name) for run in runs.roots] == [(wanted, "asked")]


@pytest.mark.parametrize("mode", MODES)
async def test_a_failed_plan_is_a_failed_run_and_the_answer_comes(provider: FakeProvider, mode: str) -> None:
    provider.script(server_error())
    runs = Runs()
    message = await ask(chat(provider), mode, config={"callbacks": [runs]})
    (root,) = runs.roots
    (plan,) = runs.inside(root)
    assert message.text == ANSWER
    assert "500" in str(plan.error)
    assert root.error is None
    assert "500" in record(message)["plan_problem"]


async def test_a_reply_without_a_plan_ends_its_run_and_says_so(provider: FakeProvider) -> None:
    provider.reply = planning(plan="I would rather write a poem.")
    runs = Runs()
    await ask(chat(provider), "ainvoke", config={"callbacks": [runs]})
    (plan,) = runs.inside(runs.roots[0])
    assert plan.message.usage_metadata["output_tokens"] > 0, "it was billed, so it counts"
    assert plan.message.response_metadata["selfreg_plan"]["problem"] == "the planner's reply holds no plan"
    assert "poem" not in str(plan.result)


async def test_a_cancelled_plan_ends_its_run(provider: FakeProvider) -> None:
    provider.script(hang_before_headers())
    runs = Runs()
    task = asyncio.create_task(chat(provider).ainvoke("hello", {"callbacks": [runs]}))
    assert await asyncio.to_thread(provider.wait_until, lambda p: len(p.requests) == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    (plan,) = runs.inside(runs.roots[0])  # what becomes of the root's run is LangChain's
    assert isinstance(plan.error, asyncio.CancelledError)


@pytest.mark.parametrize("kind", ["id", "chat model", "regulated model"])
async def test_whoever_plans_is_named(provider: FakeProvider, kind: str) -> None:
    with FakeProvider(reply=planning()) as other:
        inner = ChatOpenAI(model="planner", base_url=other.base_url, api_key="sk-test", http_socket_options=())  # type: ignore[arg-type]
        planner: dict[str, str | BaseChatModel] = {
            "id": "planner",
            "chat model": inner,
            "regulated model": chat(other, model="planner", planner="off"),
        }
        runs = Runs()
        await ask(chat(provider, planner=planner[kind]), "ainvoke", config={"callbacks": [runs]})
        assert len(plans(other)) == (kind != "id")
    (plan,) = runs.inside(runs.roots[0])
    assert plan.metadata["ls_model_name"] == "planner"
    assert plan.metadata["ls_provider"] == ("openai" if kind == "chat model" else "selfreg")
    assert plan.params["model"] == "planner"
    assert len(runs.all) == 2


async def test_what_is_inherited_from_the_answers_run_is_not_its_settings(provider: FakeProvider) -> None:
    runs = Runs()
    await ask(chat(provider, temperature=0.4), "astream", config={"callbacks": [runs]})
    (plan,) = runs.inside(runs.roots[0])
    assert runs.roots[0].metadata["ls_temperature"] == 0.4
    assert "ls_temperature" not in plan.metadata


async def test_requests_that_wait_for_a_plan_show_none(provider: FakeProvider) -> None:
    llm, heard = chat(provider, task="triage"), [Runs() for _ in range(8)]
    await asyncio.gather(*(llm.ainvoke("hello", {"callbacks": [runs]}) for runs in heard))
    assert sorted(len(runs.all) for runs in heard) == [1] * 7 + [2]
    assert sum(is_plan(payload) for payload in provider.payloads) == 1
    assert all(payload["temperature"] == PLANNED_TEMPERATURE for payload in provider.payloads if not is_plan(payload))
