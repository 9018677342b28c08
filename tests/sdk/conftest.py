"""LangChain's own models on the loopback provider."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from langchain_openai import ChatOpenAI

from tests.fake_provider import FakeProvider
from tests.sdk.tune_commands import selfreg as selfreg
from tests.sdk.tune_commands import sorter as sorter


@pytest.fixture
async def openai_model(provider: FakeProvider) -> AsyncIterator[Any]:
    """Makes ChatOpenAI models on the provider, and closes their connections."""
    made: list[ChatOpenAI] = []

    def make(model: str = "gpt-4.1-mini", **given: Any) -> ChatOpenAI:
        # A client of its own: the default ones are kept by URL and timeout for the whole process, and tied to the first
        # event loop. A Timeout object has no hash, so that nothing is kept.
        usual = {"base_url": provider.base_url, "api_key": "sk-test", "timeout": openai.Timeout(60)}
        made.append(ChatOpenAI(model=model, **(usual | given)))
        return made[-1]

    yield make
    for model in made:
        model.root_client.close()
        await model.root_async_client.close()
