"""Around another LangChain model: the real ChatOpenAI over HTTP, and a small integration with field names of its own."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from typing import Any

import openai
import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import FakeMessagesListChatModel
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_openai import ChatOpenAI
from pydantic import Field

from policies import Bounds
from selfreg_sdk import ChatSelfReg
from selfreg_sdk.errors import (
    AuthFailed,
    ConnectFailed,
    ContextLengthExceeded,
    MalformedReply,
    NotFound,
    ParameterRejected,
    ProviderError,
    ProviderTimeout,
    RateLimited,
    ServerFailed,
    TruncatedStream,
)
from selfreg_sdk.vendors import vendor_of_class
from tests.fake_billing import count_tokens, prompt_tokens
from tests.fake_provider import (
    FakeProvider,
    Fault,
    RejectParam,
    closed_before_headers,
    context_length_exceeded,
    delay,
    early_close,
    no_finish_reason,
    rate_limited,
    rejects,
    reset_mid_body,
    server_error,
    status,
    truncated_json,
)
from tests.sdk.regulated import (
    ONCE,
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

MODEL = "gpt-4.1-mini"
ANSWER = "echo: hello"
MODES = ("invoke", "ainvoke", "stream", "astream")


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    """A provider that plans when it is asked to."""
    with FakeProvider(reply=planning()) as running:
        yield running


@pytest.fixture
async def openai_model(provider: FakeProvider) -> AsyncIterator[Any]:
    """Makes ChatOpenAI models on the provider, and closes their connections."""
    made: list[ChatOpenAI] = []

    def make(**given: Any) -> ChatOpenAI:
        # A client of its own: the default ones are kept by URL and timeout for the whole process, and tied to the first
        # event loop. A Timeout object has no hash, so that nothing is kept.
        usual = {"model": MODEL, "base_url": provider.base_url, "api_key": "sk-test", "timeout": openai.Timeout(60)}
        made.append(ChatOpenAI(**(usual | given)))
        return made[-1]

    yield make
    for model in made:
        model.root_client.close()
        await model.root_async_client.close()


def around(inner: BaseChatModel, **given: Any) -> ChatSelfReg:
    usual: dict[str, Any] = {"inner": inner, "store": ":memory:", "retry": ONCE}
    return ChatSelfReg(**(usual | given))


async def ask(llm: BaseChatModel, mode: str, **kwargs: Any) -> AIMessage:
    """One answer; chunks are summed."""
    if mode == "invoke":
        return await asyncio.to_thread(llm.invoke, "hello", **kwargs)
    if mode == "ainvoke":
        return await llm.ainvoke("hello", **kwargs)
    if mode == "stream":
        chunks = await asyncio.to_thread(lambda: list(llm.stream("hello", **kwargs)))
    else:
        chunks = [chunk async for chunk in llm.astream("hello", **kwargs)]
    total = chunks[0]
    for chunk in chunks[1:]:
        total = total + chunk
    return total  # type: ignore[return-value]


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
    message = await ask(around(openai_model(), prices=priced(MODEL)), mode, config={"callbacks": [runs]})
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


# -- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "wanted", "billed"),
    [
        (status(401), AuthFailed, "no"),
        (status(404), NotFound, "no"),
        (rejects("messages"), ProviderError, "no"),
        (context_length_exceeded(), ContextLengthExceeded, "no"),
        (rate_limited(seconds=1), RateLimited, "no"),
        (server_error(), ServerFailed, "no"),
        (server_error(502, well_formed=False), ServerFailed, "unknown"),
    ],
    ids=["401", "404", "400", "context", "429", "500", "502"],
)
@pytest.mark.parametrize("mode", MODES)
async def test_errors_are_typed_and_the_sdk_does_not_retry(
    provider: FakeProvider, openai_model: Any, fault: Fault, wanted: type[ProviderError], billed: str, mode: str
) -> None:
    provider.script(fault)
    inner = openai_model(max_retries=5)
    with pytest.raises(wanted) as caught:
        await ask(around(inner, planner="off"), mode)
    assert caught.value.billed == billed
    assert "sk-test" not in str(caught.value)
    assert len(provider.requests) == 1
    assert inner.max_retries == 5


async def test_what_is_retryable_is_retried_by_us(provider: FakeProvider, openai_model: Any) -> None:
    provider.script(server_error())
    retry = ONCE.__class__(attempts=2, first_wait=0.01)
    assert record(await around(openai_model(), planner="off", retry=retry).ainvoke("hello"))["attempts"] == 2


@pytest.mark.parametrize("mode", ["stream", "astream"])
@pytest.mark.parametrize(
    "fault",
    [no_finish_reason(), early_close(share=0.75), reset_mid_body(share=0.75)],
    ids=["silent end", "closed", "reset"],
)
async def test_a_truncated_stream_is_an_error_with_what_came(
    provider: FakeProvider, openai_model: Any, mode: str, fault: Fault
) -> None:
    provider.reply = lambda payload: "one two three four " * 10
    provider.script(fault)
    with pytest.raises(TruncatedStream) as caught:
        await ask(around(openai_model(stream_usage=False), planner="off"), mode)
    assert caught.value.partial.startswith("one two")
    assert caught.value.billed == "unknown"


@pytest.mark.parametrize("mode", ["invoke", "ainvoke"])
@pytest.mark.parametrize("fault", [truncated_json(), closed_before_headers()], ids=["half a body", "no headers"])
async def test_half_a_reply_is_malformed(provider: FakeProvider, openai_model: Any, mode: str, fault: Fault) -> None:
    provider.script(fault)
    with pytest.raises(MalformedReply) as caught:
        await ask(around(openai_model(), planner="off"), mode)
    assert caught.value.billed == "unknown"


@pytest.mark.parametrize("mode", MODES)
async def test_no_server_is_no_connection(openai_model: Any, mode: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with pytest.raises(ConnectFailed) as caught:
        await ask(around(openai_model(base_url=f"http://127.0.0.1:{port}/v1"), planner="off"), mode)
    assert (caught.value.retryable, caught.value.billed) == (True, "no")


@pytest.mark.parametrize("mode", MODES)
async def test_the_inner_models_timeout_is_ours(provider: FakeProvider, openai_model: Any, mode: str) -> None:
    provider.script(delay(30))
    with pytest.raises(ProviderTimeout) as caught:
        await ask(around(openai_model(timeout=0.3), planner="off"), mode)
    assert caught.value.billed == "unknown"


@pytest.mark.parametrize(
    ("package", "base_url", "rules"),
    [
        ("langchain_openai", None, "openai"),
        ("langchain_openai", "https://api.mistral.ai/v1", "mistral"),
        ("langchain_openai", "http://localhost:8000/v1", None),
        ("langchain_ollama", "http://localhost:11434", "ollama"),
        ("langchain_deepseek", "https://gateway.example/v1", "deepseek"),
        ("somebody_else", None, None),
    ],
)
def test_whose_rules_apply_to_a_class(package: str, base_url: str | None, rules: str | None) -> None:
    kind = type("Chat", (), {"__module__": f"{package}.chat_models"})
    assert vendor_of_class(kind, base_url=base_url).rules == rules


# -- an integration with names of its own -----------------------------------------------------------------------------


class Own(BaseChatModel):
    """A model that keeps what it was called with; it knows two parameters, one under a name of its own."""

    name_of_model: str = Field(default="own-7b", alias="model")
    temperature: float = 0.8
    num_predict: int | None = None
    seen: list[dict[str, Any]] = Field(default_factory=list)
    fails: bool = False

    @property
    def _llm_type(self) -> str:
        return "own"

    def _generate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kw: Any
    ) -> ChatResult:
        self.seen.append({"temperature": self.temperature, "num_predict": self.num_predict, "stop": stop, **kw})
        if self.fails:
            raise KeyError("a mistake of the integration")
        text = planning()({"messages": [{"content": str(message.text)} for message in messages]})
        return ChatResult(generations=[ChatGeneration(message=AIMessage(str(text)))])

    def _stream(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kw: Any
    ) -> Iterator[ChatGenerationChunk]:
        message = self._generate(messages, stop, **kw).generations[0].message
        yield ChatGenerationChunk(message=AIMessageChunk(str(message.text)), generation_info={"finish_reason": "stop"})


TWO_FIELDS = wanting(temperature=0.2, max_tokens=20)


@pytest.mark.parametrize("mode", MODES)
async def test_fields_of_another_name_are_found(mode: str) -> None:
    inner = Own()
    message = await ask(around(inner, **TWO_FIELDS), mode, stop=["END"])
    assert message.text == ANSWER
    assert inner.seen == [{"temperature": 0.2, "num_predict": 20, "stop": ["END"]}]
    assert (inner.temperature, inner.num_predict) == (0.8, None)
    assert record(message)["sent"] == {"temperature": 0.2, "max_tokens": 20, "stop": ["END"]}


def test_it_plans_for_itself_within_its_own_fields() -> None:
    inner = Own()
    message = around(inner).invoke("hello")
    planned, answered = inner.seen
    assert planned == {"temperature": 0.0, "num_predict": 160, "stop": None}
    assert (answered["temperature"], answered["num_predict"]) == (PLANNED_TEMPERATURE, PLANNED_MAX_TOKENS)
    assert record(message)["source"] == "plan"
    assert record(message)["flags"] == ["usage_missing"]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_samples_are_drawn_one_by_one(asynchronous: bool) -> None:
    inner = Own()
    llm = around(inner, planner="off", aggregation="any of 3")
    message = asyncio.run(llm.ainvoke("hello")) if asynchronous else llm.invoke("hello")
    assert len(inner.seen) == 3
    assert all("n" not in call for call in inner.seen)
    assert record(message)["samples"] == 3


def test_an_argument_it_does_not_take_is_dropped_and_remembered() -> None:
    class Strict(Own):
        def _generate(
            self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kw: Any
        ) -> ChatResult:
            if kw:
                raise TypeError(f"Strict.create() got an unexpected keyword argument {next(iter(kw))!r}")
            return super()._generate(messages, stop)

    inner = Strict()
    llm = around(inner, **wanting(temperature=0.2, seed=7, top_p=0.5))
    assert set(record(llm.invoke("hello"))["rejected"]) == {"seed", "top_p"}
    assert record(llm.invoke("hello"))["rejected"] == []
    with pytest.raises(ParameterRejected, match="seed"):
        llm.invoke("hello", seed=1)


def test_a_message_the_inner_model_hands_out_again_is_not_written_on() -> None:
    usage = {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5}
    again = AIMessage("hi", usage_metadata=usage)  # type: ignore[arg-type]
    llm = around(FakeMessagesListChatModel(responses=[again]), planner="off", task="greet")
    assert [llm.invoke("hello").usage_metadata for _ in range(2)] == [usage, usage]
    assert again.usage_metadata == usage
    assert again.response_metadata == {}


def test_a_mistake_of_the_integration_keeps_its_name() -> None:
    with pytest.raises(KeyError, match="a mistake"):
        around(Own(fails=True), planner="off").invoke("hello")


def test_its_record_is_json_and_its_identity_is_the_inner_models() -> None:
    llm = around(Own(), bounds=Bounds(max_tokens=9))
    assert json.dumps(record(llm.invoke("hello")))
    assert llm._llm_type == "own"
    assert llm._identifying_params["inner"] == Own()._identifying_params
