"""The page about agents: what it says to paste works, and does what it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from selfreg_sdk.runtime import runtime
from tests.competent_server import CompetentServer
from tests.sdk.regulated import plans

PAGE = Path(__file__).parents[2] / "docs" / "agents.md"


def test_the_code_of_the_page(
    server: CompetentServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prices = tmp_path / "prices.yaml"
    prices.write_text('prices: {gpt-4.1-mini: {input_usd_per_mtok: "0.40", output_usd_per_mtok: "1.60"}}')
    monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    monkeypatch.setenv("SELFREG_PRICES", str(prices))
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["state"]["messages"][-1].text == "You said: Three pages are about refunds."
    assert "temperature" in capsys.readouterr().out
    assert len(plans(server)) == 2
    scopes = {status.scope.partition("/")[0]: status.spent for status in runtime().meter.status()}
    assert scopes == dict.fromkeys(("run", "thread", "user"), server.billed.usd)
    tasks = [message.response_metadata["selfreg"]["task"].split("|")[0] for message in names["state"]["messages"][1::2]]
    assert tasks == ["support/start+tools", "support/after:search+tools"]
