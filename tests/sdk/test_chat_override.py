"""``model=`` of a single call: another model of the same endpoint, with prices and settings of its own and the same budget."""

from __future__ import annotations

import pytest
from langchain_openai import ChatOpenAI

from selfreg_sdk import BudgetExceeded, ChatSelfReg, ConfigError
from selfreg_sdk.errors import UnknownPriceError
from tests.fake_provider import FakeProvider
from tests.sdk.regulated import MODEL, ONCE, answers, chat, planning, plans, priced, record

OTHER = "other-model"


def test_the_other_model_answers_and_plans_for_a_task_of_its_own(provider: FakeProvider) -> None:
    provider.reply = planning()
    llm = chat(provider, task="triage", temperature=0.3)
    said = [record(llm.invoke("hello", model=name)) for name in (MODEL, OTHER, OTHER)]
    assert [one["task"] for one in said] == [f"triage|{name}|first" for name in (MODEL, OTHER, OTHER)]
    assert [one["source"] for one in said] == ["plan", "plan", "cached plan"]
    assert [payload["model"] for payload in plans(provider)] == [MODEL, OTHER]
    assert [(payload["model"], payload["temperature"]) for payload in answers(provider)] == [
        (MODEL, 0.3),
        (OTHER, 0.3),
        (OTHER, 0.3),
    ]


def test_connections_are_shared(provider: FakeProvider) -> None:
    llm = chat(provider, planner="off")
    for name in (MODEL, OTHER, "third-model"):
        llm.invoke("hello", model=name)
    assert provider.connections_made == 1


def test_the_profile_is_that_of_the_constructors_model_alone(provider: FakeProvider) -> None:
    llm = chat(provider, planner="off", profile={"temperature": False}, temperature=0.2)
    llm.invoke("hello", model=OTHER)
    assert provider.payloads[0]["temperature"] == 0.2


def test_it_needs_a_price_of_its_own(provider: FakeProvider) -> None:
    llm = chat(provider, planner="off", budget="1 USD", prices=priced(MODEL))
    llm.invoke("hello")
    with pytest.raises(UnknownPriceError, match=OTHER):
        llm.invoke("hello", model=OTHER)
    assert len(provider.requests) == 1


def test_all_models_of_a_budget_count_against_it(provider: FakeProvider) -> None:
    llm = chat(provider, planner="off", budget="0.002 USD", prices=priced(MODEL, OTHER), max_tokens=400)

    def is_refused(model: str) -> bool:
        try:
            llm.invoke("tell me a story " * 20, model=model)
        except BudgetExceeded:
            return True
        return False

    assert next(calls for calls in range(100) if is_refused(OTHER)) > 1
    assert is_refused(MODEL)


def test_explain_and_traces_name_it(provider: FakeProvider) -> None:
    llm = chat(provider, planner="off", prices=priced(MODEL, OTHER))
    assert llm.explain("hello", model=OTHER).payload["model"] == OTHER
    assert llm._get_ls_params(model=OTHER).get("ls_model_name") == OTHER
    assert llm._get_ls_params().get("ls_model_name") == MODEL


def test_an_inner_model_is_the_one_it_is(provider: FakeProvider) -> None:
    inner = ChatOpenAI(model=MODEL, base_url=provider.base_url, api_key="sk-test")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"model='other-model': the inner model is 'fake-model'"):
        ChatSelfReg(inner=inner, store=":memory:", retry=ONCE, planner="off").invoke("hello", model=OTHER)
    assert provider.requests == []


def test_traces_tell_what_the_caller_set(provider: FakeProvider) -> None:
    llm = chat(provider, temperature=0.2, max_tokens=9, stop="END")
    assert llm._get_ls_params() == {
        "ls_provider": "selfreg",
        "ls_model_type": "chat",
        "ls_model_name": MODEL,
        "ls_temperature": 0.2,
        "ls_max_tokens": 9,
        "ls_stop": ["END"],
    }
    assert "ls_temperature" not in chat(provider)._get_ls_params()
    assert llm._get_ls_params(temperature=0.7).get("ls_temperature") == 0.7
    inner = ChatOpenAI(model=MODEL, base_url=provider.base_url, api_key="sk-test", temperature=0.9)  # type: ignore[arg-type]
    around = ChatSelfReg(inner=inner, store=":memory:")._get_ls_params()
    assert (around.get("ls_provider"), around.get("ls_model_name")) == ("openai", MODEL)
    assert "ls_temperature" not in around, "a policy may send another one"


def test_short_names_of_langchain(provider: FakeProvider) -> None:
    llm = chat(provider, planner="off", timeout=7, max_retries=4, streaming=True, stop=[])
    assert llm._ready.answering.calls.retry.attempts == 5
    assert llm.invoke("hello").text == "echo: hello"
    assert provider.payloads[0]["stream"] is True
    assert "stop" not in provider.payloads[0]
