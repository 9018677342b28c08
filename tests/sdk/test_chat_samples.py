"""Several samples for one answer: in one request, or one by one where the model takes no ``n``."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import pytest
from langchain_core.messages import HumanMessage

from selfreg_sdk import BudgetExceeded, ConfigError
from selfreg_sdk.explanation import Explanation
from tests.fake_billing import count_tokens
from tests.fake_provider import FakeProvider, RejectParam, fewer_choices
from tests.sdk.regulated import Payload, chat, priced, record

FOUR = ["Paris", "Rome", "rome ", "Oslo!"]


def four(payload: Payload) -> list[str]:
    return FOUR


class OneByOne:
    """Another text for every request."""

    def __init__(self, *texts: str) -> None:
        self.texts = iter(texts)

    def __call__(self, payload: Payload) -> str:
        return next(self.texts)


@pytest.mark.parametrize(
    ("aggregation", "scorer", "expected"),
    [
        ("vote of 4", None, "Rome"),
        ("any of 4", None, "Paris"),
        ("any of 4", lambda text: float(text.endswith("!")), "Oslo!"),
        ("best of 4", len, "Paris"),
    ],
)
@pytest.mark.parametrize("mode", ["invoke", "stream"])
def test_how_samples_become_an_answer(
    provider: FakeProvider, aggregation: str, scorer: Any, expected: str, mode: str
) -> None:
    provider.reply = four
    llm = chat(provider, planner="off", aggregation=aggregation, scorer=scorer)
    if mode == "invoke":
        message: Any = llm.invoke("hello")
    else:
        (message,) = list(llm.stream("hello"))
    assert message.text == expected
    assert record(message)["samples"] == 4
    assert [payload["n"] for payload in provider.payloads] == [4]
    assert message.usage_metadata["output_tokens"] == sum(count_tokens(text) for text in FOUR)
    assert message.usage_metadata["output_tokens"] == provider.billed.completion_tokens


def test_a_vote_may_count_ballots_of_its_own(provider: FakeProvider) -> None:
    provider.reply = lambda payload: ["so 4", "thus 5", "hence 5"]
    message = chat(provider, planner="off", aggregation="vote of 3", vote_key=lambda text: text[-1]).invoke("2+3")
    assert message.text == "thus 5"


def test_all_samples_are_generations_the_chosen_one_first(provider: FakeProvider) -> None:
    provider.reply = four
    made = chat(provider, planner="off", aggregation="vote of 4").generate([[HumanMessage("hello")]])
    texts = [generation.text for generation in made.generations[0]]
    assert texts == ["Rome", "rome ", "Paris", "Oslo!"]


def test_fewer_samples_than_asked_for_are_used(provider: FakeProvider) -> None:
    provider.reply = four
    provider.script(fewer_choices(2))
    assert record(chat(provider, planner="off", aggregation="any of 4").invoke("hello"))["samples"] == 2


# -- where the model takes no n ---------------------------------------------------------------------------------------

NO_N = {"model": "deepseek-chat", "planner": "off"}


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_model_without_n_is_asked_several_times(provider: FakeProvider, asynchronous: bool) -> None:
    provider.reply = OneByOne("Rome", "Paris", "Paris")
    llm = chat(provider, aggregation="vote of 3", **NO_N)
    message = asyncio.run(llm.ainvoke("hello")) if asynchronous else llm.invoke("hello")
    assert message.text == "Paris"
    assert len(provider.payloads) == 3
    assert all("n" not in payload for payload in provider.payloads)
    said = record(message)
    assert (said["samples"], said["attempts"]) == (3, 3)
    assert {name: said["ignored"][0][name] for name in ("field", "wanted", "sent")} == {
        "field": "n",
        "wanted": 3,
        "sent": None,
    }
    assert message.usage_metadata is not None
    assert message.usage_metadata["output_tokens"] == provider.billed.completion_tokens


def test_repeated_draws_with_a_seed_are_different_draws(provider: FakeProvider) -> None:
    llm = chat(provider, aggregation="any of 3", seed=7, **NO_N | {"model": "kimi-k2"}, temperature=0.1)
    llm.invoke("hello")
    assert sorted(payload["seed"] for payload in provider.payloads) == [7, 8, 9]


def test_an_endpoint_that_refuses_n_is_asked_several_times_from_then_on(provider: FakeProvider) -> None:
    provider.rules.append(RejectParam(param="n"))
    llm = chat(provider, planner="off", aggregation="any of 3")
    assert record(llm.invoke("hello"))["rejected"] == ["n"]
    assert ["n" in payload for payload in provider.payloads] == [True, False, False, False]
    llm.invoke("hello")
    assert len(provider.payloads) == 7


def test_repeated_samples_are_cached_one_by_one(provider: FakeProvider) -> None:
    provider.reply = OneByOne("one", "two", "three")
    llm = chat(provider, aggregation="any of 3", cache_answers=True, scorer=len, prices=priced("deepseek-chat"), **NO_N)
    first, second = llm.invoke("hello"), llm.invoke("hello")
    assert first.text == second.text == "three"
    assert len(provider.payloads) == 3
    assert record(second)["samples"] == 3
    assert (record(second)["cost_usd"], record(second)["flags"]) == ("0", ["cache"])


def room_for(samples: float, llm_of: Any) -> str:
    """A budget that holds the worst case of so many samples."""
    seen: Explanation = llm_of("1 USD").explain("hello")
    assert seen.worst_case_usd is not None
    return f"{seen.worst_case_usd / 3 * Decimal(samples)} USD"


@pytest.mark.parametrize("asynchronous", [False, True])
def test_when_the_budget_ends_the_samples_that_are_paid_for_are_used(
    provider: FakeProvider, asynchronous: bool
) -> None:
    def llm_of(budget: str) -> Any:
        return chat(
            provider,
            aggregation="vote of 3",
            max_tokens=50,
            budget=budget,
            prices=priced("deepseek-chat"),
            **NO_N,
        )

    llm = llm_of(room_for(1.3, llm_of))
    provider.reply = lambda payload: "word " * 40  # uses its cap, so that a second one fits no more
    message = asyncio.run(llm.ainvoke("hello")) if asynchronous else llm.invoke("hello")
    said = record(message)
    assert said["samples"] < 3
    assert said["flags"] == ["samples_missing: BudgetExceeded"]
    assert provider.billed.calls == said["samples"]
    with pytest.raises(BudgetExceeded):
        llm_of("0.00000001 USD").invoke("hello")


def test_best_needs_a_scorer(provider: FakeProvider) -> None:
    with pytest.raises(ConfigError, match="scorer"):
        chat(provider, aggregation="best of 3")
    with pytest.raises(ConfigError, match="scorer"):
        chat(provider).invoke("hello", selfreg_aggregation="best of 3")
    assert provider.requests == []
