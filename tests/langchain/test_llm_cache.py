"""LangChain's response cache is keyed on what is sent: equal requests share answers, others never do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.globals import set_llm_cache
from langchain_openai import ChatOpenAI

from selfreg_sdk import ChatSelfReg
from tests.fake_provider import FakeProvider
from tests.langchain.asking import Runs, ask
from tests.sdk.regulated import MODEL, ONCE, PRICES, answers, chat, planning, plans, record, wanting

CACHED_MODES = ("invoke", "ainvoke", "batch", "abatch")


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with FakeProvider(reply=planning()) as running:
        yield running


@pytest.fixture
def llm_cache() -> Iterator[InMemoryCache]:
    cache = InMemoryCache()
    set_llm_cache(cache)
    yield cache
    set_llm_cache(None)


def around(provider: FakeProvider, inner: dict[str, Any] | None = None, **given: Any) -> ChatSelfReg:
    usual = {"model": MODEL, "base_url": provider.base_url, "api_key": "sk-test", "http_socket_options": ()}
    return ChatSelfReg(inner=ChatOpenAI(**(usual | (inner or {}))), **({"store": ":memory:", "retry": ONCE} | given))


def asked(provider: FakeProvider, llm: ChatSelfReg, **kwargs: Any) -> int:
    """How many requests a call takes."""
    before = len(provider.payloads)
    llm.invoke("hello", **kwargs)
    return len(provider.payloads) - before


@pytest.mark.usefixtures("llm_cache")
@pytest.mark.parametrize("make", [chat, around])
def test_what_is_sent_is_the_key(provider: FakeProvider, make: Any) -> None:
    llm = make(provider, planner="off")
    assert [asked(provider, llm), asked(provider, llm)] == [1, 0]
    assert [asked(provider, llm, temperature=value) for value in (0.1, 0.1, 0.2)] == [1, 0, 1]
    assert [asked(provider, llm, stop=value) for value in (["a"], ["a"], ["b"])] == [1, 0, 1]
    assert [asked(provider, make(provider, **wanting(top_p=value))) for value in (0.1, 0.1, 0.2)] == [1, 0, 1]
    tool = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}
    assert [asked(provider, llm, tools=value) for value in ([tool], [tool])] == [1, 0]
    # The same parameters, whoever wants them: an argument, a policy, a default, under any name of the task.
    assert asked(provider, make(provider, planner="off", defaults={"top_p": 0.1})) == 0
    assert asked(provider, llm, top_p=0.2) == 0
    assert asked(provider, llm, config={"metadata": {"selfreg_task": "triage"}}) == 0
    with FakeProvider() as elsewhere:
        make(elsewhere, planner="off").invoke("hello")
        assert len(elsewhere.payloads) == 1, "another endpoint is another answer"


@pytest.mark.usefixtures("llm_cache")
def test_how_samples_become_an_answer_is_part_of_the_key(provider: FakeProvider) -> None:
    provider.reply = lambda payload: ["aa", "b", "b"][: payload.get("n", 1)]
    llm = chat(provider, planner="off", scorer=len)
    texts = [llm.invoke("hello", selfreg_aggregation=how).text for how in ("vote of 3", "best of 3", "any of 3")]
    assert texts == ["b", "aa", "aa"]
    assert len(provider.payloads) == 3
    shortest = chat(provider, planner="off", scorer=lambda text: -len(text))
    assert shortest.invoke("hello", selfreg_aggregation="best of 3").text == "b"


@pytest.mark.usefixtures("llm_cache")
def test_plans_that_differ_are_kept_apart_and_equal_ones_are_not(provider: FakeProvider) -> None:
    llm = chat(provider)
    assert asked(provider, llm) == 2, "a plan and an answer"
    assert asked(provider, llm) == 0, "a stored plan and a cached answer"
    assert asked(provider, llm, selfreg_task="verse") == 1, (
        "another task is planned, and its equal plan finds the answer"
    )
    provider.reply = planning(plan='{"family": "maths", "determinism": "exact"}')
    assert asked(provider, llm, selfreg_task="sums") == 2
    assert len({str(payload) for payload in answers(provider)}) == len(answers(provider)) == 2


@pytest.mark.usefixtures("llm_cache")
def test_an_inner_models_own_settings_count(provider: FakeProvider) -> None:
    cold, warm = {"temperature": 0.1}, {"temperature": 0.9}
    assert [asked(provider, around(provider, inner, planner="off")) for inner in (cold, cold, warm)] == [1, 0, 1]


@pytest.mark.parametrize("mode", CACHED_MODES)
@pytest.mark.parametrize("scope", ["global", "instance"])
async def test_a_hit_costs_nothing(provider: FakeProvider, mode: str, scope: str, request: Any) -> None:
    given = {"cache": InMemoryCache()} if scope == "instance" else {}
    if scope == "global":
        request.getfixturevalue("llm_cache")
    llm = chat(provider, prices=PRICES, budget="1 USD", task="triage", **given)
    first = await ask(llm, mode)
    spent, rows = llm.books.meter.status()[0].spent, len(llm.books.meter.ledger())
    runs = Runs()
    second = await ask(llm, mode, config={"callbacks": [runs]})
    assert second.text == first.text
    assert (len(plans(provider)), len(answers(provider)), len(runs.all)) == (1, 1, 1)
    assert (llm.books.meter.status()[0].spent, len(llm.books.meter.ledger())) == (spent, rows)
    said = record(second)
    assert (said["cost_usd"], said["attempts"], said["flags"]) == ("0", 0, ["langchain_cache"])
    assert (said["source"], said["sent"]) == ("cached plan", record(first)["sent"])
    # LangChain's own way with usage of cached answers: the counts stay, the cost is nothing.
    assert second.usage_metadata == {**(first.usage_metadata or {}), "total_cost": 0}
    assert record(await ask(llm, mode))["flags"] == ["langchain_cache"], "what the cache holds was not changed"


@pytest.mark.usefixtures("llm_cache")
def test_a_plan_before_a_hit_is_in_its_record(provider: FakeProvider) -> None:
    chat(provider, prices=PRICES, task="a").invoke("hello")
    message = chat(provider, prices=PRICES, task="b").invoke("hello")
    assert len(answers(provider)) == 1
    said = record(message)
    assert said["cost_usd"] == said["plan_cost_usd"] != "0"


@pytest.mark.usefixtures("llm_cache")
def test_a_model_may_stay_out_of_the_cache(provider: FakeProvider) -> None:
    llm = chat(provider, planner="off", cache=False)
    assert [asked(provider, llm), asked(provider, llm)] == [1, 1]


@pytest.mark.usefixtures("llm_cache")
def test_forms_of_content_are_kept_apart(provider: FakeProvider) -> None:
    plain = chat(provider, planner="off").invoke("hello")
    blocks = chat(provider, planner="off", output_version="v1").invoke("hello")
    assert (plain.content, blocks.content) == ("echo: hello", [{"type": "text", "text": "echo: hello"}])


def test_keys_hold_no_secrets(provider: FakeProvider, llm_cache: InMemoryCache) -> None:
    chat(provider, planner="off", api_key="sk-secret-1", default_headers={"x": "sk-secret-2"}).invoke("hello")
    around(provider, planner="off").invoke("hello")
    assert len(llm_cache._cache) == 2
    assert "sk-" not in str(list(llm_cache._cache))
