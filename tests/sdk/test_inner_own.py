"""Around an integration that nobody knows, with field names of its own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.language_models import FakeMessagesListChatModel
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from pydantic import Field

from policies import Bounds
from selfreg_sdk.errors import ParameterRejected, TruncatedStream
from tests.sdk.around import ANSWER, MODES, around, ask
from tests.sdk.regulated import PLANNED_MAX_TOKENS, PLANNED_TEMPERATURE, planning, record, wanting


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


class Whole(Own):
    """It does not stream."""

    _stream = BaseChatModel._stream  # type: ignore[assignment]


@pytest.mark.parametrize("mode", ["stream", "astream"])
async def test_what_does_not_stream_comes_in_one_piece(mode: str) -> None:
    assert (await ask(around(Whole(), planner="off"), mode)).text == ANSWER


@pytest.mark.parametrize("off", [True, "tool_calling"])
def test_streaming_that_its_owner_switched_off_stays_off(off: Any) -> None:
    inner = Own(disable_streaming=off)
    chunks = list(around(inner, planner="off").stream("hello", tools=[{"name": "t"}]))
    assert "".join(str(chunk.text) for chunk in chunks) == ANSWER


class Cut(Own):
    """Its streams end without a word."""

    def _stream(self, messages: list[BaseMessage], *args: Any, **kw: Any) -> Iterator[ChatGenerationChunk]:
        yield ChatGenerationChunk(message=AIMessageChunk("half"))


def test_a_stream_that_says_nothing_of_its_end_was_cut() -> None:
    with pytest.raises(TruncatedStream) as caught:
        list(around(Cut(), planner="off").stream("hello"))
    assert caught.value.partial == "half"
