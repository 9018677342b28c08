"""docs/langchain.md: every python block runs, in order, as a reader would run it, against a loopback provider."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from selfreg_sdk.runtime import runtime
from tests.competent_server import CompetentServer
from tests.sdk.tuned_versions import tuned

SORTING = [["user", "One word: what is this about? {letter}"]]
PAGE = Path(__file__).parents[2] / "docs" / "langchain.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[CompetentServer]:
    """In OpenAI's place: only its address and its prices are not OpenAI's."""
    prices = tmp_path / "prices.yaml"
    prices.write_text('prices: {gpt-4.1-mini: {input_usd_per_mtok: "0.40", output_usd_per_mtok: "1.60"}}')
    with CompetentServer() as running:
        monkeypatch.setenv("SELFREG_PRICES", str(prices))
        monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
        monkeypatch.setenv("OPENAI_BASE_URL", running.base_url)
        monkeypatch.setenv("SELFREG_STORE", str(tmp_path / "page.db"))
        tuned(runtime(), "vote of 3", task="sorting", model="gpt-4.1-mini", best=True, provenance={"messages": SORTING})
        yield running


async def test_the_blocks_of_the_page_run_in_order(server: CompetentServer, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    for number, block in enumerate(BLOCKS, start=1):
        exec(compile(block, f"{PAGE.name}, block {number}", "exec"), names)
    await names["count"]()
    assert sum(names["sorted_one"].response_metadata["selfreg"]["votes"].values()) in (2, 3)
    assert names["asked"].tool_calls[0]["name"] == "get_weather"
    assert names["counted"].usage_metadata["output_tokens"] > 0
    assert "You said: " in capsys.readouterr().out
    assert server.problems == []


def test_links_inside_the_page_and_the_folder_lead_somewhere() -> None:
    text = PAGE.read_text(encoding="utf-8")
    anchors = {heading.lower().replace(" ", "-") for heading in re.findall(r"^## (.+)$", text, re.MULTILINE)}
    for target in re.findall(r"\]\(([^)]+)\)", text):
        assert target.removeprefix("#") in anchors if target.startswith("#") else (PAGE.parent / target).exists(), (
            target
        )
