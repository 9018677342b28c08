"""LangChain's standard integration tests for chat models, against a loopback server that behaves as a competent model."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from langchain_openai import ChatOpenAI

from tests.sdk.regulated import MODEL
from tests.standard import OnACompetentServer


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
