"""Structured output: what is asked for, what comes out, whole and in pieces, and around an inner model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

import openai
import pytest
from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field, ValidationError
from typing_extensions import TypedDict

from selfreg_sdk import ChatSelfReg, ConfigError
from tests.competent_server import CompetentServer
from tests.fake_provider import FakeProvider
from tests.sdk.regulated import MODEL, ONCE, chat, plans, priced, record, wanting


class Place(BaseModel):
    """A place."""

    name: str
    zip: int | None = None


class Order(BaseModel):
    """An order."""

    item: str = Field(description="what is wanted")
    pieces: int
    to: Place


class OrderDict(TypedDict):
    """An order."""

    item: Annotated[str, ..., "what is wanted"]
    pieces: Annotated[int, ..., "how many"]


JSON_SCHEMA = Order.model_json_schema()
FLAT = {"title": "Order", "type": "object", "properties": {"item": {"type": "string"}, "pieces": {"type": "integer"}}}
ASKED = "Send 3 'tea pots' to 'Rome', 184."
ORDER = {"item": "tea pots", "pieces": 3, "to": {"name": "Rome", "zip": 184}}
TWO_FIELDS = {"item": "tea pots", "pieces": 3}
METHODS = ("json_schema", "function_calling")


@pytest.fixture
def server() -> Iterator[CompetentServer]:
    with CompetentServer() as running:
        yield running
        assert running.problems == []


async def every_way(llm: Any, asked: str = ASKED) -> list[Any]:
    """The results of all four ways to ask; of a stream, the last."""
    return [
        await asyncio.to_thread(llm.invoke, asked),
        await llm.ainvoke(asked),
        (await asyncio.to_thread(lambda: list(llm.stream(asked))))[-1],
        [part async for part in llm.astream(asked)][-1],
    ]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("schema", "wanted"),
    [(Order, Order(**ORDER)), (JSON_SCHEMA, ORDER), (OrderDict, TWO_FIELDS), (FLAT, TWO_FIELDS)],
    ids=["pydantic", "json schema", "typed dict", "flat"],
)
async def test_objects_come_out(server: CompetentServer, method: Any, schema: Any, wanted: Any) -> None:
    assert await every_way(chat(server).with_structured_output(schema, method=method)) == [wanted] * 4
    assert plans(server) == []
    assert len(server.payloads) == 4


async def test_json_mode(server: CompetentServer) -> None:
    llm, asked = chat(server), "Return JSON with the keys 'item' and 'name'."
    assert (
        await every_way(llm.with_structured_output(method="json_mode"), asked)
        == [{"item": "words", "name": "words"}] * 4
    )
    assert isinstance(llm.with_structured_output(Place, method="json_mode").invoke(asked), Place)
    assert all(payload["response_format"] == {"type": "json_object"} for payload in server.payloads)


def test_what_asks_for_a_schema(server: CompetentServer) -> None:
    def sent(schema: Any, **how: Any) -> dict[str, Any]:
        chat(server).with_structured_output(schema, **how).invoke(ASKED)
        return server.payloads[-1]["response_format"]["json_schema"]

    strict = sent(Order)
    assert (strict["name"], strict["description"], strict["strict"]) == ("Order", "An order.", True)
    assert strict["schema"]["required"] == ["item", "pieces", "to"]
    place = strict["schema"]["$defs"]["Place"]
    assert place["required"] == ["name", "zip"], "strict mode wants every field listed, at every depth"
    assert place["additionalProperties"] is False
    assert not sent(Order, strict=False).get("strict")
    assert "strict" not in sent(FLAT)
    assert sent(FLAT, strict=True)["strict"] is True
    whole = {"name": "order", "schema": FLAT, "strict": True}
    assert sent(whole) == sent({"type": "json_schema", "json_schema": whole}) == whole


def test_a_class_may_be_the_response_format(server: CompetentServer) -> None:
    message = chat(server).bind_tools([Place], tool_choice="none", response_format=Order).invoke(ASKED)
    assert json.loads(message.text) == ORDER
    chat(server).with_structured_output(Order).invoke(ASKED)
    assert server.payloads[0]["response_format"] == server.payloads[1]["response_format"]


def test_a_function_is_forced_once(server: CompetentServer) -> None:
    chat(server).with_structured_output(Order, method="function_calling", strict=True).invoke(ASKED)
    (payload,) = server.payloads
    assert payload["tool_choice"] == {"type": "function", "function": {"name": "Order"}}
    assert payload["tools"][0]["function"]["strict"] is True
    assert payload["parallel_tool_calls"] is False
    assert "ls_structured_output_format" not in payload


@pytest.mark.parametrize("method", METHODS)
def test_a_stream_grows(server: CompetentServer, method: Any) -> None:
    parts = list(chat(server).with_structured_output(JSON_SCHEMA, method=method).stream(ASKED))
    assert len(parts) > 1
    assert parts[-1] == ORDER
    assert all(set(part) <= set(ORDER) for part in parts)


@pytest.mark.parametrize("method", METHODS)
async def test_the_message_comes_along(server: CompetentServer, method: Any) -> None:
    llm = chat(server, **wanting(temperature=0.3)).with_structured_output(Order, method=method, include_raw=True)
    for found in (llm.invoke(ASKED), await llm.ainvoke(ASKED)):
        assert isinstance(found, dict)
        assert (found["parsed"], found["parsing_error"]) == (Order(**ORDER), None)
        assert isinstance(found["raw"], AIMessage)
        assert record(found["raw"])["sent"] == {"temperature": 0.3}


def test_what_does_not_parse(provider: FakeProvider) -> None:
    provider.reply = lambda payload: json.dumps({"item": 5})
    plain = chat(provider).with_structured_output(Order)
    with pytest.raises(OutputParserException, match="Order"):
        plain.invoke(ASKED)
    found: Any = chat(provider).with_structured_output(Order, include_raw=True).invoke(ASKED)
    assert found["parsed"] is None
    assert "item" in str(found["parsing_error"])
    assert found["raw"].text == '{"item": 5}'


def test_a_function_called_with_the_wrong_fields(provider: FakeProvider) -> None:
    function = {"name": "Order", "arguments": '{"item": 5}'}
    provider.reply = lambda payload: {
        "content": None,
        "tool_calls": [{"id": "1", "type": "function", "function": function}],
    }
    with pytest.raises(ValidationError, match="pieces"):
        chat(provider).with_structured_output(Order, method="function_calling").invoke(ASKED)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"schema": None}, "method='json_schema' needs a schema"),
        ({"schema": None, "method": "function_calling"}, "method='function_calling' needs a schema"),
        ({"schema": Order, "method": "json_mode", "strict": True}, "strict=True: 'json_mode' follows no schema"),
        ({"schema": Order, "method": "grammar"}, "method='grammar': expected 'json_schema'"),
        ({"schema": {"type": "object"}}, "is no tool or schema"),
    ],
)
def test_what_cannot_work_is_refused(provider: FakeProvider, given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        chat(provider).with_structured_output(**given)


# -- around an inner model --------------------------------------------------------------------------------------------


@pytest.fixture
async def inner(server: CompetentServer) -> AsyncIterator[ChatOpenAI]:
    given: dict[str, Any] = {"api_key": "sk-test", "timeout": openai.Timeout(60)}
    model = ChatOpenAI(model=MODEL, base_url=server.base_url, **given)
    yield model
    model.root_client.close()
    await model.root_async_client.close()


def around(inner: ChatOpenAI, **given: Any) -> ChatSelfReg:
    usual: dict[str, Any] = {"inner": inner, "store": ":memory:", "retry": ONCE, **wanting(temperature=0.3)}
    return ChatSelfReg(**(usual | given))


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")  # ChatOpenAI's own, where it streams parsed answers
@pytest.mark.parametrize("method", [None, *METHODS])
@pytest.mark.parametrize("schema", [Order, JSON_SCHEMA], ids=["pydantic", "json schema"])
async def test_the_inner_models_way_with_our_parameters(
    server: CompetentServer, inner: ChatOpenAI, method: Any, schema: Any
) -> None:
    found = await every_way(around(inner).with_structured_output(schema, method=method))
    assert found == [Order(**ORDER) if schema is Order else ORDER] * 4
    assert [payload["temperature"] for payload in server.payloads] == [0.3] * 4
    default = [payload for payload in server.payloads if "response_format" in payload]
    assert len(default) == (0 if method == "function_calling" else 4)


def test_the_message_of_the_inner_model_comes_along(inner: ChatOpenAI) -> None:
    found: Any = around(inner).with_structured_output(Order, include_raw=True).invoke(ASKED)
    assert found["parsed"] == Order(**ORDER)
    assert record(found["raw"])["sent"] == {"temperature": 0.3}


def test_a_class_as_format_counts_for_the_money_with_its_schema(inner: ChatOpenAI) -> None:
    class Long(BaseModel):
        field: str = Field(description="many words " * 500)

    llm = around(inner, prices=priced(MODEL), budget="1 USD", max_tokens=50)
    plain, with_class = llm.explain(ASKED), llm.explain(ASKED, response_format=Long)
    assert plain.worst_case_usd is not None
    assert with_class.worst_case_usd is not None
    assert with_class.worst_case_usd > 2 * plain.worst_case_usd
    assert llm.with_structured_output(Order).invoke(ASKED) == Order(**ORDER)
