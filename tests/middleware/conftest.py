"""The provider behind the agents."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.competent_server import CompetentServer


@pytest.fixture
def server() -> Iterator[CompetentServer]:
    """It calls tools, and reads requests as strictly as OpenAI's does."""
    with CompetentServer() as running:
        yield running
        assert running.problems == []
