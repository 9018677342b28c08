"""The quick path of messages to the wire says what LangChain's own conversion says."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    convert_to_openai_messages,
)

from selfreg_sdk.langchain import messages as messages_module
from selfreg_sdk.langchain.messages import to_wire

texts = st.text(max_size=12)
names = st.none() | st.sampled_from(["ann", ""])
more = st.fixed_dictionaries(
    {},
    optional={
        "refusal": st.none() | texts,
        "__openai_role__": st.just("developer"),
        "function_call": st.just({"name": "f", "arguments": "{}"}),
        "reasoning_content": texts,
    },
)
parts = st.lists(
    texts
    | st.fixed_dictionaries({"type": st.just("text"), "text": texts})
    | st.fixed_dictionaries({"type": st.just("image_url"), "image_url": st.just({"url": "https://x/y.png"})}),
    max_size=3,
)
contents = texts | parts
calls = st.lists(
    st.fixed_dictionaries(
        {
            "name": st.sampled_from(["f", "g"]),
            "args": st.dictionaries(texts, st.integers() | texts, max_size=2),
            "id": st.none() | texts,
            "type": st.just("tool_call"),
        }
    ),
    max_size=2,
)
common: dict[str, Any] = {"content": contents, "name": names, "additional_kwargs": more}
# Parts of an answer other than text have a rule of ours; what is compared here is all that has none.
generated = st.one_of(
    st.builds(HumanMessage, **common),
    st.builds(SystemMessage, **common),
    st.builds(ChatMessage, role=st.sampled_from(["user", "critic"]), **common),
    st.builds(FunctionMessage, content=texts, name=st.just("f")),
    st.builds(ToolMessage, tool_call_id=texts, content=contents, name=names),
    st.builds(AIMessage, content=texts, name=names, additional_kwargs=more, tool_calls=calls),
    st.builds(AIMessageChunk, content=texts, name=names, additional_kwargs=more),
)


@given(st.lists(generated, max_size=5))
def test_to_wire_says_what_langchain_says(conversation: list[BaseMessage]) -> None:
    assert to_wire(conversation) == convert_to_openai_messages(conversation)


class Whisper(HumanMessage):
    """A subclass may mean something else by its content."""


@pytest.mark.parametrize(
    "message",
    [
        Whisper("psst"),
        AIMessage("", additional_kwargs={"refusal": "no"}),
        SystemMessage("be brief", additional_kwargs={"__openai_role__": "developer"}),
        AIMessage([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]),
    ],
)
def test_what_is_no_plain_text_goes_through_langchain(message: BaseMessage) -> None:
    assert messages_module._plain(message) is None
    assert to_wire([message]) == convert_to_openai_messages([message])


@pytest.mark.parametrize(
    "message",
    [
        HumanMessage("x", name="ann"),
        AIMessage("x", additional_kwargs={"function_call": {}}),
        AIMessage("", tool_calls=[{"name": "f", "args": {"ä": 1}, "id": "1", "type": "tool_call"}]),
        ToolMessage("x", tool_call_id="1"),
    ],
)
def test_plain_text_and_tool_calls_take_the_quick_path(message: BaseMessage, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = convert_to_openai_messages([message])
    monkeypatch.delattr(messages_module, "convert_to_openai_messages")

    assert to_wire([message]) == expected
