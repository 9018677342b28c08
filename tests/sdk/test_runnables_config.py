"""What a config says of a call: its task, and the stored version to use; in every mode, and behind tools."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableParallel
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

from selfreg_sdk import ChatSelfReg, ConfigError, init_chat_model, regulate, with_selfreg
from selfreg_sdk.runtime import runtime
from selfreg_sdk.store.configs import ConfigRecord
from tests.fake_provider import FakeProvider
from tests.sdk.regulated import PLANNED_TEMPERATURE, answers, planning, record

MODEL = "gpt-4.1-mini"
PROMPT = ChatPromptTemplate.from_template("{letter}")
LETTER = {"letter": "hello"}


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeProvider]:
    """In OpenAI's place, and a provider that plans when it is asked to."""
    with FakeProvider(reply=planning()) as running:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
        monkeypatch.setenv("OPENAI_BASE_URL", running.base_url)
        yield running


@pytest.fixture
def llm(openai_model: Any) -> Any:
    return openai_model(temperature=0.9)


def stored(task: str, **params: Any) -> int:
    """A tuned configuration in the store; production does not point at it."""
    key = f"{task}|{MODEL}|first"
    row = ConfigRecord(
        task_key=key, model=MODEL, aggregation="first", params=params, provenance={"kind": "tuned", "by": "a test"}
    )
    return runtime().configs.add_version(row)


def said(message: Any) -> tuple[str, str, int | None]:
    found = record(message)
    return found["task"].split("|")[0], found["source"], found["config_version"]


@tool
def look_up(word: str) -> str:
    """Look a word up."""
    return word


async def test_a_config_names_task_and_version_in_every_mode(provider: FakeProvider, llm: Any) -> None:
    version = stored("triage", temperature=0.35)
    chain = with_selfreg(PROMPT | llm).with_config(configurable={"selfreg_task": "triage", "selfreg_config": version})
    messages = [chain.invoke(LETTER), *chain.batch([LETTER] * 2)]
    for chunks in (list(chain.stream(LETTER)), [chunk async for chunk in chain.astream(LETTER)]):
        messages.append(sum(chunks[1:], start=chunks[0]))
    assert {said(message) for message in messages} == {("triage", "tuned", version)}
    assert {payload["temperature"] for payload in provider.payloads} == {0.35}


def test_it_stays_in_force_behind_tools_and_formats(provider: FakeProvider, llm: Any) -> None:
    version = stored("triage", temperature=0.35)
    config: Any = {"configurable": {"selfreg_task": "triage", "selfreg_config": version}}
    bound = regulate(llm).bind_tools([look_up])
    for chain in (bound.with_config(config), PROMPT | bound, with_selfreg(PROMPT | llm.bind_tools([look_up]))):
        assert said(chain.invoke(LETTER if chain.get_name() != bound.get_name() else "hello", config))[2] == version
    own = ChatSelfReg(model=MODEL).bind_tools([look_up])
    assert said(own.invoke("hello", config)) == ("triage", "tuned", version)
    assert all(payload["temperature"] == 0.35 and payload["tools"] for payload in provider.payloads)


def test_production_goes_on_beside_a_pinned_version(provider: FakeProvider, llm: Any) -> None:
    version = stored("triage", temperature=0.35)
    chain = with_selfreg(PROMPT | llm)
    usual, pinned = {"selfreg_task": "triage"}, {"selfreg_task": "triage", "selfreg_config": version}
    for configurable in (usual, pinned, usual, pinned):
        chain.invoke(LETTER, {"configurable": configurable})
    sent = [payload["temperature"] for payload in answers(provider)]
    assert sent == [PLANNED_TEMPERATURE, 0.35, PLANNED_TEMPERATURE, 0.35]
    assert "selfreg" not in str(provider.payloads[-1])


def test_the_steps_of_a_chain_are_pinned_by_task(llm: Any) -> None:
    cold, warm = stored("sort", temperature=0.1), stored("reply", temperature=1.1)
    steps = {name: PROMPT | llm.with_config(run_name=name) for name in ("sort", "reply", "check")}
    chain = with_selfreg(RunnableParallel(steps), planner="off")
    found = chain.invoke(LETTER, {"configurable": {"selfreg_config": {"sort": cold, "reply": warm}}})
    assert {name: said(message) for name, message in found.items()} == {
        "sort": ("sort", "tuned", cold),
        "reply": ("reply", "tuned", warm),
        "check": ("check", "default", None),
    }


def test_a_version_of_another_task_and_what_is_no_version_are_refused(provider: FakeProvider, llm: Any) -> None:
    version = stored("triage", temperature=0.35)
    chain = with_selfreg(PROMPT | llm)
    for pinned, why in ((version, "belongs to task 'triage"), (99, "does not exist"), ("3", "give the number")):
        with pytest.raises(ConfigError, match=why):
            chain.invoke(LETTER, {"configurable": {"selfreg_task": "other", "selfreg_config": pinned}})
    assert provider.payloads == []


async def test_a_pinned_version_is_read_once(llm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    version = stored("triage", temperature=0.35)
    chain = with_selfreg(PROMPT | llm)
    config: Any = {"configurable": {"selfreg_task": "triage", "selfreg_config": version}}
    await chain.ainvoke(LETTER, config)
    monkeypatch.setattr("selfreg_sdk.store.configs.Configs.get", None)
    assert said(await chain.ainvoke(LETTER, config))[2] == version


# -- by name ------------------------------------------------------------------------------------------------------------


def test_a_model_by_name_is_its_providers_and_regulated(provider: FakeProvider) -> None:
    made: Any = init_chat_model(f"openai:{MODEL}", temperature=0.4, task="greet", timeout=30, planner="off")
    assert isinstance(made, ChatOpenAI)
    assert (made.request_timeout, made.temperature) == (30, None)
    assert said(made.invoke("hello")) == ("greet", "default", None)
    assert provider.payloads[-1]["temperature"] == 0.4


def test_a_provider_that_nobody_knows_is_langchains_to_refuse() -> None:
    with pytest.raises(ValueError, match="nowhere"):
        init_chat_model("some-model", model_provider="nowhere")
