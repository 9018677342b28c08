"""The command line as a person meets it: real processes, real files, a real server."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from selfreg_sdk.cli import main
from tests.fake_provider import FakeProvider

PLAN = '{"family":"extraction","determinism":"exact","diversity":"one","depth":"none","length":"line"}'
FREE = "prices: {fake-model: free}\n"


class Done(NamedTuple):
    """What a finished command said."""

    returncode: int
    stdout: str
    stderr: str


Run = Callable[..., Done]


@pytest.fixture
def selfreg(store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command line in this process, as the installed script does."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("SELFREG_STORE", str(store))

    def run(*arguments: str, stdin: str = "") -> Done:
        monkeypatch.setattr("sys.argv", ["selfreg", *arguments])
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        return Done(code if isinstance(code, int) else 0, *capsys.readouterr())

    return run


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "cli.db"


@pytest.fixture
def planning() -> FakeProvider:
    return FakeProvider(reply=lambda payload: PLAN if "You plan" in payload["messages"][0]["content"] else "an answer")


def test_help_teaches_every_command(selfreg: Run, store: Path) -> None:
    shown = selfreg("--help")
    assert shown.returncode == 0
    for command in ("demo", "serve", "ask", "explain", "configs", "budget"):
        assert command in shown.stdout
        assert selfreg(command, "--help").returncode == 0
    assert not store.exists()  # help opens nothing


def test_ask_then_configs_then_budget(selfreg: Run, tmp_path: Path, planning: FakeProvider) -> None:
    prices = tmp_path / "prices.yaml"
    prices.write_text('prices: {fake-model: {input_usd_per_mtok: "0.40", output_usd_per_mtok: "1.60"}}\n')
    with planning as provider:
        options = ["-m", "fake-model", "--base-url", provider.base_url, "--task", "triage", "--prices", str(prices)]
        first = selfreg("ask", "hello", *options, "--budget", "1.00 USD", "--json")
        assert first.returncode == 0, first.stderr
        answer = json.loads(first.stdout)
        assert answer["answer"] == "an answer"
        assert answer["selfreg"]["source"] == "plan"
        second = selfreg("ask", "-", *options, "--budget", "1.00 USD", stdin="from stdin")
        assert second.stdout == "an answer\n"
        assert second.stderr.startswith("cached plan")
        assert provider.requests[-1].payload["messages"][-1]["content"] == "from stdin"
        billed = provider.billed.usd
    listed = json.loads(selfreg("configs", "list", "--json").stdout)
    assert [(row["task_key"], row["production"]) for row in listed] == [("triage|fake-model|first", True)]
    shown = json.loads(selfreg("configs", "show", str(listed[0]["id"]), "--json").stdout)
    assert shown["plan"]["family"] == "extraction"
    assert shown["provenance"]["planner"] == "fake-model"
    spent = json.loads(selfreg("budget", "show", "--json", "--last", "5").stdout)
    assert spent["budgets"][0]["spent_usd"] == str(billed) == spent["totals"]["usd"]
    assert [row["purpose"] for row in spent["attempts"]] == ["answer", "answer", "plan"]


def test_explain_sends_nothing(selfreg: Run, provider: FakeProvider) -> None:
    shown = selfreg(
        "explain", "hello", "-m", "fake-model", "--base-url", provider.base_url, "-p", "temperature=0.2", "--json"
    )
    found = json.loads(shown.stdout)
    assert found["sent"]["temperature"] == 0.2
    assert found["would_plan"] is True
    assert provider.requests == []


def test_tables_for_people(selfreg: Run) -> None:
    shown = selfreg("explain", "hello", "-m", "gpt-4.1-mini", "--budget", "1", "--task", "t")
    assert shown.returncode == 0, shown.stderr
    assert "a planning call would come first" in shown.stdout
    assert "no configurations stored yet" in selfreg("configs", "list").stdout
    assert "no budget was used yet" in selfreg("budget", "show").stdout


def _no_server() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/v1"


BAD = {
    "negative budget": (["explain", "x", "-m", "gpt-4.1-mini", "--budget=-2.00 USD"], 2, "-2.00 USD"),
    "other currency": (["explain", "x", "-m", "gpt-4.1-mini", "--budget", "2 EUR"], 2, "EUR"),
    "unknown model under a cap": (["explain", "x", "-m", "no-such-model", "--budget", "1"], 2, "no-such-model"),
    "temperature": (["explain", "x", "-m", "gpt-4.1-mini", "-p", "temperature=hot"], 2, "temperature='hot'"),
    "temperature out of range": (["explain", "x", "-m", "gpt-4.1-mini", "-p", "temperature=3"], 2, "temperature=3"),
    "no such parameter": (
        ["explain", "x", "-m", "gpt-4.1-mini", "-p", "temprature=1"],
        2,
        "did you mean 'temperature'",
    ),
    "no pair": (["explain", "x", "-m", "gpt-4.1-mini", "-p", "hot"], 2, "NAME=VALUE"),
    "no model": (["ask", "x"], 2, "model"),
    "aggregation": (["explain", "x", "-m", "gpt-4.1-mini", "--aggregation", "most"], 2, "'most'"),
    "best without a scorer": (["explain", "x", "-m", "gpt-4.1-mini", "--aggregation", "best of 3"], 2, "scorer"),
    "not a URL": (["ask", "x", "-m", "m", "--base-url", "localhost"], 2, "localhost"),
    "no server": (["ask", "x", "-m", "m", "--base-url", "{no_server}"], 4, "{no_server}"),
    "no key": (["ask", "x", "-m", "gpt-4.1-mini"], 2, "OPENAI_API_KEY"),
    "prices file": (["explain", "x", "-m", "m", "--prices", "/nonexistent.yaml"], 2, "/nonexistent.yaml"),
    "configs show": (["configs", "show", "999"], 2, "999"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_line(case: str, selfreg: Run) -> None:
    arguments, code, names = BAD[case]
    url = _no_server()
    done = selfreg(*(argument.replace("{no_server}", url) for argument in arguments))
    assert done.returncode == code, done.stderr
    assert names.replace("{no_server}", url) in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def test_the_installed_command_ends_without_a_traceback(store: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from selfreg_sdk.cli import main; main()", "explain", "x", "-m", "m", "--budget=-1"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "SELFREG_STORE": str(store)},
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: '-1' is negative")
    assert not store.exists()


def test_a_store_that_is_no_database_is_left_alone(
    tmp_path: Path, selfreg: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("my only copy of something important\n" * 100)
    before = notes.read_bytes()
    monkeypatch.setenv("SELFREG_STORE", str(notes))
    for arguments in (["budget", "show"], ["explain", "x", "-m", "gpt-4.1-mini"]):
        done = selfreg(*arguments)
        assert done.returncode == 2
        assert str(notes) in done.stderr
        assert "Traceback" not in done.stderr
    assert notes.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("notes")) == ["notes.txt"]


def test_over_budget_has_its_own_exit_code(selfreg: Run, tmp_path: Path, provider: FakeProvider) -> None:
    prices = tmp_path / "prices.yaml"
    prices.write_text('prices: {fake-model: {input_usd_per_mtok: "400", output_usd_per_mtok: "1600"}}\n')
    done = selfreg(
        "ask", "x", "-m", "fake-model", "--base-url", provider.base_url, "--prices", str(prices), "--budget", "0.0001",
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert "cap 0.0001 USD" in done.stderr
    assert provider.requests == []
