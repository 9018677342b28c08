"""What would be sent, why, and at most at what cost: without any network, and true afterwards."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from policies import Bounds
from selfreg_sdk.errors import ConfigError, UnknownPriceError
from tests.fake_provider import FakeProvider
from tests.sdk.regulated import (
    MODEL,
    PRICES,
    answers,
    chat,
    planning,
    plans,
    priced,
    record,
    wanting,
)

USER = [{"role": "user", "content": "hello"}]


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    """A provider that plans when it is asked to."""
    with FakeProvider(reply=planning()) as running:
        yield running


def test_nothing_is_sent_and_nothing_is_booked(provider: FakeProvider) -> None:
    llm = chat(provider, prices=PRICES, budget="1 USD")
    first, again = llm.explain("hello"), llm.explain("hello")
    assert first == again
    assert provider.requests == []
    assert provider.connections_made == 0


@pytest.mark.parametrize("call", [{}, {"temperature": 0.1}, {"max_tokens": 5, "stop": ["END"]}, {"selfreg_task": "x"}])
def test_with_a_stored_plan_it_is_what_is_then_sent(provider: FakeProvider, call: dict[str, Any]) -> None:
    llm = chat(provider, prices=PRICES)
    llm.invoke("hello", **call)
    expected = llm.explain("hello", **call)
    said = record(llm.invoke("hello", **call))
    assert expected.payload == answers(provider)[-1]
    assert expected.decision == {name: said[name] for name in expected.decision}
    assert not expected.would_plan
    assert expected.plan_worst_case_usd == 0


def test_a_task_in_the_config_is_that_of_invoke(provider: FakeProvider) -> None:
    config: Any = {"metadata": {"selfreg_task": "triage", "selfreg_aggregation": "any of 2"}}
    llm = chat(provider)
    said = record(llm.invoke("hello", config))
    assert llm.explain("hello", config).decision["task"] == said["task"] == f"triage|{MODEL}|any of 2"


def test_before_the_plan_it_shows_what_a_failed_one_leads_to(provider: FakeProvider) -> None:
    llm = chat(provider, prices=PRICES, defaults={"temperature": 0.6})
    before = llm.explain("hello")
    assert before.would_plan
    assert before.decision["source"] == "default"
    assert before.payload == {"model": MODEL, "messages": USER, "temperature": 0.6}
    assert before.plan_worst_case_usd is not None
    assert before.plan_worst_case_usd > 0
    provider.reply = planning(plan="no")
    assert record(llm.invoke("hello"))["sent"] == before.decision["sent"]


@pytest.mark.parametrize("without", [{"planner": "off"}, {"task": "triage"}])
def test_would_plan_is_false_where_no_plan_would_be_made(provider: FakeProvider, without: dict[str, Any]) -> None:
    llm = chat(provider, **without)
    if "task" in without:
        llm.invoke("another prompt of the task")
    assert not llm.explain("hello").would_plan


def test_requests_with_tools_are_not_planned(provider: FakeProvider) -> None:
    assert not chat(provider).explain("hello", tools=[{"type": "function"}]).would_plan


@pytest.mark.parametrize(
    "given",
    [
        {"max_tokens": 1},
        {"max_tokens": 400},
        {"max_tokens": 7, "aggregation": "vote of 4"},
        {"max_tokens": 7, "aggregation": "vote of 4", "model": "deepseek-chat"},
    ],
    ids=["short", "long", "samples at once", "samples one by one"],
)
@pytest.mark.parametrize("prompt", ["hello", "ümläut 🦊 " * 50, "x" * 3000])
def test_the_bill_is_never_above_the_worst_case(provider: FakeProvider, given: dict[str, Any], prompt: str) -> None:
    provider.reply = planning(lambda payload: "long answer " * 200)
    llm = chat(provider, prices=priced(given.get("model", MODEL)), **given)
    before = llm.explain(prompt)
    said = record(llm.invoke(prompt))
    assert before.worst_case_usd is not None
    assert before.plan_worst_case_usd is not None
    plan_bill = Decimal(said["plan_cost_usd"])
    assert Decimal(0) < plan_bill <= before.plan_worst_case_usd
    assert Decimal(0) < provider.billed.usd - plan_bill <= before.worst_case_usd
    assert before.price_source == "override"


def test_samples_one_by_one_cost_as_many_worst_cases(provider: FakeProvider) -> None:
    def worst(samples: str) -> Decimal:
        llm = chat(provider, model="deepseek-chat", prices=priced("deepseek-chat"), max_tokens=7, planner="off")
        found = llm.explain("hello", selfreg_aggregation=samples).worst_case_usd
        assert found is not None
        return found

    assert worst("vote of 4") == 4 * worst("first")


def test_without_price_or_token_cap_there_is_no_worst_case(provider: FakeProvider) -> None:
    assert chat(provider, max_tokens=5, planner="off").explain("hello").worst_case_usd is None
    uncapped = chat(provider, prices=PRICES, planner="off").explain("hello")
    assert (uncapped.worst_case_usd, uncapped.price_source) == (None, "override")


def test_a_budget_gives_every_request_a_token_cap(provider: FakeProvider) -> None:
    llm = chat(provider, prices=PRICES, planner="off", budget="1 USD", bounds=Bounds(max_tokens=300))
    assert llm.explain("hello").payload["max_tokens"] == 300


def test_money_that_is_left_shortens_the_answer_and_says_so(provider: FakeProvider) -> None:
    given = {"prices": PRICES, "budget": "0.0005 USD", **wanting(max_tokens=4000)}
    llm = chat(provider, **given)
    before = llm.explain("hello")
    (change,) = before.decision["ignored"]
    assert (change["field"], change["wanted"], change["why"]) == ("max_tokens", 4000, "budget")
    assert before.worst_case_usd is not None
    assert before.worst_case_usd <= Decimal("0.0005")
    llm.invoke("hello")
    assert provider.payloads == [before.payload]


def test_an_unknown_price_under_a_cap_is_an_error_here_too(provider: FakeProvider) -> None:
    with pytest.raises(UnknownPriceError, match=MODEL):
        chat(provider, budget="1 USD").explain("hello")


def test_what_could_not_be_sent_cannot_be_explained(provider: FakeProvider) -> None:
    with pytest.raises(ConfigError, match="hot"):
        chat(provider).explain("hello", temperature="hot")


def test_it_is_json_and_names_its_sources(provider: FakeProvider) -> None:
    found = chat(provider, model="gpt-5-mini", prices=priced("gpt-5-mini"), max_tokens=9).explain("hello")
    told = json.loads(json.dumps(found.as_dict()))
    assert told["capability_sources"] == ["protocol", "rule:gpt-5"]
    assert told["payload"]["max_completion_tokens"] == 9
    assert Decimal(told["worst_case_usd"]) == found.worst_case_usd
    assert Decimal(told["plan_worst_case_usd"]) == found.plan_worst_case_usd
    assert told["would_plan"] is True


def test_a_model_of_ones_own_reads_nothing_from_the_network(provider: FakeProvider) -> None:
    provider.close()
    assert chat(provider).explain("hello").would_plan
    assert plans(provider) == []
