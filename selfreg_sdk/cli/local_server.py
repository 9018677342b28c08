"""A local server that lives as long as a command does."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from queue import Empty, Queue
from threading import Thread

import httpx

from selfreg_sdk.cli.serve import backend_command
from selfreg_sdk.errors import ConfigError

_READY = re.compile(r"selfreg serving (\S+) on (http://\S+)")
_SECONDS_TO_START = 120.0


@dataclass(frozen=True, kw_only=True)
class LocalServer:
    """A running local backend."""

    model: str
    base_url: str

    def tokens(self) -> int:
        """Prompt and completion tokens the server itself has counted since it started."""
        text = httpx.get(f"{self.base_url.removesuffix('/v1')}/metrics", timeout=10).text
        counted = dict(re.findall(r"^selfreg_(prompt|completion)_tokens_total\S* (\d+)", text, re.MULTILINE))
        return int(counted["prompt"]) + int(counted["completion"])


@contextmanager
def local_server(model: str) -> Iterator[LocalServer]:
    """Start the local backend on a free port; stop it at the end.

    Raises:
        ConfigError: it does not start; the message holds its last words.
    """
    # One thread: a small model gains nothing from more, and loses much when they have to share cores.
    command = backend_command("serve", model, "--port", "0", "--threads", "1")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    lines: Queue[str | None] = Queue()
    Thread(target=_read, args=(process, lines), daemon=True).start()
    try:
        yield _started(lines)
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _read(process: subprocess.Popen[str], lines: Queue[str | None]) -> None:
    """Empty the pipe for as long as the server speaks, or it would block."""
    assert process.stdout is not None
    with process.stdout as stream:
        for line in stream:
            lines.put(line)
    lines.put(None)


def _started(lines: Queue[str | None]) -> LocalServer:
    said: list[str] = []
    while True:
        try:
            line = lines.get(timeout=_SECONDS_TO_START)
        except Empty:
            raise ConfigError(
                f"the local server did not start within {_SECONDS_TO_START:g} s: {''.join(said)[-500:]}"
            ) from None
        if line is None:
            raise ConfigError(f"the local server ended before it was ready: {''.join(said)[-500:]}")
        if match := _READY.search(line):
            return LocalServer(model=match[1], base_url=match[2])
        said.append(line)
