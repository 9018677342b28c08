"""Timing two ways of doing the same, side by side: interleaved rounds in random order, each on a core of its own."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

Call = Callable[[], Awaitable[object]]
WAYS = 64
"""Calls at the same time."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one call took in a round.

    Attributes:
        wall: seconds, from the first call's start to the last one's end, divided by the calls.
        cpu: seconds of this process, all threads.
        served: seconds of the server's process.
    """

    wall: float
    cpu: float
    served: float


@dataclass(frozen=True, kw_only=True)
class Server:
    """The loopback server.

    Attributes:
        port: where it listens.
        pid: its process.
        apart: it and the client have a core each.
    """

    port: int
    pid: int
    apart: bool

    def url(self, *, pieces: int | None = None, delay: int | None = None) -> str:
        """The base URL; with ``pieces``, of streams of that many; with ``delay``, of replies after so many ms."""
        path = "" if pieces is None else f"/s{pieces}"
        path += "" if delay is None else f"/d{delay}"
        return f"http://127.0.0.1:{self.port}{path}/v1"

    def cpu(self) -> float:
        """Seconds its process has used; 0 where the system does not tell."""
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def server_apart() -> Iterator[Server]:
    """The server on one core and this process on another, where there are two."""
    pinnable = hasattr(os, "sched_setaffinity")
    before = os.sched_getaffinity(0) if pinnable else set()
    cores = sorted(before)
    apart = len(cores) > 1
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.client_server", *([str(cores[0])] if apart else [])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[1],
        text=True,
    )
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        if apart:
            os.sched_setaffinity(0, {cores[1]})
        yield Server(port=port, pid=process.pid, apart=apart)
    finally:
        if pinnable:
            os.sched_setaffinity(0, before)
        process.kill()
        process.communicate()


async def side_by_side(
    paths: Mapping[str, Call], *, calls: int, ways: int, rounds: int, seed: int, server: Server
) -> dict[str, list[Cost]]:
    """The cost of each path in every round.

    Args:
        paths: name to what is called.
        calls: in one round; the first, which opens connections, makes fewer.
        ways: at the same time.
        rounds: measured.
        seed: of the order inside the rounds.
        server: asked for its own cost.
    """
    dice = random.Random(seed)
    costs: dict[str, list[Cost]] = {name: [] for name in paths}
    for number in range(rounds + 1):
        for name in dice.sample(sorted(paths), len(paths)):
            cost = await _round(paths[name], calls if number else min(calls, max(ways, calls // 4)), ways, server)
            if number:
                costs[name].append(cost)
    return costs


async def _round(call: Call, calls: int, ways: int, server: Server) -> Cost:
    left = iter(range(calls))

    async def work() -> None:
        for _ in left:
            await call()

    gc.collect()
    served, cpu, wall = server.cpu(), time.process_time(), time.perf_counter()
    if ways == 1:
        await work()
    else:
        await asyncio.gather(*(work() for _ in range(ways)))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Cost(wall=wall / calls, cpu=cpu / calls, served=(server.cpu() - served) / calls)


def walls(costs: Sequence[Cost]) -> list[float]:
    """Wall seconds per call, by round."""
    return [cost.wall for cost in costs]


def cpus(costs: Sequence[Cost]) -> list[float]:
    """CPU seconds per call, by round."""
    return [cost.cpu for cost in costs]
