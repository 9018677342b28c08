"""What stands in an answer: text, calls, reasoning and refusals, whole and streamed, in both forms of content."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage, HumanMessage
from pydantic import BaseModel

from selfreg_sdk.errors import Refused
from tests.fake_provider import FakeProvider, ok
from tests.langchain.asking import EVENTS, MODES, ask
from tests.sdk.regulated import chat

CALL = {"id": "call_1", "type": "function", "function": {"name": "look_up", "arguments": '{"a": 1}'}}
V3 = EVENTS[1:]
PLAIN = tuple(mode for mode in MODES if mode not in V3)


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with FakeProvider(reply=lambda payload: {"content": "Paris."}) as running:
        yield running


def says(provider: FakeProvider, **message: Any) -> None:
    provider.reply = lambda payload: {"content": None, **message}


def thinks_first(provider: FakeProvider) -> None:
    """The loopback provider streams other fields after the text; models think first."""

    def reordered(events: list[Any]) -> list[Any]:
        def thought(event: Any) -> bool:
            choices = event["choices"] if isinstance(event, dict) else []
            return any(name.startswith("reasoning") for choice in choices for name in choice["delta"])

        return sorted(events, key=lambda event: not thought(event))

    provider.script(ok(edit_events=reordered))


def kinds(message: AIMessage) -> list[str]:
    return [block["type"] for block in message.content_blocks]


@pytest.mark.parametrize("mode", PLAIN)
@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
@pytest.mark.parametrize("version", ["v0", "v1"])
async def test_reasoning(provider: FakeProvider, version: str, name: str, mode: str) -> None:
    says(provider, content="Paris.", **{name: "Capital of France."})
    thinks_first(provider)
    message = await ask(chat(provider, planner="off", output_version=version), mode)
    assert message.text == "Paris."
    assert message.additional_kwargs["reasoning_content"] == "Capital of France."
    assert kinds(message) == ["reasoning", "text"]
    assert message.content_blocks[0]["reasoning"] == "Capital of France."  # type: ignore[typeddict-item]
    assert isinstance(message.content, list) == (version == "v1")


@pytest.mark.parametrize("mode", V3)
async def test_reasoning_in_events(provider: FakeProvider, mode: str) -> None:
    says(provider, content="Paris.", reasoning="Capital of France.")
    thinks_first(provider)
    message = await ask(chat(provider, planner="off"), mode)
    assert kinds(message) == ["reasoning", "text"]
    assert message.text == "Paris."


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("version", ["v0", "v1"])
async def test_calls(provider: FakeProvider, version: str, mode: str) -> None:
    says(provider, content="Let me see.", tool_calls=[CALL])
    message = await ask(chat(provider, planner="off", output_version=version), mode)
    assert message.tool_calls == [{"name": "look_up", "args": {"a": 1}, "id": "call_1", "type": "tool_call"}]
    assert kinds(message) == ["text", "tool_call"]
    # What LangChain hands out can be handed in again.
    history = [HumanMessage("hello"), message, HumanMessage("go on")]
    chat(provider, planner="off").invoke(history)
    assert provider.payloads[-1]["messages"][1] == {
        "role": "assistant",
        "content": "Let me see.",
        "tool_calls": [{"id": "call_1", "type": "function", "function": CALL["function"]}],
    }


@pytest.mark.parametrize("mode", PLAIN)
async def test_reasoning_is_not_sent_back(provider: FakeProvider, mode: str) -> None:
    says(provider, content="Paris.", reasoning="Capital of France.")
    for version in ("v0", "v1"):
        llm = chat(provider, planner="off", output_version=version)
        message = await ask(llm, mode)
        llm.invoke([HumanMessage("hello"), message, HumanMessage("why?")])
        assert "Capital" not in str(provider.payloads[-1])
        assert provider.payloads[-1]["messages"][1] == {"role": "assistant", "content": "Paris."}


@pytest.mark.parametrize("mode", MODES)
async def test_a_refusal_stays_readable(provider: FakeProvider, mode: str) -> None:
    says(provider, refusal="I will not.")
    message = await ask(chat(provider, planner="off"), mode)
    if mode not in V3:  # events have no place for it
        assert message.additional_kwargs["refusal"] == "I will not."
    assert message.text == ""
    assert message.usage_metadata is not None


class Answer(BaseModel):
    """An answer."""

    city: str


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
@pytest.mark.parametrize("schema", [Answer, Answer.model_json_schema()], ids=["class", "dict"])
@pytest.mark.parametrize("way", ["invoke", "stream"])
def test_a_refusal_in_place_of_an_object(provider: FakeProvider, schema: Any, method: Any, way: str) -> None:
    says(provider, refusal="I will not.")
    llm = chat(provider, planner="off").with_structured_output(schema, method=method)
    with pytest.raises(Refused, match="refused to answer: 'I will not") as caught:
        llm.invoke("hello") if way == "invoke" else list(llm.stream("hello"))
    assert caught.value.refusal == "I will not."


def test_a_refusal_beside_the_raw_answer(provider: FakeProvider) -> None:
    says(provider, refusal="I will not.")
    made = chat(provider, planner="off").with_structured_output(Answer, include_raw=True).invoke("hello")
    assert isinstance(made, dict)
    assert made["parsed"] is None
    assert isinstance(made["parsing_error"], Refused)
    assert made["raw"].additional_kwargs["refusal"] == "I will not."


def test_other_answers_that_do_not_parse_are_no_refusals(provider: FakeProvider) -> None:
    with pytest.raises(OutputParserException):
        chat(provider, planner="off").with_structured_output(Answer).invoke("hello")


@pytest.mark.parametrize("mode", PLAIN)
async def test_images_pass_through(provider: FakeProvider, mode: str) -> None:
    old = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    new = {"type": "image", "base64": "AAAA", "mime_type": "image/png"}
    for part in (old, new):
        await ask(
            chat(provider, planner="off"), mode, [HumanMessage(content=[{"type": "text", "text": "what?"}, part])]
        )
        sent = provider.payloads[-1]["messages"][0]["content"]
        assert sent == [{"type": "text", "text": "what?"}, old]
