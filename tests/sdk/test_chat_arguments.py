"""What cannot work is refused in one line that names it, before anything is sent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from langchain_openai import ChatOpenAI

from selfreg_sdk import BudgetExceeded, ChatSelfReg, ConfigError
from selfreg_sdk.client import Timeouts
from selfreg_sdk.errors import StoreError, UnknownPriceError
from tests.fake_provider import FakeProvider
from tests.sdk.regulated import MODEL, PRICES, chat


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"temprature": 0.1}, "unknown argument 'temprature'; did you mean 'temperature'?"),
        ({"bugdet": "1 USD"}, "unknown argument 'bugdet'; did you mean 'budget'?"),
        ({"zzz": 1}, "unknown argument 'zzz'"),
        ({"temperature": "hot"}, "temperature='hot': Input should be a valid number"),
        ({"temperature": 3}, "temperature=3.0: Input should be less than or equal to 2"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"top_p": 0}, "top_p=0.0"),
        ({"n": 0}, "n=0"),
        ({"reasoning_effort": "extreme"}, "reasoning_effort='extreme'"),
        ({"budget": "-1 USD"}, "'-1 USD' is negative"),
        ({"budget": -1}, "-1 is negative"),
        ({"budget": "2 EUR"}, "'EUR' is not USD"),
        ({"budget": "a lot"}, "'a lot' is not an amount"),
        ({"aggregation": "vote"}, "aggregation 'vote': write 'first'"),
        ({"aggregation": "best of 3"}, "needs a scorer"),
        ({"timeout": 0}, "timeout total=0"),
        ({"timeout": 5, "timeouts": Timeouts()}, "give either timeout=5.0 or timeouts="),
        ({"max_retries": -1}, "attempts=0"),
        ({"base_url": "not a url"}, "'not a url' is not an http"),
        ({"api_key": "line\nbreak"}, "api_key holds characters"),
        ({"model": None}, "model=None: give model="),
        ({"model": "  "}, "model='  '"),
        ({"policy": "static"}, "policy='static'"),
        ({"bounds": {"n": 0}}, "bounds"),
    ],
)
def test_arguments_that_cannot_work(provider: FakeProvider, given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        chat(provider, **given)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("secret", [{"api_key": ["sk-secret-1"]}, {"default_headers": {"x-key": ["sk-secret-1"]}}])
def test_a_secret_of_the_wrong_type_is_not_shown(provider: FakeProvider, secret: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        chat(provider, **secret)
    assert "sk-secret" not in str(caught.value)
    assert next(iter(secret)) in str(caught.value)


def test_the_key_is_in_no_repr(provider: FakeProvider) -> None:
    llm = chat(provider, api_key="sk-secret-1", default_headers={"x-key": "sk-secret-2"})
    llm.invoke("hello")
    shown = f"{llm!r} {llm} {llm.model_dump()} {llm._identifying_params} {llm.explain('hello')}"
    assert "sk-secret" not in shown
    assert provider.requests[-1].headers["authorization"] == "Bearer sk-secret-1"
    assert provider.requests[-1].headers["x-key"] == "sk-secret-2"


def test_a_model_and_an_inner_model_contradict_each_other(provider: FakeProvider) -> None:
    inner = ChatOpenAI(model="gpt-4.1-mini", base_url=provider.base_url, api_key="sk-test")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="either model=<id> or inner="):
        ChatSelfReg(model=MODEL, inner=inner, store=":memory:")


def test_samples_of_the_inner_models_own_would_not_be_counted(provider: FakeProvider) -> None:
    inner = ChatOpenAI(model="gpt-4.1-mini", base_url=provider.base_url, api_key="sk-test", n=3)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="any of 3"):
        ChatSelfReg(inner=inner, store=":memory:")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"temperature": "hot"}, "temperature='hot'"),
        ({"top_p": 7}, "top_p=7"),
        ({"selfreg_aggregation": "mean of 3"}, "aggregation 'mean of 3'"),
        ({"selfreg_task": " "}, "task name ' '"),
        ({"selfreg_task": "a|b"}, "task name 'a|b'"),
        ({"model": "  "}, "model='  '"),
        ({"model": 5}, "model=5"),
        ({"extra_body": {"model": "gpt-5"}}, "model='gpt-5' in extra_body"),
        ({"extra_body": {"max_tokens": -1}}, "max_tokens=-1"),
        ({"logit_bias": {1: float("nan")}}, "JSON"),
    ],
)
def test_arguments_of_a_call_that_cannot_work(provider: FakeProvider, given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        chat(provider, planner="off").invoke("hello", **given)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert provider.requests == []


def test_a_model_without_a_price_is_not_called_under_a_budget(provider: FakeProvider) -> None:
    llm = chat(provider, budget="1 USD")
    with pytest.raises(UnknownPriceError, match=MODEL):
        llm.invoke("hello")
    with pytest.raises(UnknownPriceError, match=MODEL):
        list(llm.stream("hello"))
    assert provider.requests == []


def test_a_prompt_without_a_bound_is_not_sent_under_a_budget(provider: FakeProvider) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    with pytest.raises(ConfigError, match="images"):
        chat(provider, budget="1 USD", prices=PRICES, planner="off").invoke([("user", [image])])
    assert provider.requests == []


def test_what_does_not_fit_the_budget_is_not_sent(provider: FakeProvider) -> None:
    with pytest.raises(BudgetExceeded):
        chat(provider, budget="0.00000001 USD", prices=PRICES).invoke("hello")
    assert provider.requests == []


def test_a_store_that_is_no_database(provider: FakeProvider, tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("shopping list " * 100)
    with pytest.raises(StoreError, match="notes"):
        chat(provider, store=file)
    assert file.read_text().startswith("shopping")
