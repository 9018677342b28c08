"""`with_selfreg`: chains whose steps regulate themselves, over the real ChatOpenAI and HTTP."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.language_models import FakeListChatModel, FakeListLLM
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import (
    ConfigurableField,
    RouterRunnable,
    Runnable,
    RunnableBranch,
    RunnableLambda,
    RunnableParallel,
    RunnablePassthrough,
    RunnablePick,
)
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

from policies import Plan
from selfreg_sdk import BudgetExceeded, ChatSelfReg, ConfigError
from selfreg_sdk.langchain.regulate import regulate
from selfreg_sdk.langchain.runnables import with_selfreg
from tests.fake_provider import FakeProvider
from tests.sdk.regulated import ONCE, answers, is_plan, plans, priced, record

MODEL, SMALL = "gpt-4.1-mini", "gpt-4.1-nano"
SORT = ChatPromptTemplate.from_messages([("system", "Name the kind of this letter."), ("user", "{letter}")])
WRITE = ChatPromptTemplate.from_messages([("system", "Write a poem about it."), ("user", "{letter}")])
LETTER = {"letter": "hello"}
QUIET: dict[str, Any] = {"store": ":memory:", "planner": "off"}
WORDS = {
    "Name": Plan(family="extraction", determinism="exact", diversity="one", depth="none", length="word"),
    "Write": Plan(family="creative", determinism="open", diversity="many", depth="none", length="page"),
}
HEAT = {"Name": 0.0, "Write": 1.2}


def reply(payload: dict[str, Any]) -> str:
    """Plans by what the step is told to do; answers with the last message."""
    text = str(payload["messages"][-1]["content"])
    if not is_plan(payload):
        return f"echo: {text}"
    return next((plan for start, plan in WORDS.items() if f'"{start} ' in text), WORDS["Name"]).to_json()


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with FakeProvider(reply=reply) as running:
        yield running


def task(message: Any) -> str:
    return record(message)["task"].split("|")[0]


def heats(provider: FakeProvider) -> dict[str, set[float]]:
    """The temperatures that each kind of step was sent with."""
    found: dict[str, set[float]] = {}
    for payload in answers(provider):
        found.setdefault(str(payload["messages"][0]["content"]).split()[0], set()).add(payload["temperature"])
    return found


# -- steps and their configurations -----------------------------------------------------------------------------------


async def test_two_steps_of_a_chain_get_two_configurations_in_every_mode(
    provider: FakeProvider, openai_model: Any
) -> None:
    llm = openai_model(temperature=0.9)
    both = RunnableParallel(kind=SORT | llm | StrOutputParser(), poem=WRITE | llm | StrOutputParser())
    chain = with_selfreg(both, store=":memory:")
    wanted = {"kind": "echo: hello", "poem": "echo: hello"}
    assert chain.invoke(LETTER) == wanted
    assert await chain.ainvoke(LETTER) == wanted
    assert chain.batch([LETTER] * 2) == [wanted] * 2
    assert await chain.abatch([LETTER] * 2) == [wanted] * 2
    pieces = [piece async for piece in chain.astream(LETTER)]
    assert "".join(piece.get("kind", "") for piece in pieces) == "echo: hello"
    assert len(list(chain.stream(LETTER))) > 2
    assert heats(provider) == {word: {heat} for word, heat in HEAT.items()}
    assert len(plans(provider)) == 2
    assert both.invoke(LETTER) == wanted
    assert answers(provider)[-1]["temperature"] == 0.9


async def test_a_steps_name_is_its_task_and_the_nearest_name_counts(openai_model: Any) -> None:
    llm = openai_model()
    named = llm.with_config(run_name="sort")
    chain = RunnableParallel(
        by_model=SORT | named,
        by_chain=(WRITE | llm).with_config(run_name="write | it"),
        nearest=(SORT | named).with_config(run_name="outer"),
        none=SORT | llm,
    ).with_config(run_name="everything")
    found = with_selfreg(chain, **QUIET).invoke(LETTER)
    assert {name: task(message) for name, message in found.items() if name != "none"} == {
        "by_model": "sort",
        "by_chain": "write / it",
        "nearest": "sort",
    }
    assert task(found["none"]).startswith("auto-")


async def test_metadata_names_a_task_before_any_run_name(openai_model: Any) -> None:
    llm = openai_model()
    step = llm.with_config(run_name="sort", metadata={"selfreg_task": "triage"})
    assert task(with_selfreg(SORT | step, **QUIET).invoke(LETTER)) == "triage"
    chain = with_selfreg(SORT | llm.with_config(run_name="sort"), **QUIET)
    assert task(chain.invoke(LETTER, {"metadata": {"selfreg_task": "other"}})) == "other"


async def test_the_name_of_a_run_of_a_bare_model_is_its_task(openai_model: Any) -> None:
    llm = with_selfreg(openai_model(), **QUIET)
    assert isinstance(llm, ChatOpenAI)
    assert task(await llm.ainvoke("hello", {"run_name": "greet"})) == "greet"
    assert task(regulate(openai_model(), **QUIET).invoke("hello", {"run_name": "greet"})).startswith("auto-")


async def test_every_kind_of_runnable_is_looked_into(provider: FakeProvider, openai_model: Any) -> None:
    llm, small = openai_model(), openai_model(SMALL)

    @tool
    def look_up(word: str) -> str:
        """Look a word up."""
        return word

    kinds: dict[str, Runnable[Any, Any]] = {
        "sequence": SORT | llm,
        "assign": RunnablePassthrough.assign(answer=SORT | llm) | RunnablePick("answer"),
        "branch": RunnableBranch((lambda asked: False, RunnableLambda(lambda asked: asked)), SORT | llm),
        "router": RunnableLambda(lambda asked: {"key": "b", "input": asked})
        | RouterRunnable({"a": RunnablePassthrough(), "b": SORT | llm}),
        "each": RunnableLambda(lambda asked: [asked]) | (SORT | llm).map() | RunnableLambda(lambda all_: all_[0]),
        "retry": (SORT | llm).with_retry(),
        "fallbacks": SORT | llm.with_fallbacks([small]),
        "tools": SORT | llm.bind_tools([look_up]),
        "alternatives": SORT | llm.configurable_alternatives(ConfigurableField(id="size"), small=small),
        "fields": SORT | llm.configurable_fields(seed=ConfigurableField(id="seed")),
        "bound": (SORT | llm.bind(seed=3)).with_listeners(),
    }
    for name, chain in kinds.items():
        message = await with_selfreg(chain, temperature=0.25, **QUIET).ainvoke(LETTER)
        assert record(message)["sent"]["temperature"] == 0.25, name
    assert any("tools" in payload for payload in provider.payloads)
    assert any(payload.get("seed") == 3 for payload in provider.payloads)


async def test_alternatives_of_one_step_share_its_name(openai_model: Any) -> None:
    broken = openai_model(base_url="http://127.0.0.1:9/v1", max_retries=0)
    step = broken.with_fallbacks([openai_model(SMALL)]).with_config(run_name="sort")
    message = with_selfreg(SORT | step, retry=ONCE, **QUIET).invoke(LETTER)
    assert record(message)["task"] == f"sort|{SMALL}|first"


# -- one budget, and what cannot be regulated --------------------------------------------------------------------------


async def test_all_steps_spend_from_one_budget_also_in_memory(provider: FakeProvider, openai_model: Any) -> None:
    both = RunnableParallel(a=SORT | openai_model(), b=WRITE | openai_model(SMALL))
    chain = with_selfreg(both, budget="0.001 USD", max_tokens=400, prices=priced(MODEL, SMALL), **QUIET)
    with pytest.raises(BudgetExceeded):  # one fits, two do not
        chain.invoke(LETTER)
    assert len(provider.payloads) == 1


def test_a_chain_without_a_model_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no chat model found in this RunnableSequence.*regulate"):
        with_selfreg(SORT | StrOutputParser())


def test_a_model_that_a_function_calls_is_named() -> None:
    llm = FakeListChatModel(responses=["hi"])

    def answer(asked: Any) -> Any:
        return llm.invoke(asked)

    with pytest.raises(ConfigError, match="calls a FakeListChatModel that with_selfreg cannot replace"):
        with_selfreg(SORT | RunnableLambda(answer), **QUIET)


def test_a_function_may_call_a_regulated_model() -> None:
    llm = regulate(FakeListChatModel(responses=["hi"]), **QUIET)

    def answer(asked: Any) -> Any:
        return llm.invoke(asked)

    assert record(with_selfreg(SORT | RunnableLambda(answer)).invoke(LETTER))["source"] == "default"


def test_what_regulates_itself_already_stays(provider: FakeProvider) -> None:
    llm = ChatSelfReg(model="m", base_url=provider.base_url, **QUIET)
    chain: Any = with_selfreg(SORT | llm)
    assert chain.last is llm


def test_language_models_that_do_not_chat_are_left_alone_and_named(caplog: pytest.LogCaptureFixture) -> None:
    both = RunnableParallel(a=FakeListLLM(responses=["text"]), b=FakeListChatModel(responses=["chat"]))
    with caplog.at_level(logging.WARNING, "selfreg_sdk"):
        found = with_selfreg(both, **QUIET).invoke("hello")
    assert (found["a"], record(found["b"])["source"]) == ("text", "default")
    assert "FakeListLLM" in caplog.text


def test_a_task_for_all_steps_and_unknown_options_are_refused() -> None:
    llm = FakeListChatModel(responses=["hi"])
    with pytest.raises(ConfigError, match="run_name"):
        with_selfreg(SORT | llm, task="triage")
    with pytest.raises(ConfigError, match="did you mean 'budget'"):
        with_selfreg(SORT | llm, bugdet="1 USD")  # type: ignore[call-arg]
