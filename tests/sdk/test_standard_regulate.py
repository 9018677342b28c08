"""LangChain's standard tests on a regulated ChatOpenAI; and a feature of Anthropic's that only its own class gets."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import openai
import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_openai import ChatOpenAI
from langchain_tests.unit_tests import ChatModelUnitTests

from selfreg_sdk import ChatSelfReg
from selfreg_sdk.langchain.regulate import regulate
from tests.adapters import dialects
from tests.adapters.server import Server
from tests.sdk.regulated import MODEL, record
from tests.standard import OnACompetentServer

NOWHERE = "http://127.0.0.1:9/v1"


@cache
def regulated_class() -> type[BaseChatModel]:
    """The class of a regulated ChatOpenAI; what it makes has the usual options."""
    plain = ChatOpenAI(model=MODEL, base_url=NOWHERE, api_key="sk-test", http_socket_options=())  # type: ignore[arg-type]
    return type(regulate(plain, store=":memory:"))


class TestUnits(ChatModelUnitTests):
    """Skipped: serialisation, because the provider alone would come back from it."""

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return regulated_class()

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": MODEL, "base_url": NOWHERE, "api_key": "sk-test", "http_socket_options": ()}

    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        environment = {"OPENAI_API_KEY": "sk-env", "OPENAI_API_BASE": NOWHERE}
        given = {"model": MODEL, "http_socket_options": ()}
        return environment, given, {"openai_api_key": "sk-env", "openai_api_base": NOWHERE}


# What ChatOpenAI itself warns of: schemas of pydantic 1, and answers that openai's stream has parsed already.
@pytest.mark.filterwarnings("ignore:Received a Pydantic BaseModel V1 schema", "ignore:Pydantic serializer warnings")
class TestCalls(OnACompetentServer):
    """Skipped: the timing test, which replays recordings of a real provider."""

    @pytest.fixture(autouse=True)
    async def clients(self, strict_server: None) -> Any:
        self.given = {"http_client": openai.DefaultHttpxClient(), "http_async_client": openai.DefaultAsyncHttpxClient()}
        yield
        self.given["http_client"].close()
        await self.given["http_async_client"].aclose()

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return regulated_class()

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": MODEL, "base_url": self.server.base_url, "api_key": "sk-test", **self.given}

    @property
    def model_override_value(self) -> str:
        return "other-model"


# -- what LangChain's features ask the class ----------------------------------------------------------------------------


@pytest.fixture
def anthropic() -> Iterator[Server]:
    with Server(dialects.ANTHROPIC) as server:
        yield server


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_anthropics_prompt_caching_applies_to_a_regulated_model(anthropic: Server, asynchronous: bool) -> None:
    from langchain.agents import create_agent
    from langchain_anthropic import ChatAnthropic
    from langchain_anthropic.middleware import AnthropicPromptCachingMiddleware

    plain = ChatAnthropic(model="claude-haiku-4-5", base_url=anthropic.url, api_key="sk-test", max_tokens=99)  # type: ignore[call-arg, arg-type]
    caching = AnthropicPromptCachingMiddleware(unsupported_model_behavior="ignore")

    async def sent_by(model: BaseChatModel) -> dict[str, Any]:
        agent = create_agent(model, system_prompt="Be short.", middleware=[caching])
        asked = {"messages": [("user", "hello")]}
        done = await agent.ainvoke(asked) if asynchronous else agent.invoke(asked)
        assert record(done["messages"][-1])["sent"]["temperature"] == 0.5
        return anthropic.bodies[-1]

    given: dict[str, Any] = {"store": ":memory:", "planner": "off", "temperature": 0.5}
    regulated = await sent_by(regulate(plain, **given))
    wrapped = await sent_by(ChatSelfReg(inner=plain, **given))
    assert regulated["cache_control"] == {"type": "ephemeral", "ttl": "5m"}
    assert regulated["system"][0]["cache_control"] == {"type": "ephemeral", "ttl": "5m"}
    assert "cache_control" not in str(wrapped)


def test_an_agent_takes_a_regulated_model_for_openais() -> None:
    from langchain.agents.factory import _is_openai_compatible_model

    plain = ChatOpenAI(model=MODEL, base_url=NOWHERE, api_key="sk-test", http_socket_options=())  # type: ignore[arg-type]
    given: dict[str, Any] = {"store": ":memory:", "planner": "off"}
    assert _is_openai_compatible_model(regulate(plain, **given))
    assert not _is_openai_compatible_model(ChatSelfReg(inner=plain, **given))
    assert not _is_openai_compatible_model(regulate(FakeListChatModel(responses=["hi"]), **given))
