"""`regulate`: the provider's class with calls that regulate themselves; over the real ChatOpenAI and HTTP."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import FakeListChatModel, FakeMessagesListChatModel
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.runnables import ConfigurableField
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langchain_openai.chat_models.base import BaseChatOpenAI
from pydantic import BaseModel

from selfreg_sdk import BudgetExceeded, ChatSelfReg, ConfigError
from selfreg_sdk.langchain.regulate import regulate
from tests.fake_billing import count_tokens, prompt_tokens
from tests.fake_provider import FakeProvider, RejectParam
from tests.sdk.around import ask
from tests.sdk.regulated import ONCE, PLANNED_TEMPERATURE, answers, planning, plans, priced, record, wanting

MODEL = "gpt-4.1-mini"
ANSWER = "echo: hello"
MODES = ("invoke", "ainvoke", "stream", "astream")
QUIET: dict[str, Any] = {"store": ":memory:", "planner": "off"}


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    """A provider that plans when it is asked to."""
    with FakeProvider(reply=planning()) as running:
        yield running


# -- the class --------------------------------------------------------------------------------------------------------


async def test_it_stays_an_instance_of_its_class_with_a_name_that_tells(openai_model: Any) -> None:
    plain = openai_model(temperature=0.4)
    llm = regulate(plain, store=":memory:")
    assert isinstance(llm, ChatOpenAI)
    assert isinstance(llm, BaseChatOpenAI)
    assert type(llm).__name__ == "RegulatedChatOpenAI"
    assert repr(llm).startswith("RegulatedChatOpenAI(")
    assert type(regulate(openai_model(), store=":memory:")) is type(llm)
    assert set(type(llm).model_fields) == set(ChatOpenAI.model_fields)
    assert llm.temperature == 0.4
    assert llm._llm_type == plain._llm_type
    assert llm._get_ls_params()["ls_provider"] == plain._get_ls_params()["ls_provider"]
    assert type(llm).__module__ == ChatOpenAI.__module__


async def test_the_original_is_not_changed(provider: FakeProvider, openai_model: Any) -> None:
    plain = openai_model(temperature=0.9, max_retries=5)
    before, clients = repr(plain.model_dump()), (plain.root_client, plain.client, plain.root_async_client)
    await regulate(plain, store=":memory:").ainvoke("hello")
    assert repr(plain.model_dump()) == before
    assert (plain.root_client, plain.client, plain.root_async_client) == clients
    assert type(plain) is ChatOpenAI
    assert "selfreg" not in (await plain.ainvoke("hello")).response_metadata


def test_a_model_of_the_class_itself_regulates_with_the_usual_options(provider: FakeProvider) -> None:
    kind = type(regulate(FakeListChatModel(responses=["hi"]), store=":memory:"))
    assert record(kind(responses=["one"]).invoke("hello"))["source"] == "default"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: regulate(regulate(FakeListChatModel(responses=["hi"]), **QUIET)), "regulates itself already"),
        (lambda: regulate(ChatSelfReg(model="m", base_url="http://127.0.0.1:9/v1", **QUIET)), "regulates itself"),
        (lambda: regulate("gpt-4.1-mini"), "'gpt-4.1-mini' is no chat model"),
        (lambda: regulate(FakeListChatModel(responses=["hi"]), buget="1 USD"), "did you mean 'budget'"),
        (lambda: regulate(FakeListChatModel(responses=["hi"]), base_url="http://x/v1"), "belongs to the provider"),
        (lambda: regulate(FakeListChatModel(responses=["hi"]), store=":memory:", aggregation="best of 3"), "scorer"),
    ],
    ids=["twice", "ChatSelfReg", "no model", "misspelled", "of the provider", "no scorer"],
)
def test_what_cannot_work_is_said_at_once(make: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make()


# -- its calls --------------------------------------------------------------------------------------------------------


class Runs(BaseCallbackHandler):
    """Every run as (name, name of the run it is in), in the order of their starts; and the usage of each."""

    def __init__(self) -> None:
        self.started: list[tuple[str, str | None]] = []
        self.usage: list[int] = []
        self._names: dict[Any, str] = {}

    def on_chat_model_start(self, serialized: Any, *args: Any, **kwargs: Any) -> None:
        self._names[kwargs["run_id"]] = name = kwargs.get("name") or serialized["name"]
        self.started.append((name, self._names.get(kwargs["parent_run_id"])))

    def on_llm_end(self, response: Any, **kwargs: Any) -> None:
        self.usage.append(response.generations[0][0].message.usage_metadata["total_tokens"])


@pytest.mark.parametrize("mode", MODES)
async def test_a_call_is_planned_and_every_run_counts_once(
    provider: FakeProvider, openai_model: Any, mode: str
) -> None:
    llm = regulate(openai_model(temperature=0.9), store=":memory:", retry=ONCE, prices=priced(MODEL))
    runs = [Runs(), Runs()]
    first, second = [
        await ask(llm, mode, config={"callbacks": [run], "metadata": {"selfreg_task": "greet"}}) for run in runs
    ]
    assert [message.text for message in (first, second)] == [ANSWER] * 2
    assert [record(message)["source"] for message in (first, second)] == ["plan", "cached plan"]
    assert record(first)["task"] == f"greet|{MODEL}|first"
    assert len(plans(provider)) == 1
    sent = answers(provider)[-1]
    assert sent["temperature"] == PLANNED_TEMPERATURE
    assert second.usage_metadata is not None
    assert second.usage_metadata["input_tokens"] == prompt_tokens(sent)
    assert second.usage_metadata["output_tokens"] == count_tokens(ANSWER)
    assert runs[0].started == [("RegulatedChatOpenAI", None), ("selfreg plan", "RegulatedChatOpenAI")]
    assert runs[1].started == [("RegulatedChatOpenAI", None)]
    assert sum(sum(run.usage) for run in runs) == provider.billed.prompt_tokens + provider.billed.completion_tokens
    assert sum(Decimal(record(message)["cost_usd"]) for message in (first, second)) == provider.billed.usd


@pytest.mark.parametrize("mode", MODES)
async def test_arguments_of_a_call_win(provider: FakeProvider, openai_model: Any, mode: str) -> None:
    llm = regulate(openai_model(temperature=0.9), top_p=0.2, store=":memory:")
    await ask(llm, mode, temperature=0.0, stop=["END"])
    (payload,) = answers(provider)
    assert (payload["temperature"], payload["top_p"], payload["stop"]) == (0.0, 0.2, ["END"])


async def test_where_nobody_decides_the_providers_own_fields_hold(provider: FakeProvider, openai_model: Any) -> None:
    llm = regulate(openai_model(temperature=0.9), **QUIET)
    await llm.ainvoke("hello")
    llm.temperature = 0.3
    await llm.ainvoke("hello")
    copied = llm.model_copy(update={"temperature": 0.7, "seed": 4})
    await copied.ainvoke("hello")
    await llm.ainvoke("hello")
    sent = [(payload["temperature"], payload.get("seed")) for payload in provider.payloads]
    assert sent == [(0.9, None), (0.3, None), (0.7, 4), (0.3, None)]


async def test_samples_budget_and_explanation_are_those_of_a_regulated_model(
    provider: FakeProvider, openai_model: Any
) -> None:
    provider.reply = lambda payload: ["Paris", "Rome", "Rome"]
    paid: dict[str, Any] = {"prices": priced(MODEL), "max_tokens": 20, **QUIET}
    llm: Any = regulate(openai_model(), aggregation="vote of 3", budget="0.01 USD", **paid)
    seen = llm.explain("hello", {"metadata": {"selfreg_task": "greet"}})
    assert (seen.payload["n"], seen.decision["task"]) == (3, f"greet|{MODEL}|vote of 3")
    assert provider.payloads == []
    assert llm.invoke("hello").text == "Rome"
    assert [str(budget) for budget in llm.books.budgets.values()] == ["0.01 USD"]
    with pytest.raises(BudgetExceeded):
        regulate(openai_model(), budget="0.0000001 USD", **paid).invoke("hello")
    assert len(provider.payloads) == 1


async def test_a_refused_field_is_dropped_and_remembered(provider: FakeProvider, openai_model: Any) -> None:
    provider.rules.append(RejectParam(param="top_p"))
    llm = regulate(openai_model(), store=":memory:")
    found = [record(await llm.ainvoke("hello"))["rejected"], record(llm.invoke("hello"))["rejected"]]
    assert found == [["top_p"], []]


def test_a_model_that_does_not_stream_answers_in_one_piece() -> None:
    llm = regulate(FakeMessagesListChatModel(responses=[AIMessage("hi")]), **QUIET)
    assert [chunk.text for chunk in llm.stream("hello")] == ["hi"]


# -- what is made of it -----------------------------------------------------------------------------------------------


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


class Answer(BaseModel):
    """An answer."""

    text: str


async def test_tools_and_schemas_are_the_providers_own_and_its_calls_ours(
    provider: FakeProvider, openai_model: Any
) -> None:
    llm = regulate(openai_model(), **wanting(temperature=0.25), store=":memory:")
    await llm.bind_tools([add], strict=True).ainvoke("hello")
    provider.reply = lambda payload: '{"text": "hi"}'
    assert await llm.with_structured_output(Answer).ainvoke("hello") == Answer(text="hi")
    with_tools, with_schema = provider.payloads
    assert with_tools["tools"][0]["function"] | {"strict": True} == with_tools["tools"][0]["function"]
    assert with_schema["response_format"]["json_schema"]["name"] == "Answer"
    assert [payload["temperature"] for payload in (with_tools, with_schema)] == [0.25, 0.25]


async def test_retries_fallbacks_and_bindings_keep_it(provider: FakeProvider, openai_model: Any) -> None:
    llm = regulate(openai_model(), **wanting(temperature=0.25), store=":memory:")
    broken = regulate(openai_model(base_url="http://127.0.0.1:9/v1"), retry=ONCE, **QUIET)
    for made in (llm.with_retry(), broken.with_fallbacks([llm]), llm.bind(seed=3), llm.with_config(tags=["x"])):
        assert record(await made.ainvoke("hello"))["sent"]["temperature"] == 0.25
    assert provider.payloads[2]["seed"] == 3


async def test_configurable_fields_stay_regulated_and_are_explicit(provider: FakeProvider, openai_model: Any) -> None:
    llm = regulate(openai_model(temperature=0.9), store=":memory:", task="greet")
    field = llm.configurable_fields(
        temperature=ConfigurableField(id="warmth"), max_tokens=ConfigurableField(id="length")
    )
    messages = [
        await field.ainvoke("hello"),
        await field.with_config(configurable={"warmth": 0.9}).ainvoke("hello"),
        field.with_config(configurable={"length": 9}).invoke("hello"),
    ]
    sent = [(payload["temperature"], payload["max_completion_tokens"]) for payload in answers(provider)]
    assert sent == [(PLANNED_TEMPERATURE, 192), (0.9, 192), (PLANNED_TEMPERATURE, 9)]
    assert [record(message)["source"] for message in messages] == ["plan", "cached plan", "cached plan"]


async def test_alternatives_are_chosen_by_config(provider: FakeProvider, openai_model: Any) -> None:
    cold, warm = (regulate(openai_model(), **wanting(temperature=heat), store=":memory:") for heat in (0.1, 1.1))
    either = cold.configurable_alternatives(ConfigurableField(id="mood"), default_key="cold", warm=warm)
    await either.ainvoke("hello")
    await either.with_config(configurable={"mood": "warm"}).ainvoke("hello")
    assert [payload["temperature"] for payload in provider.payloads] == [0.1, 1.1]


@pytest.mark.parametrize(
    "copied",
    [copy.copy, copy.deepcopy, lambda llm: pickle.loads(pickle.dumps(llm)), lambda llm: llm.model_copy(deep=True)],
    ids=["copy", "deepcopy", "pickle", "model_copy"],
)
def test_copies_regulate_themselves(copied: Any, tmp_path: Any) -> None:
    llm = regulate(FakeListChatModel(responses=["hi", "there"]), store=tmp_path / "s.db", task="greet", planner="off")
    llm.invoke("hello")
    again: BaseChatModel = copied(llm)
    assert type(again) is type(llm)
    found = record(again.invoke("hello"))
    assert (found["task"].split("|")[0], found["source"]) == ("greet", "default")


def test_it_is_no_json_which_would_bring_back_the_provider_alone() -> None:
    from langchain_core.load import dumpd

    assert dumpd(regulate(FakeListChatModel(responses=["hi"]), **QUIET))["type"] == "not_implemented"


def test_langchains_cache_tells_options_apart() -> None:
    plain = FakeListChatModel(responses=["hi"])
    keys = {regulate(plain, task=task, **QUIET)._get_llm_string() for task in ("a", "b")}
    assert len(keys) == 2
