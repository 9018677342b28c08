"""Around another LangChain model: the real ChatOpenAI over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler

from selfreg_sdk.errors import ParameterRejected
from tests.fake_billing import count_tokens, prompt_tokens
from tests.fake_provider import FakeProvider, RejectParam
from tests.sdk.around import ANSWER, MODEL, MODES, around, ask
from tests.sdk.regulated import (
    PLANNED_MAX_TOKENS,
    PLANNED_TEMPERATURE,
    PLANNED_TOP_P,
    answers,
    planning,
    plans,
    priced,
    record,
    wanting,
)


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    """A provider that plans when it is asked to."""
    with FakeProvider(reply=planning()) as running:
        yield running


# -- parameters -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
async def test_the_plan_reaches_the_wire_and_the_users_object_stays(
    provider: FakeProvider, openai_model: Any, mode: str
) -> None:
    inner = openai_model(temperature=0.9, max_tokens=7, seed=3)
    before, clients = repr(inner.model_dump()), (inner.root_client, inner.client, inner.root_async_client)
    message = await ask(around(inner), mode)
    assert message.text == ANSWER
    assert len(plans(provider)) == 1
    (payload,) = answers(provider)
    assert {name: payload[name] for name in ("temperature", "top_p", "max_completion_tokens", "seed")} == {
        "temperature": PLANNED_TEMPERATURE,
        "top_p": PLANNED_TOP_P,
        "max_completion_tokens": PLANNED_MAX_TOKENS,
        "seed": 3,
    }
    assert repr(inner.model_dump()) == before
    assert (inner.root_client, inner.client, inner.root_async_client) == clients
    assert record(message)["source"] == "plan"


@pytest.mark.parametrize("mode", MODES)
async def test_arguments_of_the_regulated_model_win(provider: FakeProvider, openai_model: Any, mode: str) -> None:
    llm = around(openai_model(temperature=0.9), temperature=0.1, top_p=0.2)
    await ask(llm, mode, temperature=0.0, stop=["END"])
    (payload,) = answers(provider)
    assert (payload["temperature"], payload["top_p"], payload["stop"]) == (0.0, 0.2, ["END"])


async def test_where_nobody_decides_the_inner_models_own_settings_hold(
    provider: FakeProvider, openai_model: Any
) -> None:
    await around(openai_model(temperature=0.9, max_tokens=7), planner="off").ainvoke("hello")
    (payload,) = provider.payloads
    assert (payload["temperature"], payload["max_completion_tokens"]) == (0.9, 7)


async def test_what_the_protocol_does_not_name_travels_in_extra_body(provider: FakeProvider, openai_model: Any) -> None:
    inner = openai_model(model="gemini-2.5-pro", extra_body={"own": 1, "top_k": 9})
    llm = around(inner, **wanting(top_k=40, temperature=0.3))
    llm.invoke("hello")
    llm.invoke("hello", extra_body={"theirs": 2})
    llm.invoke("hello", extra_body={"top_k": 5})
    shown = [{name: payload.get(name) for name in ("own", "theirs", "top_k")} for payload in provider.payloads]
    assert shown == [
        {"own": 1, "theirs": None, "top_k": 40},
        {"own": None, "theirs": 2, "top_k": 40},
        {"own": 1, "theirs": None, "top_k": 5},
    ]


async def test_tools_reach_the_inner_model_and_are_not_planned(provider: FakeProvider, openai_model: Any) -> None:
    tool = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}
    await around(openai_model()).ainvoke("hello", tools=[tool], tool_choice="auto", parallel_tool_calls=False)
    (payload,) = provider.payloads
    assert payload["tools"] == [tool]
    assert payload["tool_choice"] == "auto"
    assert payload["parallel_tool_calls"] is False


async def test_a_refused_field_is_dropped_and_remembered(provider: FakeProvider, openai_model: Any) -> None:
    provider.rules.append(RejectParam(param="top_p"))
    llm = around(openai_model())
    first, second = await llm.ainvoke("hello"), llm.invoke("hello")
    assert [record(message)["rejected"] for message in (first, second)] == [["top_p"], []]
    assert [("top_p" in payload) for payload in answers(provider)] == [True, False, False]


async def test_a_refused_argument_of_the_caller_is_the_callers_to_change(
    provider: FakeProvider, openai_model: Any
) -> None:
    provider.rules.append(RejectParam(param="top_p"))
    with pytest.raises(ParameterRejected) as caught:
        await around(openai_model()).ainvoke("hello", top_p=0.3)
    assert caught.value.param == "top_p"


# -- one run, usage once ----------------------------------------------------------------------------------------------


class Runs(BaseCallbackHandler):
    def __init__(self) -> None:
        self.started = 0
        self.tokens: list[str] = []
        self.usage: list[Any] = []

    def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None:
        self.started += 1

    def on_llm_new_token(self, token: str, **kwargs: Any) -> None:
        self.tokens.append(token)

    def on_llm_end(self, response: Any, **kwargs: Any) -> None:
        self.usage.append(response.generations[0][0].message.usage_metadata)


@pytest.mark.parametrize("mode", MODES)
async def test_a_call_is_one_run_and_usage_is_counted_once(
    provider: FakeProvider, openai_model: Any, mode: str
) -> None:
    runs = Runs()
    message = await ask(around(openai_model(), planner="off", prices=priced(MODEL)), mode, config={"callbacks": [runs]})
    (payload,) = answers(provider)
    assert message.usage_metadata is not None
    assert message.usage_metadata["input_tokens"] == prompt_tokens(payload)
    assert message.usage_metadata["output_tokens"] == count_tokens(ANSWER)
    assert runs.started == 1
    assert [usage["total_tokens"] for usage in runs.usage] == [message.usage_metadata["total_tokens"]]
    assert "".join(runs.tokens) == (ANSWER if "stream" in mode else "")
    assert Decimal(record(message)["cost_usd"]) == provider.billed.usd
    assert record(message)["flags"] == []


async def test_streams_carry_usage_on_one_chunk_and_end_with_the_record(
    provider: FakeProvider, openai_model: Any
) -> None:
    chunks = list(around(openai_model()).stream("hello"))
    assert sum(chunk.usage_metadata is not None for chunk in chunks) == 1
    assert chunks[-1].response_metadata["selfreg"]["source"] == "plan"
    assert answers(provider)[0]["stream_options"] == {"include_usage": True}


async def test_an_owner_who_wants_no_usage_in_streams_gets_none(provider: FakeProvider, openai_model: Any) -> None:
    chunks = list(around(openai_model(stream_usage=False), planner="off").stream("hello"))
    assert "stream_options" not in provider.payloads[0]
    assert chunks[-1].response_metadata["selfreg"]["flags"] == ["usage_missing"]


async def test_a_second_planner_model_is_priced_and_reached_as_itself(
    provider: FakeProvider, openai_model: Any
) -> None:
    llm = around(openai_model(), planner=openai_model(model="gpt-4.1-nano"), prices=priced(MODEL, "gpt-4.1-nano"))
    message = await llm.ainvoke("hello")
    assert [payload["model"] for payload in provider.payloads] == ["gpt-4.1-nano", MODEL]
    assert Decimal(record(message)["cost_usd"]) == provider.billed.usd


# -- samples ----------------------------------------------------------------------------------------------------------


async def test_samples_come_from_one_request_where_the_model_takes_n(provider: FakeProvider, openai_model: Any) -> None:
    provider.reply = lambda payload: ["Paris", "Rome", "Rome"]
    message = await around(openai_model(), planner="off", aggregation="vote of 3").ainvoke("hello")
    assert message.text == "Rome"
    assert [payload["n"] for payload in provider.payloads] == [3]
    assert message.usage_metadata is not None
    assert message.usage_metadata["output_tokens"] == provider.billed.completion_tokens


async def test_a_cached_answer_comes_back_as_it_was(provider: FakeProvider, openai_model: Any) -> None:
    llm = around(openai_model(), cache_answers=True, prices=priced(MODEL))
    first = llm.invoke("hello")
    sent = len(provider.payloads)
    for second in (llm.invoke("hello"), await llm.ainvoke("hello")):
        assert second.text == first.text
        assert (record(second)["cost_usd"], record(second)["flags"]) == ("0", ["cache"])
    assert len(provider.payloads) == sent
