"""An OpenAI-compatible server on loopback whose answers were recorded: a run of a tuner against it costs nothing real.

``python -m bench.replay_endpoint --data DIR`` prints its port and serves until its standard input ends.

- ``POST /v1/chat/completions``: ``model`` is a recorded model; ``[[prompt=NAME]]`` and ``[[problem=ID]]`` anywhere in the
  messages choose prompt and problem. Of several names (``[[prompt=A,B]]``) the first that was recorded for the model counts.
- ``POST /reset?seed=N``: a fresh run, its draws in the order of that seed; ``&latency=S`` makes every later answer S seconds late.
- ``GET /bill``: what this run has been billed so far.

What stands before these paths names a run, so that one server holds many at once: ``/a/v1/chat/completions``, ``/a/reset``, ``/a/bill``.

A request takes the next ``n`` samples of its (model, prompt, temperature, problem). When fewer are left than it wants, the samples
start over in a new order: a provider's never end, and no request holds one twice.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import parse_qs, urlsplit

import numpy as np

from bench.replay_data import EXAM, Recorded, load, split

_PROMPT = re.compile(r"\[\[prompt=([^\]]+)\]\]")
_PROBLEM = re.compile(r"\[\[problem=(\d+)\]\]")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_KNOWN = {"model", "messages", "temperature", "n", "max_tokens", "max_completion_tokens", "user", "seed"}
"""Fields that are answered to, or, like seed, no more than a wish."""
_HARMLESS: dict[str, object] = {"top_p": 1, "stream": False, "stop": None, "logprobs": False}
"""Fields that may be sent with this value alone: nothing else was recorded."""
_STATUS = {200: b"OK", 400: b"Bad Request", 404: b"Not Found"}


@dataclass(kw_only=True)
class Bill:
    """What a run was billed, in pico-USD and tokens; ``again`` counts how often a key's samples started over."""

    pico: int = 0
    requests: int = 0
    samples: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    refused: int = 0
    again: int = 0


