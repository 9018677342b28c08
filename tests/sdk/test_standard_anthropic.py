"""LangChain's standard tests for chat models around ChatAnthropic, against a loopback server that behaves as Claude."""

from __future__ import annotations

from typing import Any, TypedDict

import pytest
from langchain_anthropic import ChatAnthropic
from langchain_core.language_models import BaseChatModel
from langchain_tests.unit_tests import ChatModelUnitTests
from pydantic import BaseModel

from selfreg_sdk import ChatSelfReg
from tests.anthropic_server import AnthropicServer
from tests.standard import OnAStrictServer

MODEL = "claude-sonnet-4-6"


@pytest.mark.filterwarnings("ignore:Unrecognized structured output method 'json_mode'")  # ChatAnthropic has none
class TestUnits(ChatModelUnitTests):
    """Skipped: serialisation, because a model holds a store and connections, which no JSON can bring back; and the
    environment, which is the inner model's to read.
    """

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatSelfReg

    @property
    def chat_model_params(self) -> dict[str, Any]:
        inner = ChatAnthropic(model=MODEL, base_url="http://127.0.0.1:9", api_key="sk-test")
        return {"inner": inner, "store": ":memory:"}


@pytest.mark.filterwarnings("ignore:The method `BaseChatModel.*is in beta")  # the events of version 3
class TestAroundChatAnthropic(OnAStrictServer):
    """Skipped: what Claude has not (audio, a JSON mode), what would name another model than the inner one, and the timing
    test, which replays recordings of a real provider.
    """

    serving = AnthropicServer
    server: AnthropicServer

    @property
    def chat_model_params(self) -> dict[str, Any]:
        inner = ChatAnthropic(model=MODEL, base_url=self.server.url, api_key="sk-test")
        return {"inner": inner, "store": ":memory:"}

    @property
    def supports_model_override(self) -> bool:
        return False  # prices, profile and settings are those of the inner model that was given

    @property
    def supports_image_tool_message(self) -> bool:
        return True

    @property
    def supports_pdf_tool_message(self) -> bool:
        return True


class Joke(BaseModel):
    """A joke."""

    setup: str
    punchline: str


class JokeDict(TypedDict):
    """A joke."""

    setup: str
    punchline: str


@pytest.mark.parametrize("schema", [Joke, JokeDict, Joke.model_json_schema()], ids=["pydantic", "dict", "json"])
@pytest.mark.parametrize("mode", ["invoke", "ainvoke", "stream"])
async def test_claudes_own_structured_output(schema: Any, mode: str) -> None:
    with AnthropicServer() as server:
        inner = ChatAnthropic(model=MODEL, base_url=server.url, api_key="sk-test")
        llm = ChatSelfReg(inner=inner, store=":memory:").with_structured_output(schema, method="json_schema")
        question = "Tell me the joke with 'knock' and 'who'"
        if mode == "invoke":
            answer: Any = llm.invoke(question)
        else:
            answer = await llm.ainvoke(question) if mode == "ainvoke" else list(llm.stream(question))[-1]
        given = answer if isinstance(answer, dict) else answer.model_dump()
        assert given == {"setup": "knock", "punchline": "who"}
        assert server.problems == []
        assert [body["output_config"]["format"]["type"] for body in server.bodies] == ["json_schema"]
