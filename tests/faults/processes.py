"""Worker processes that start their work at the same moment."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]


def start_python(*arguments: str, stderr: int | None = None) -> subprocess.Popen[str]:
    """A Python process with pipes; a worker says "ready" and begins when it reads a line."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        cwd=ROOT,
    )


def start_together(workers: Sequence[subprocess.Popen[str]]) -> None:
    """Wait until every worker is ready, then let all of them go."""
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
