"""Tools: what is bound, what a model's calls become, and what goes back into the conversation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import openai
import pytest
from langchain_core.language_models import FakeMessagesListChatModel
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableBinding, RunnableLambda
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

from selfreg_sdk import ChatSelfReg, ConfigError
from tests.competent_server import CompetentServer, refused
from tests.fake_provider import FakeProvider
from tests.sdk.regulated import MODEL, ONCE, PRICES, chat, plans, record, wanting

MODES = ("invoke", "ainvoke", "stream", "astream")


@tool
def look_up(word: str, times: int = 1) -> str:
    """Look a word up."""
    return word * times


class Weather(BaseModel):
    """The weather somewhere."""

    place: str


SCHEMA = {"title": "Note", "description": "A note.", "type": "object", "properties": {"text": {"type": "string"}}}
NAMED = {"type": "function", "function": {"name": "Weather"}}


def call(arguments: Any, name: str = "look_up", **more: Any) -> dict[str, Any]:
    return {"id": "call_1", "type": "function", "function": {"name": name, "arguments": arguments}, **more}


def answering(*calls: Any, **message: Any) -> Any:
    """A provider's reply that calls tools."""
    return lambda payload: {"content": None, "tool_calls": list(calls), **message}


async def ask(llm: Any, mode: str, text: Any = "hello") -> AIMessage:
    """One answer; chunks are summed."""
    match mode:
        case "invoke":
            return await asyncio.to_thread(llm.invoke, text)
        case "ainvoke":
            return await llm.ainvoke(text)
        case "stream":
            chunks = await asyncio.to_thread(lambda: list(llm.stream(text)))
        case _:
            chunks = [chunk async for chunk in llm.astream(text)]
    total = chunks[0]
    for chunk in chunks[1:]:
        total = total + chunk
    assert chunks[-1].chunk_position == "last"
    return total  # type: ignore[no-any-return]


@pytest.fixture
def server() -> Iterator[CompetentServer]:
    with CompetentServer() as running:
        yield running
        assert running.problems == []


# -- what is bound ----------------------------------------------------------------------------------------------------


def test_functions_tools_classes_and_schemas_are_tools(server: CompetentServer) -> None:
    def add(a: int, b: int) -> int:
        """Add."""
        return a + b

    chat(server).bind_tools([look_up, add, Weather, SCHEMA], strict=True, parallel_tool_calls=False).invoke("hello")
    (payload,) = server.payloads
    assert [tool["function"]["name"] for tool in payload["tools"]] == ["look_up", "add", "Weather", "Note"]
    assert all(tool["function"]["strict"] for tool in payload["tools"])
    assert payload["parallel_tool_calls"] is False
    assert "tool_choice" not in payload


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        ("any", "required"),
        ("required", "required"),
        (True, "required"),
        ("auto", "auto"),
        ("none", "none"),
        ("Weather", NAMED),
        (NAMED, NAMED),
        (None, None),
        (False, None),
    ],
)
def test_what_tool_choice_becomes(server: CompetentServer, choice: Any, sent: Any) -> None:
    chat(server).bind_tools([look_up, Weather], tool_choice=choice).invoke("hello")
    assert server.payloads[0].get("tool_choice") == sent


