"""Copies of a model, what it takes over from an inner one, and its profile."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.rate_limiters import InMemoryRateLimiter
from langchain_openai import ChatOpenAI

from selfreg_sdk import ChatSelfReg, ConfigError
from tests.competent_server import CompetentServer
from tests.fake_provider import FakeProvider
from tests.langchain.asking import Runs
from tests.sdk.regulated import MODEL, ONCE, PRICES, chat, planning, plans, record


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with FakeProvider(reply=planning()) as running:
        yield running


def openai(provider: FakeProvider, **given: Any) -> ChatOpenAI:
    usual = {"model": MODEL, "base_url": provider.base_url, "api_key": "sk-test", "http_socket_options": ()}
    return ChatOpenAI(**(usual | given))


def around(provider: FakeProvider, inner: dict[str, Any] | None = None, **given: Any) -> ChatSelfReg:
    return ChatSelfReg(inner=openai(provider, **(inner or {})), **({"store": ":memory:", "retry": ONCE} | given))


@pytest.mark.parametrize("make", [chat, around])
def test_copies_share_a_store_in_memory(provider: FakeProvider, make: Any) -> None:
    llm = make(provider, task="triage", budget="1 USD", prices=PRICES)
    llm.invoke("hello")
    for update in ({"callbacks": []}, {"temperature": 0.2}, {"task": "triage"}, {"max_retries": 4}):
        copy = llm.model_copy(update=update)
        assert copy.books.meter is llm.books.meter
        assert record(copy.invoke("hello"))["source"] == "cached plan"
    assert len(plans(provider)) == 1
    assert llm.books.meter.status()[0].spent == provider.billed.usd


def test_a_copy_around_what_an_inner_model_made_of_itself_shares_it_too(provider: FakeProvider) -> None:
    class Copying(ChatOpenAI):
        """Some integrations bind tools to a copy of themselves."""

        def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
            return self.model_copy(update={"metadata": {"bound": True}}).bind(tools=tools, **kwargs)

    inner = Copying(model=MODEL, base_url=provider.base_url, api_key="sk-test", http_socket_options=())  # type: ignore[arg-type]
    llm = ChatSelfReg(inner=inner, store=":memory:", task="triage", budget="1 USD", prices=PRICES)
    llm.invoke("hello")
    tool = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}
    assert record(llm.bind_tools([tool]).invoke("hello"))["source"] == "cached plan"
    assert llm.books.meter.status()[0].spent == provider.billed.usd


def test_another_store_is_another_store(provider: FakeProvider) -> None:
    llm = chat(provider, task="triage")
    llm.invoke("hello")
    assert llm.model_copy(update={"store": ":memory:"}).books.meter is not llm.books.meter


def test_connections_are_shared_where_they_stay_the_same(provider: FakeProvider) -> None:
    llm = chat(provider, planner="off")
    llm.invoke("hello")
    llm.model_copy(update={"temperature": 0.2}).invoke("hello")
    llm.model_copy(update={"callbacks": [Runs()]}).invoke("hello")
    assert provider.connections_made == 1
    with FakeProvider() as elsewhere:
        llm.model_copy(update={"base_url": elsewhere.base_url}).invoke("hello")
        assert len(elsewhere.payloads) == 1


def test_traces_show_the_copy(provider: FakeProvider) -> None:
    llm = chat(provider, planner="off")
    assert llm._serialized
    assert "_serialized" not in llm.model_copy(update={"temperature": 0.2}).__dict__


# -- around an inner model --------------------------------------------------------------------------------------------


def test_what_langchain_does_around_a_model_is_taken_over(provider: FakeProvider) -> None:
    runs, limiter = Runs(), InMemoryRateLimiter()
    inner = {"callbacks": [runs], "tags": ["a"], "metadata": {"m": 1}, "rate_limiter": limiter, "output_version": "v1"}
    llm = around(provider, inner, planner="off", tags=["b"], metadata={"n": 2})
    message = llm.invoke("hello")
    (run,) = runs.all.values()
    assert run.tags == ["a", "b"]
    assert (run.metadata["m"], run.metadata["n"]) == (1, 2)
    assert llm.rate_limiter is limiter
    assert message.content == [{"type": "text", "text": "echo: hello"}]
    assert around(provider, inner, output_version="v0").output_version == "v0", "what is said here wins"


@pytest.mark.parametrize("given", [{"server": "vllm"}, {"base_url": "http://127.0.0.1:9/v1"}, {"transport": "openai"}])
def test_what_is_about_an_endpoint_is_refused(provider: FakeProvider, given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(given))):
        around(provider, **given)


# -- profiles ---------------------------------------------------------------------------------------------------------


def at(model: str, **given: Any) -> ChatSelfReg:
    return ChatSelfReg(model=model, api_key="sk-test", store=":memory:", **given)


def test_a_profile_says_what_is_known_of_the_model() -> None:
    assert at("gpt-4.1").profile == {"temperature": True, "structured_output": True}
    assert at("gpt-5.5").profile == {
        "temperature": False,
        "reasoning_output": True,
        "reasoning_effort_levels": ["none", "low", "medium", "high", "xhigh"],
        "reasoning_effort_default": "medium",
        "structured_output": True,
    }
    assert (at("gpt-5.1").profile or {})["temperature"] is True, "reasoning is off unless asked for"
    assert (at("o3").profile or {})["temperature"] is False


def test_what_nobody_knows_is_not_said(provider: FakeProvider) -> None:
    assert chat(provider).profile is None
    assert around(provider).profile == openai(provider).profile
    assert (chat(provider, server="vllm").profile or {}) == {"temperature": True}


def test_a_given_profile_wins_and_an_inner_models_is_ours(provider: FakeProvider) -> None:
    assert at("gpt-4.1", profile={"temperature": False}).profile == {"temperature": False}
    inner = openai(provider, model="gpt-4.1-mini")
    llm = ChatSelfReg(inner=inner, store=":memory:")
    assert inner.profile
    assert llm.profile == inner.profile
    told = ChatSelfReg(inner=inner, store=":memory:", profile={"temperature": False}, temperature=None)
    assert "temperature" not in told.explain("hello").payload
    silent = inner.model_copy(update={"profile": None})
    assert llm.model_copy(update={"inner": silent}).profile == {"temperature": True, "structured_output": True}


def test_a_copy_for_another_model_has_its_profile() -> None:
    llm = at("gpt-4.1")
    assert (llm.model_copy(update={"model": "o3"}).profile or {})["temperature"] is False
    assert llm.model_copy(update={"model": "o3", "profile": {"temperature": True}}).profile == {"temperature": True}
    given = at("gpt-4.1", profile={"temperature": False})
    assert given.model_copy(update={"temperature": 0.1}).profile == {"temperature": False}


def test_agents_choose_how_to_ask_for_objects_by_the_profile() -> None:
    from langchain.agents import create_agent
    from pydantic import BaseModel

    class Total(BaseModel):
        """A total."""

        total: int

    with CompetentServer() as server:
        for profile, native in (({"structured_output": True}, True), (None, False)):
            agent: Any = create_agent(chat(server, profile=profile, planner="off"), [], response_format=Total)
            agent.invoke({"messages": [("user", "what is 3?")]})
            assert ("response_format" in server.payloads[-1]) is native
