"""The replay endpoint as a process of its own, and a plain blocking client of it."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from bench.replay_data import EXAM, PICO
from bench.replay_task import Configuration, Offer, Problem

_ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, kw_only=True)
class Reply:
    """The texts of one request and what it cost in USD, by its usage and the price list."""

    texts: tuple[str, ...]
    prompt: Decimal
    completion: Decimal


class Endpoint:
    """A run at a running replay endpoint: its address, what it offers, its bill. For one thread; others use ``url``."""

    def __init__(self, port: int, offer: Offer, run: str) -> None:
        self.url = f"http://127.0.0.1:{port}/{run}/v1"
        self.offer = offer
        self._port, self._run = port, run
        self._wire = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def another(self, run: str) -> Endpoint:
        """Another run at the same process, with draws and a bill of its own."""
        return Endpoint(self._port, self.offer, run)

    def reset(self, seed: int, *, latency: float = 0.0) -> None:
        """Start a run: samples in the order of the seed, nothing billed."""
        self._call("POST", f"/reset?seed={seed}&latency={latency}")

    def bill(self) -> Decimal:
        """USD that this run has been billed, whatever its tuner says."""
        return Decimal(self.facts()["pico"]) / PICO

    def facts(self) -> dict[str, int]:
        """The bill in full (see `bench.replay_endpoint.Bill`)."""
        return self._call("GET", "/bill")

    def complete(self, choice: Configuration, problem: Problem, n: int) -> Reply:
        """The next n samples of a configuration on a problem, in one request."""
        body = {
            "model": choice.model,
            "messages": self.offer.messages(choice.prompt, problem),
            "temperature": choice.temperature,
            "max_tokens": choice.max_tokens,
            "n": n,
        }
        said = self._call("POST", "/v1/chat/completions", body)
        into, out = self.offer.prices[choice.model]
        usage = said["usage"]
        return Reply(
            texts=tuple(each["message"]["content"] for each in said["choices"]),
            prompt=usage["prompt_tokens"] * into,
            completion=usage["completion_tokens"] * out,
        )

    def close(self) -> None:
        """Drop the connection."""
        self._wire.close()

    def _call(self, method: str, target: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        self._wire.request(method, f"/{self._run}{target}", None if body is None else json.dumps(body))
        response = self._wire.getresponse()
        said: dict[str, Any] = json.loads(response.read())
        if response.status != 200:
            raise RuntimeError(f"the replay endpoint refused {method} {target}: {said['error']['message']}")
        return said


@contextmanager
def serving(data: Path, offer: Offer, *, exam: str = EXAM, truth: Path | None = None) -> Iterator[Endpoint]:
    """An endpoint in a process of its own, until the block ends."""
    command = [sys.executable, "-m", "bench.replay_endpoint", "--data", str(data.resolve()), "--exam", exam]
    if truth is not None:
        command += ["--truth", str(truth.resolve())]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=_ROOT) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            port = process.stdout.readline().strip()
            if not port:
                raise RuntimeError(f"the replay endpoint did not start: {' '.join(command)}")
            with closing(Endpoint(int(port), offer, "run")) as endpoint:
                yield endpoint
        finally:
            with suppress(BrokenPipeError):
                process.stdin.close()
            process.wait(timeout=10)
