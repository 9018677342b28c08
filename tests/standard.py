"""LangChain's standard integration tests for chat models, against a strict loopback server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.integration_tests import chat_models as standard

from selfreg_sdk import ChatSelfReg
from tests.competent_server import CompetentServer


@pytest.mark.filterwarnings("ignore:OpenAI may require a filename")  # the standard test sends a file without one
class OnAStrictServer(ChatModelIntegrationTests):
    """Every test runs against a server of its own, which must have found nothing to refuse at the end."""

    serving: ClassVar[Callable[[], Any]]
    server: Any

    @pytest.fixture(autouse=True)
    def strict_server(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        # The tests of images, sound and PDFs download an example; what is in it, no loopback server looks at.
        monkeypatch.setattr(standard.httpx, "get", lambda url, **_: SimpleNamespace(content=b"a file"))
        monkeypatch.setenv("LANGCHAIN_TESTS_USER_AGENT", "none is needed")
        with type(self).serving() as server:
            self.server = server
            yield
            assert server.problems == []

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatSelfReg

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
    def supports_pdf_inputs(self) -> bool:
        return True


class OnACompetentServer(OnAStrictServer):
    """Skipped: the timing test, which replays recordings of a real provider."""

    serving = CompetentServer
    server: CompetentServer

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_audio_inputs(self) -> bool:
        return True

    # Images and PDFs in tool messages stay undeclared: chat completions takes text there, and nothing else.
