"""LangChain's standard integration tests for chat models, against a loopback server that behaves as a competent model."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import openai
import pytest
from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.integration_tests import chat_models as standard

from selfreg_sdk import ChatSelfReg
from tests.competent_server import CompetentServer
from tests.sdk.regulated import MODEL


@pytest.mark.filterwarnings("ignore:OpenAI may require a filename")  # the standard test sends a file without one
class OnACompetentServer(ChatModelIntegrationTests):
    """Skipped: the timing test, which replays recordings of a real provider."""

    server: CompetentServer

    @pytest.fixture(autouse=True)
    def strict_server(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        # The tests of images, sound and PDFs download an example; what is in it, no loopback server looks at.
        monkeypatch.setattr(standard.httpx, "get", lambda url, **_: SimpleNamespace(content=b"a file"))
        monkeypatch.setenv("LANGCHAIN_TESTS_USER_AGENT", "none is needed")
        with CompetentServer() as server:
            self.server = server
            yield
            assert server.problems == []

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatSelfReg

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_anthropic_inputs(self) -> bool:
        return True

    @property
    def supports_image_inputs(self) -> bool:
        return True

    @property
    def supports_image_urls(self) -> bool:
        return True

    @property
    def supports_audio_inputs(self) -> bool:
        return True

    @property
    def supports_pdf_inputs(self) -> bool:
        return True

    # Images and PDFs in tool messages stay undeclared: chat completions takes text there, and nothing else.


class TestOnAnEndpoint(OnACompetentServer):
    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": MODEL, "base_url": self.server.base_url, "store": ":memory:"}

    @property
    def model_override_value(self) -> str:
        return "other-model"


# What ChatOpenAI itself warns of: schemas of pydantic 1, and answers that openai's stream has parsed already.
@pytest.mark.filterwarnings("ignore:Received a Pydantic BaseModel V1 schema", "ignore:Pydantic serializer warnings")
class TestAroundChatOpenAI(OnACompetentServer):
    @pytest.fixture(autouse=True)
    async def inner_model(self, strict_server: None) -> Any:
        # A client of its own: the default ones are kept by URL and timeout for the whole process, and tied to the first
        # event loop. A Timeout object has no hash, so that nothing is kept.
        given: dict[str, Any] = {"api_key": "sk-test", "timeout": openai.Timeout(60)}
        self.inner = ChatOpenAI(model=MODEL, base_url=self.server.base_url, **given)
        yield
        self.inner.root_client.close()
        await self.inner.root_async_client.close()

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"inner": self.inner, "store": ":memory:"}

    @property
    def supports_model_override(self) -> bool:
        return False  # prices, profile and settings are those of the inner model that was given
