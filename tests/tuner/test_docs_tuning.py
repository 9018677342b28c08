"""The page about tuning: every file on it is one, every command and every line of code on it runs and does what it says."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from selfreg_sdk.cli import main
from selfreg_sdk.runtime import runtime
from selfreg_sdk.tuner.examples.examples import Example
from selfreg_sdk.tuner.examples.functions import load_function
from selfreg_sdk.tuner.task.file import load_task
from selfreg_sdk.tuner.tune import dry_run
from tests.fake_provider import FakeProvider
from tests.tuner.sorting import Sorting

PAGE = Path(__file__).parents[2] / "docs" / "tuning.md"
ELSEWHERE = {"selfreg demo tune", "export SELFREG_STORE=postgresql+psycopg://tuner@db.example.org/selfreg"}
"""Commands that other tests run, as they need a local model or a database server."""


class Block(NamedTuple):
    """A fenced block: its language, the file it is (or nothing), its text."""

    language: str
    file: str
    text: str


BLOCKS = [Block(*found) for found in re.findall(r"```(\w+)(?: (\S+))?\n(.*?)```", PAGE.read_text(), re.DOTALL)]
FILES = {block.file: block.text for block in BLOCKS if block.file}
TASKS = [name for name in FILES if name.endswith(".yaml")]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The page's files, in the working folder."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    prices = {"input_usd_per_mtok": "0.40", "output_usd_per_mtok": "1.60"}
    own = tmp_path / "own-prices.yaml"
    own.write_text(json.dumps({"prices": {f"gpt-4.1-{size}": prices for size in ("mini", "nano")}}))
    monkeypatch.setenv("SELFREG_PRICES", str(own))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def sorter(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeProvider]:
    mails = [json.loads(line) for line in FILES["mails.jsonl"].splitlines()]
    labels = {row["mail"].rstrip("."): row["label"] for row in mails}
    with FakeProvider(reply=Sorting(labels, hot=0.0)) as running:
        monkeypatch.setenv("SELFREG_BASE_URL", running.base_url)
        monkeypatch.setenv("SELFREG_API_KEY", "key")
        yield running


def run(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", shlex.split(command))
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code in (0, None), command


def test_the_page_from_top_to_bottom(
    folder: Path, sorter: FakeProvider, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names: dict[str, Any] = {}
    left = set(ELSEWHERE)
    for block in BLOCKS:
        if block.language == "console":
            for line in block.text.splitlines():
                command = line.removeprefix("$ ")
                if command in ELSEWHERE:
                    left.discard(command)
                else:
                    run(command, monkeypatch)
        elif block.language == "python" and not block.file:
            exec(block.text, names)
    assert not left
    said = capsys.readouterr().out
    for words in ("nothing was sent", "use the winner", "Frontier", "Studies", "against baseline: ", "billing"):
        assert words in said
    assert names["tuned"].verdict == "use the winner"
    assert names["answer"].response_metadata["selfreg"]["config_version"] in [c.id for c in runtime().configs.list()]
    spent = {status.scope: status.spent for status in runtime().meter.status()}
    assert names["tuned"].spent == spent["study:triage"] <= Decimal("0.05")
    assert runtime().meter.totals().usd == sorter.billed.usd


@pytest.mark.parametrize("name", TASKS)
def test_every_task_file_of_the_page_can_be_tuned(name: str, folder: Path, sorter: FakeProvider) -> None:
    quote = dry_run(folder / name)
    assert quote.task == load_task(folder / name).spec.name
    assert all(worst > 0 for worst in quote.first.values())
    assert sorter.requests == []


def test_the_scorer_of_the_page(folder: Path) -> None:
    scorer = load_function("scores:short_and_right", folder=folder, arguments=2)
    example = Example(id="1", fields={"question": "What is the capital of Peru?", "answer": "Lima"})
    assert scorer("Lima", example) > scorer("It is Lima, of course.", example) > 0 > scorer("Rome", example)


def test_every_block_is_of_a_kind_that_is_run() -> None:
    assert {(block.language, bool(block.file)) for block in BLOCKS} == {
        ("console", False),
        ("yaml", True),
        ("json", True),
        ("python", False),
        ("python", True),
    }