class Refused(Exception):
    """A request that the recording cannot answer: HTTP 400, in OpenAI's shape."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(message)
        self.param = param


class Replay:
    """The recording as a provider: hands out samples and keeps the bill."""

    def __init__(self, recorded: Recorded, *, run: str = "", truth: TextIO | None = None) -> None:
        """``truth`` gets a JSON line per billed request, before its answer leaves."""
        self._data, self._run, self._truth, self.latency = recorded, run, truth, 0.0
        self._arms: dict[tuple[str, str], list[int]] = {}
        for at, (model, prompt, _) in enumerate(recorded.cells):
            self._arms.setdefault((model, prompt), []).append(at)
        self._models = {model for model, _ in self._arms}
        self._places = {problem: at for at, problem in enumerate(recorded.problems)}
        self.reset(0)

    def reset(self, seed: int) -> None:
        """Start a run: nothing drawn, nothing billed."""
        self.bill, self._seed = Bill(), seed
        self._order = split(self._data, seed).order
        self._rest: dict[tuple[int, int], list[int]] = {}
        self._turn: dict[tuple[int, int], int] = {}

    def answer(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """The reply to a chat completions request, billed.

        Raises:
            Refused: nothing of the kind was recorded.
        """
        try:
            cell, problem = self._cell(asked), self._problem(asked)
            n = self._count(asked, "n", 1, self._data.samples)
            named = "max_completion_tokens" if asked.get("max_completion_tokens") is not None else "max_tokens"
            longest = self._count(asked, named, self._data.longest, None)
            self._recorded_alone(asked)
        except Refused:
            self.bill.refused += 1
            raise
        slots = self._draw(cell, problem, n)
        lengths = [int(self._data.tokens[cell, problem, slot]) for slot in slots]
        usage = self._charge(cell, problem, slots, sum(min(length, longest) for length in lengths))
        return {
            "id": f"chatcmpl-{self.bill.requests}",
            "object": "chat.completion",
            "created": 1_700_000_000,
            "model": asked["model"],
            "choices": [
                {
                    "index": index,
                    "message": {"role": "assistant", "content": self._data.content(cell, problem, slot, longest)},
                    "finish_reason": "length" if length > longest else "stop",
                    "logprobs": None,
                }
                for index, (slot, length) in enumerate(zip(slots, lengths, strict=True))
            ],
            "usage": usage,
        }

    def _cell(self, asked: Mapping[str, Any]) -> int:
        model = asked.get("model")
        if model not in self._models:
            raise Refused("model", f"model {model!r} was not recorded; recorded are {', '.join(sorted(self._models))}")
        names = self._marked(asked, _PROMPT, "prompt").split(",")
        arm = next((self._arms[model, name] for name in names if (model, name) in self._arms), None)
        if arm is None:
            raise Refused("messages", f"model {model!r} was not recorded with prompt {' or '.join(names)}")
        wanted = asked.get("temperature")
        wanted = 1.0 if wanted is None else wanted
        if isinstance(wanted, bool) or not isinstance(wanted, int | float):
            raise Refused("temperature", f"temperature must be a number, not {wanted!r}")
        grid = [self._data.cells[at][2] for at in arm]
        step = (max(grid) - min(grid)) / max(len(grid) - 1, 1)
        if not min(grid) - step / 2 <= wanted <= max(grid) + step / 2:
            raise Refused("temperature", f"temperature {wanted!r} was not recorded; {min(grid)} to {max(grid)} were")
        return min(arm, key=lambda at: abs(self._data.cells[at][2] - wanted))

    def _problem(self, asked: Mapping[str, Any]) -> int:
        problem = int(self._marked(asked, _PROBLEM, "problem"))
        if problem not in self._places:
            raise Refused("messages", f"problem {problem} was not recorded")
        return self._places[problem]

    @staticmethod
    def _marked(asked: Mapping[str, Any], marker: re.Pattern[str], name: str) -> str:
        messages = asked.get("messages")
        for message in messages if isinstance(messages, list) else []:
            content = message.get("content") if isinstance(message, dict) else None
            if isinstance(content, str) and (found := marker.search(content)):
                return found[1]
        raise Refused("messages", f"no message holds [[{name}=...]]")

    @staticmethod
    def _count(asked: Mapping[str, Any], name: str, default: int, most: int | None) -> int:
        value = asked.get(name)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int) or value < 1 or (most is not None and value > most):
            raise Refused(name, f"{name} must be a whole number from 1{f' to {most}' if most else ''}, not {value!r}")
        return value

    @staticmethod
    def _recorded_alone(asked: Mapping[str, Any]) -> None:
        for name, value in asked.items():
            if name not in _KNOWN and (name not in _HARMLESS or value not in (None, _HARMLESS[name])):
                raise Refused(name, f"{name}={value!r} was not recorded: leave it out")

    def _draw(self, cell: int, problem: int, n: int) -> list[int]:
        key = (cell, problem)
        rest = self._rest.get(key)
        if rest is None:
            rest = self._order[cell, problem].tolist()
        elif len(rest) < n:
            self._turn[key] = self._turn.get(key, 0) + 1
            dice = np.random.default_rng([78, self._seed, self._turn[key], cell, problem])
            rest = dice.permutation(self._data.samples).tolist()
            self.bill.again += 1
        self._rest[key] = rest[n:]
        return rest[:n]

    def _charge(self, cell: int, problem: int, slots: list[int], completion: int) -> dict[str, int]:
        prompt = int(self._data.prompt[cell, problem])
        pico = prompt * int(self._data.price[cell, 0]) + completion * int(self._data.price[cell, 1])
        bill = self.bill
        bill.pico += pico
        bill.requests += 1
        bill.samples += len(slots)
        bill.prompt_tokens += prompt
        bill.completion_tokens += completion
        if self._truth is not None:
            model, name, temperature = self._data.cells[cell]
            line = {
                "run": self._run,
                "seed": self._seed,
                "model": model,
                "prompt": name,
                "temperature": temperature,
                "slots": slots,
            }
            line |= {"problem": self._data.problems[problem], "pico": pico, "total": bill.pico}
            self._truth.write(json.dumps(line) + "\n")
            self._truth.flush()
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


class Router:
    """Routes requests to their runs; shared by all connections."""

    def __init__(self, recorded: Recorded, *, truth: TextIO | None = None) -> None:
        self._recorded, self._truth = recorded, truth
        self._runs: dict[str, Replay] = {}

    def respond(self, method: bytes, target: str, body: bytes) -> tuple[bytes, float]:
        """The response and how many seconds late it comes."""
        url = urlsplit(target)
        for path in ("/v1/chat/completions", "/reset", "/bill"):
            if url.path.endswith(path) and (method == b"GET") == (path == "/bill"):
                name = url.path.removesuffix(path)
                break
        else:
            return _response(404, _error("no such path", None)), 0.0
        run = self._runs.get(name)
        if run is None:
            run = self._runs[name] = Replay(self._recorded, run=name, truth=self._truth)
        if path == "/v1/chat/completions":
            return self._complete(run, body), run.latency
        if path == "/reset":
            given = {field: values[-1] for field, values in parse_qs(url.query).items()}
            run.latency = float(given.get("latency", 0))
            run.reset(int(given.get("seed", 0)))
        return _response(200, asdict(run.bill)), 0.0

    @staticmethod
    def _complete(run: Replay, body: bytes) -> bytes:
        try:
            asked = json.loads(body)
            if not isinstance(asked, dict):
                raise Refused("body", "the body must be a JSON object")
            return _response(200, run.answer(asked))
        except ValueError:
            return _response(400, _error("the body is not JSON", None))
        except Refused as refused:
            return _response(400, _error(str(refused), refused.param))


def _error(message: str, param: str | None) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": None}}


def _response(status: int, reply: Mapping[str, Any]) -> bytes:
    body = json.dumps(reply).encode()
    head = b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    return head % (status, _STATUS[status], len(body)) + body


class _Connection(asyncio.Protocol):
    """Answers every complete request on a connection that stays open."""

    def __init__(self, router: Router) -> None:
        self._router, self._held = router, bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._held += data
        while (end := self._held.find(b"\r\n\r\n")) >= 0:
            length = _LENGTH.search(self._held, 0, end)
            total = end + 4 + (int(length[1]) if length else 0)
            if len(self._held) < total:
                return
            method, target, _ = bytes(self._held[: self._held.find(b"\r\n")]).split(b" ", 2)
            body = bytes(self._held[end + 4 : total])
            del self._held[:total]
            reply, late = self._router.respond(method, target.decode(), body)
            if late:
                asyncio.get_running_loop().call_later(late, self._transport.write, reply)
            else:
                self._transport.write(reply)


async def _serve(router: Router) -> None:
    loop = asyncio.get_running_loop()
    listening = await loop.create_server(lambda: _Connection(router), "127.0.0.1", 0, backlog=512)
    print(listening.sockets[0].getsockname()[1], flush=True)
    async with listening:
        await loop.run_in_executor(None, sys.stdin.read)


def main() -> None:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser(prog="python -m bench.replay_endpoint", description=main.__doc__)
    parser.add_argument("--data", type=Path, required=True, help="The folder that holds replay/jhu_temperature.")
    parser.add_argument("--exam", default=EXAM)
    parser.add_argument("--truth", type=Path, help="A file that gets a JSON line for every billed request.")
    given = parser.parse_args()
    recorded = load(given.data, exam=given.exam, texts=True)
    with given.truth.open("a") if given.truth else nullcontext() as truth:
        asyncio.run(_serve(Router(recorded, truth=truth)))


if __name__ == "__main__":
    main()