@pytest.mark.parametrize(
    ("tools", "choice", "said"),
    [
        ([look_up], "look_down", r"tool_choice='look_down': expected 'any', 'auto', 'none' or one of \['look_up'\]"),
        ([{"type": "object"}], None, "is no tool or schema"),
    ],
)
def test_what_is_no_tool_is_refused(provider: FakeProvider, tools: Any, choice: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        chat(provider).bind_tools(tools, tool_choice=choice)


@pytest.mark.parametrize("mode", MODES)
async def test_tools_are_not_planned_and_use_a_stored_plan(server: CompetentServer, mode: str) -> None:
    llm = chat(server, task="triage")
    tools = llm.bind_tools([look_up], tool_choice="any")
    assert record(await ask(tools, mode))["source"] == "default"
    assert plans(server) == []
    llm.invoke("hello")
    assert record(await ask(tools, mode))["source"] == "cached plan"


# -- what comes back --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
async def test_calls_of_tools_arrive(provider: FakeProvider, mode: str) -> None:
    provider.reply = answering(call('{"word": "你好"}'), call("", "Weather", id="call_2"))
    message = await ask(chat(provider).bind_tools([look_up, Weather]), mode)
    assert message.tool_calls == [
        {"name": "look_up", "args": {"word": "你好"}, "id": "call_1", "type": "tool_call"},
        {"name": "Weather", "args": {}, "id": "call_2", "type": "tool_call"},
    ]
    assert message.invalid_tool_calls == []
    assert message.text == ""
    assert message.response_metadata["finish_reason"] == "tool_calls"
    assert message.usage_metadata is not None
    assert message.usage_metadata["output_tokens"] == provider.billed.completion_tokens


@pytest.mark.parametrize("mode", MODES)
async def test_words_beside_a_call_are_kept(provider: FakeProvider, mode: str) -> None:
    provider.reply = answering(call('{"word": "a"}'), content="I will look.")
    message = await ask(chat(provider), mode)
    assert message.text == "I will look."
    assert len(message.tool_calls) == 1


@pytest.mark.parametrize("arguments", ['{"word": ', "[1, 2]", "word", '"word"'])
def test_arguments_that_are_no_object_are_invalid_calls(provider: FakeProvider, arguments: str) -> None:
    provider.reply = answering(call(arguments), call('{"word": "a"}', id="call_2"))
    message = chat(provider).invoke("hello")
    assert [one["id"] for one in message.tool_calls] == ["call_2"]
    (invalid,) = message.invalid_tool_calls
    assert (invalid["name"], invalid["args"], invalid["id"]) == ("look_up", arguments, "call_1")
    assert invalid["error"]


def test_arguments_as_an_object_and_odd_entries_are_understood(provider: FakeProvider) -> None:
    provider.reply = answering(call({"word": "a"}), call(None, id="call_2"), {"type": "custom", "id": "3"}, "noise")
    assert [one["args"] for one in chat(provider).invoke("hello").tool_calls] == [{"word": "a"}, {}]


async def test_a_stream_hands_calls_out_as_they_grow(provider: FakeProvider) -> None:
    provider.reply = answering(call('{"word": "abc"}'))
    chunks = [chunk async for chunk in chat(provider).astream("hello")]
    pieces = [piece for chunk in chunks for piece in chunk.tool_call_chunks]
    assert [piece["name"] for piece in pieces] == ["look_up", None, None]
    assert "".join(piece["args"] or "" for piece in pieces) == '{"word": "abc"}'
    assert {piece["index"] for piece in pieces} == {0}


@pytest.mark.parametrize("mode", MODES)
async def test_several_samples_with_calls_are_one_answer(provider: FakeProvider, mode: str) -> None:
    provider.reply = answering(call('{"word": "a"}'))
    message = await ask(chat(provider, planner="off", aggregation="any of 2"), mode)
    assert message.tool_calls[0]["args"] == {"word": "a"}
    assert record(message)["samples"] == 2


def test_a_stored_answer_still_calls(provider: FakeProvider) -> None:
    provider.reply = answering(call('{"word": "a"}'))
    llm = chat(provider, cache_answers=True).bind_tools([look_up])
    assert llm.invoke("hello").tool_calls == llm.invoke("hello").tool_calls != []
    assert len(provider.requests) == 1


# -- and back into the conversation -----------------------------------------------------------------------------------


@pytest.mark.parametrize("output_version", [None, "v1"])
@pytest.mark.parametrize("mode", MODES)
async def test_an_answer_and_a_tools_word_on_it_go_back(
    server: CompetentServer, output_version: str | None, mode: str
) -> None:
    llm = chat(server, prices=PRICES, budget="1 USD", output_version=output_version).bind_tools([look_up])
    question = HumanMessage("look 'abc' up")
    message = await ask(llm, mode, [question])
    word = look_up.invoke(message.tool_calls[0])
    answer = await ask(llm, mode, [question, message, word])
    assert answer.text == "You said: abc"
    _, called, said = server.payloads[-1]["messages"]
    assert called["tool_calls"][0]["function"] == {"name": "look_up", "arguments": '{"word": "abc", "times": 1}'}
    assert called["content"] == ""
    assert (said["role"], said["tool_call_id"], said["content"]) == ("tool", "call_1", "abc")


def test_a_call_the_model_got_wrong_goes_back_with_the_error(server: CompetentServer) -> None:
    wrong = AIMessage("", invalid_tool_calls=[
        {"type": "invalid_tool_call", "name": "look_up", "args": '{"word": ', "id": "call_1", "error": "cut"}
    ])  # fmt: skip
    chat(server, planner="off").invoke(
        [HumanMessage("hi"), wrong, ToolMessage("no JSON", tool_call_id="call_1", status="error")]
    )
    assert server.payloads[0]["messages"][1]["tool_calls"] == [call('{"word": ')]


def test_reasoning_and_foreign_blocks_stay_here(server: CompetentServer) -> None:
    blocks: list[Any] = [
        {"type": "reasoning", "reasoning": "hm"},
        {"type": "thinking", "thinking": "hm", "signature": "x"},
        {"type": "text", "text": "Hello."},
        {"type": "non_standard", "value": {"a": 1}},
    ]
    chat(server, planner="off").invoke([HumanMessage("hi"), AIMessage(blocks), HumanMessage("well?")])
    assert server.payloads[0]["messages"][1] == {"role": "assistant", "content": "Hello."}


def test_the_strict_server_sees_what_a_real_one_would_refuse() -> None:
    asked = {"role": "user", "content": [{"type": "thinking"}]}
    called = {"role": "assistant", "content": None, "tool_calls": [call("{}")]}
    lost = {"role": "tool", "content": "x", "tool_call_id": "other"}
    payload = {"messages": [asked, called, lost, {"role": "ai", "content": ""}], "tool_choice": "any", "stop_it": 1}
    assert refused(payload) == [
        "user content part 'thinking'",
        "tool message for 'other', which nobody called",
        "role 'ai'",
        "tool_choice without tools",
        "tool_choice 'any'",
        "unknown field 'stop_it'",
    ]


# -- around an inner model --------------------------------------------------------------------------------------------


@pytest.fixture
async def inner(server: CompetentServer) -> AsyncIterator[ChatOpenAI]:
    given: dict[str, Any] = {"api_key": "sk-test", "timeout": openai.Timeout(60)}
    model = ChatOpenAI(model=MODEL, base_url=server.base_url, **given)
    yield model
    model.root_client.close()
    await model.root_async_client.close()


@pytest.mark.parametrize("mode", MODES)
async def test_the_inner_model_binds_and_we_decide(server: CompetentServer, inner: ChatOpenAI, mode: str) -> None:
    llm = ChatSelfReg(inner=inner, store=":memory:", retry=ONCE, **wanting(temperature=0.3))
    bound = llm.bind_tools([look_up], tool_choice="any", parallel_tool_calls=False)
    assert isinstance(bound, RunnableBinding)
    assert bound.bound is llm
    message = await ask(bound, mode, "look 'abc' up")
    assert message.tool_calls[0]["args"] == {"word": "abc", "times": 1}
    (payload,) = server.payloads
    assert (payload["temperature"], payload["tool_choice"], payload["parallel_tool_calls"]) == (0.3, "required", False)
    assert record(message)["sent"] == {"temperature": 0.3}


class Inner(FakeMessagesListChatModel):
    """Binds in a way of its own."""

    way: str = "copy"
    seed: int = 0

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        if self.way == "copy":
            return self.model_copy(update={"seed": 7}).bind(tools=tools, **kwargs)
        return RunnableLambda(lambda _: self.invoke("hidden"))


def test_a_copy_the_inner_model_makes_is_regulated_too() -> None:
    llm = ChatSelfReg(inner=Inner(responses=[AIMessage("hi")]), store=":memory:", planner="off")
    bound: Any = llm.bind_tools([look_up])
    assert isinstance(bound.bound, ChatSelfReg)
    assert bound.bound.inner.seed == 7
    assert bound.kwargs == {"tools": [look_up]}


def test_calls_that_could_not_be_counted_are_refused() -> None:
    llm = ChatSelfReg(inner=Inner(responses=[AIMessage("hi")], way="hide"), store=":memory:", planner="off")
    with pytest.raises(ConfigError, match=r"Inner answers with a RunnableLambda in which selfreg cannot find it"):
        llm.bind_tools([look_up])
