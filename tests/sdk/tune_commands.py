"""Tasks for the commands that tune, and how the commands are run."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from selfreg_sdk.cli import main
from tests.fake_provider import FakeProvider
from tests.tuner.sorting import PRICES, Sorting

LABELS = {f"number {number};": "even" if number % 2 == 0 else "odd" for number in range(20)}

TASK = """\
name: parity
examples: numbers.jsonl
prompts: "Even or odd: {number}"
models: [fake-model]
prices: prices.yaml
space: {temperature: [0, 0.5, 1], n: [1, 3], max_tokens: 8}
metric: {name: vote, scorer: exact}
baseline: {temperature: 1, max_tokens: 8}
inference_budget: 0.0002 USD
budget: 0.02 USD
holdout: 0.5
workers: 4
"""

COMMAND = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "  # background jobs start with it ignored
    "from selfreg_sdk.cli import main; main()"
)


class Done(NamedTuple):
    """What a finished command said."""

    returncode: int
    stdout: str
    stderr: str

    def json(self) -> Any:
        """The document of a command that did what it was asked to."""
        assert self.returncode == 0, self.stderr
        return json.loads(self.stdout)


Run = Callable[..., Done]


@pytest.fixture
def selfreg(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command line in this process, as the installed script does."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str | Path) -> Done:
        monkeypatch.setattr("sys.argv", ["selfreg", *map(str, arguments)])
        monkeypatch.setattr("sys.stdin", io.StringIO())
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        return Done(code if isinstance(code, int) else 0, *capsys.readouterr())

    return run


@pytest.fixture
def sorter(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeProvider]:
    with FakeProvider(reply=Sorting(LABELS)) as running:
        monkeypatch.setenv("SELFREG_BASE_URL", running.base_url)
        monkeypatch.setenv("SELFREG_API_KEY", "key")
        yield running


def write_task(folder: Path, **changes: str) -> Path:
    """The task and the files that it names; a change replaces the line of that key."""
    lines = [
        f"{line.partition(':')[0]}: {changes.get(line.partition(':')[0], line.partition(': ')[2])}"
        for line in TASK.splitlines()
    ]
    file = folder / "parity.yaml"
    file.write_text("\n".join(lines) + "\n")
    rows = (f'{{"number": "{text}", "answer": "{label}"}}\n' for text, label in LABELS.items())
    (folder / "numbers.jsonl").write_text("".join(rows))
    (folder / "prices.yaml").write_text(PRICES % "fake-model")
    return file


@contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The command in a process of its own."""
    with subprocess.Popen(
        [sys.executable, "-c", COMMAND, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "200", "OMP_NUM_THREADS": "1"},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def reached(provider: FakeProvider, requests: int, process: subprocess.Popen[str]) -> bool:
    """Whether a running command comes to so many requests before it ends."""
    until = time.monotonic() + 60
    while len(provider.requests) < requests and process.poll() is None and time.monotonic() < until:
        provider.wait_until(lambda server: len(server.requests) >= requests, timeout=0.1)
    return len(provider.requests) >= requests
