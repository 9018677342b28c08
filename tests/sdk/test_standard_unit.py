"""LangChain's standard unit tests for chat models."""

from __future__ import annotations

from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI
from langchain_tests.unit_tests import ChatModelUnitTests

from selfreg_sdk import ChatSelfReg
from tests.sdk.regulated import MODEL

NOWHERE = "http://127.0.0.1:9/v1"


class TestOnAnEndpoint(ChatModelUnitTests):
    """Skipped: serialisation, because a model holds a store and connections, which no JSON can bring back."""

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatSelfReg

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": MODEL, "base_url": NOWHERE, "store": ":memory:"}

    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        # What the environment says is read into the settings and not into the fields: the key stays out of every dump.
        environment = {"SELFREG_MODEL": MODEL, "OPENAI_API_KEY": "sk-test"}
        return environment, {"store": ":memory:"}, {"_llm_type": "selfreg", "api_key": None}


class TestAroundChatOpenAI(ChatModelUnitTests):
    """Skipped: serialisation, as above, and the environment, which is the inner model's to read."""

    inner = ChatOpenAI(model=MODEL, base_url=NOWHERE, api_key="sk-test", http_socket_options=())  # type: ignore[arg-type]

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatSelfReg

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"inner": self.inner, "store": ":memory:"}
