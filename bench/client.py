"""What a call through selfreg costs, beside ChatOpenAI and OpenAI's client, on a loopback server that answers at once.

Server and client have a core each, rounds are interleaved in random order, ratios are of medians over rounds. Ours is the
product as it is used: plan remembered, budget held, every call durable in the ledger of a file (or, where a case says so,
of a file in memory, which leaves out what this machine's disk takes for a sync). CPU rows stand beside the wall-clock rows,
because wall time on a shared machine is noisy.
"""

from __future__ import annotations

import asyncio
import gc
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import aiohttp

from bench.client_paths import (
    Constant,
    around,
    conversation,
    invoking,
    of_aiohttp,
    of_openai,
    own,
    peer,
    planned_store,
    streaming,
)
from bench.client_timing import WAYS, Call, Cost, Server, cpus, server_apart, side_by_side, walls
from bench.rows import Row, ratio_of_medians, versions

BUDGET = "1000 USD"
TIMES_CHAT_OPENAI = {2: 3.0, 40: 8.0, 200: 20.0}
"""Messages to how many times its throughput ours should be."""
THINKING = 100
"""Milliseconds that even a fast provider takes for a short answer."""
MEMORY_DISK = Path("/dev/shm")
_PACKAGES = ("langchain-core", "langchain-openai", "openai", "httpx2", "aiohttp", "sqlalchemy", "pydantic")


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is measured.

    Attributes:
        rounds: of each path.
        sequential: calls one after the other in a round.
        concurrent: message count to calls in a round, `WAYS` at the same time; 2 is among them.
        pieces: of the long stream.
        streams: streams in a round.
    """

    rounds: int
    sequential: int
    concurrent: Mapping[int, int]
    pieces: int
    streams: int


QUICK = Sizes(rounds=5, sequential=60, concurrent={2: 256, 40: 128, 200: 64}, pieces=400, streams=3)
FULL = Sizes(rounds=15, sequential=200, concurrent={2: 768, 40: 256, 200: 128}, pieces=400, streams=8)


def run(quick: bool) -> list[Row]:
    """All rows."""
    return measure(QUICK if quick else FULL)


def measure(sizes: Sizes, *, seed: int = 7) -> list[Row]:
    """All rows, of any size."""
    with ExitStack() as stack:
        server = stack.enter_context(server_apart())

        def folder(where: Path | None) -> Path:
            return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="selfreg-bench-", dir=where)))

        disk, memory = folder(None), folder(MEMORY_DISK) if MEMORY_DISK.is_dir() else None
        bench = Bench(sizes=sizes, seed=seed, server=server, disk=disk, memory=memory)
        gc.collect()
        gc.freeze()  # collections between rounds then look at what the rounds made, not at every module
        try:
            return asyncio.run(bench.rows())
        finally:
            gc.unfreeze()


@dataclass(frozen=True, kw_only=True)
class Bench:
    """One run of all cases.

    Attributes:
        sizes, seed, server: how much, in which order, against what.
        disk: folder for stores.
        memory: the same on a disk in memory, None where there is none.
    """

    sizes: Sizes
    seed: int
    server: Server
    disk: Path
    memory: Path | None

    async def rows(self) -> list[Row]:
        """All rows, in the order of the cases."""
        places = {"": self.disk} | ({", store in memory": self.memory} if self.memory else {})
        rows: list[Row] = []
        for where, folder in places.items():
            store = planned_store(folder / "store.db")
            rows += await self._around(store, where)
            # How long conversations are does not matter to a disk.
            lengths = self.sizes.concurrent if folder is self.disk else {2: self.sizes.concurrent[2]}
            rows += await self._own(store, where, lengths)
        rows += await self._without_ledger()
        rows += await self._streams()
        rows += await self._floors()
        return rows

    async def _around(self, store: Path, where: str) -> list[Row]:
        """Around an inner model, plan remembered."""
        inner, messages = peer(self.server.url()), conversation(2)
        paths = {"ours": invoking(around(inner, store), messages), "peer": invoking(inner, messages)}
        one = await self._timed(paths, self.sizes.sequential, ways=1)
        many = await self._timed(paths, self.sizes.concurrent[2], ways=WAYS)
        thinking = peer(self.server.url(delay=THINKING))
        paths = {"ours": invoking(around(thinking, store), messages), "peer": invoking(thinking, messages)}
        late = await self._timed(paths, max(self.sizes.sequential // 8, 1), ways=1)
        name, case = "the inner ChatOpenAI alone", f"around ChatOpenAI, plan cached, ledger{where}"
        return [
            self._latency(f"{case}: one at a time", one, name, target=1.03),
            self._cpu(f"{case}: one at a time", one, name),
            self._latency(f"{case}: one at a time, answers take {THINKING} ms", late, name, target=1.03),
            self._throughput(f"{case}: {WAYS} at a time", many, name, target=0.97),
            self._cpu(f"{case}: {WAYS} at a time", many, name),
        ]

    async def _own(self, store: Path, where: str, lengths: Mapping[int, int]) -> list[Row]:
        """On the endpoint, ledger and budget on."""
        ours, other = own(self.server.url(), store, budget=BUDGET), peer(self.server.url())
        rows, case = [], f"own endpoint, budget and ledger{where}"
        for count, calls in lengths.items():
            messages = conversation(count)
            paths = {"ours": invoking(ours, messages), "peer": invoking(other, messages)}
            many = await self._timed(paths, calls, ways=WAYS)
            said = f"{case}: {count} messages, {WAYS} at a time"
            rows += [
                self._throughput(said, many, "ChatOpenAI", target=TIMES_CHAT_OPENAI.get(count)),
                self._cpu(said, many, "ChatOpenAI"),
            ]
        paths = {"ours": invoking(ours, conversation(2)), "peer": invoking(other, conversation(2))}
        one = await self._timed(paths, self.sizes.sequential, ways=1)
        said = f"{case}: 2 messages, one at a time"
        return [
            *rows,
            self._latency(said, one, "ChatOpenAI", target=0.75),
            self._cpu(said, one, "ChatOpenAI"),
            self._sync(store.parent, one["peer"], where),
        ]

    async def _without_ledger(self) -> list[Row]:
        """On the endpoint, nothing durable."""
        messages = conversation(2)
        client_call, client = of_openai(self.server.url(), messages)
        paths = {
            "ours": invoking(own(self.server.url(), ":memory:", budget=None), messages),
            "peer": invoking(peer(self.server.url()), messages),
            "openai": client_call,
        }
        one = await self._timed(paths, self.sizes.sequential, ways=1)
        many = await self._timed(paths, self.sizes.concurrent[2], ways=WAYS)
        await client.close()
        case = "own endpoint, no ledger: 2 messages"
        beside = [{"ours": costs["ours"], "peer": costs["openai"]} for costs in (one, many)]
        return [
            self._latency(f"{case}, one at a time", one, "ChatOpenAI", target=0.6),
            self._cpu(f"{case}, one at a time", one, "ChatOpenAI"),
            self._latency(f"{case}, one at a time", beside[0], "AsyncOpenAI"),
            self._throughput(f"{case}, {WAYS} at a time", beside[1], "AsyncOpenAI"),
            self._row(f"{case}, {WAYS} at a time", "server's CPU a call beside ours", "ms", _served(many), "our CPU"),
        ]

    async def _streams(self) -> list[Row]:
        """What one more piece of a stream costs: long streams minus streams of one piece."""
        messages, store = conversation(2), planned_store(self.disk / "streams.db")
        costs: dict[int, dict[str, list[Cost]]] = {}
        for pieces in (1, self.sizes.pieces):
            url = self.server.url(pieces=pieces)
            paths = {
                "ours": streaming(own(url, store, budget=BUDGET), messages),
                "peer": streaming(peer(url), messages),
            }
            costs[pieces] = await self._timed(paths, self.sizes.streams, ways=1)
        more = self.sizes.pieces - 1

        def each(name: str, of: str) -> list[float]:
            base = median(getattr(cost, of) for cost in costs[1][name])
            return [max(getattr(cost, of) - base, 1e-9) / more for cost in costs[self.sizes.pieces][name]]

        return [
            self._row(
                f"streams of {self.sizes.pieces} pieces",
                f"{said} of one more piece",
                "us",
                (each("ours", of), each("peer", of)),
                "ChatOpenAI",
                scale=1e6,
                target=0.5,
            )
            for of, said in (("wall", "time"), ("cpu", "CPU"))
        ]

    async def _floors(self) -> list[Row]:
        """For orientation: what nobody who speaks HTTP, or LangChain, can be faster than."""
        messages = conversation(2)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            paths: dict[str, Call] = {
                "aiohttp": of_aiohttp(self.server.url(), messages, session),
                "constant": invoking(Constant(), messages),
                "peer": invoking(peer(self.server.url()), messages),
            }
            costs = await self._timed(paths, self.sizes.sequential, ways=1)
        floors = (("aiohttp", "floor: bytes by aiohttp"), ("constant", "floor: a LangChain model that answers at once"))
        return [
            self._latency(f"{case}, one at a time", {"ours": costs[name], "peer": costs["peer"]}, "ChatOpenAI")
            for name, case in floors
        ]

    async def _timed(self, paths: Mapping[str, Call], calls: int, *, ways: int) -> dict[str, list[Cost]]:
        return await side_by_side(
            paths, calls=calls, ways=ways, rounds=self.sizes.rounds, seed=self.seed, server=self.server
        )

    def _latency(
        self, case: str, costs: Mapping[str, Sequence[Cost]], name: str, *, target: float | None = None
    ) -> Row:
        return self._row(case, "latency", "ms", (walls(costs["ours"]), walls(costs["peer"])), name, target=target)

    def _cpu(self, case: str, costs: Mapping[str, Sequence[Cost]], name: str) -> Row:
        return self._row(case, "CPU of a call", "ms", (cpus(costs["ours"]), cpus(costs["peer"])), name)

    def _throughput(
        self, case: str, costs: Mapping[str, Sequence[Cost]], name: str, *, target: float | None = None
    ) -> Row:
        ours, other = ([1 / wall for wall in walls(costs[who])] for who in ("ours", "peer"))
        return self._row(case, "throughput", "calls/s", (ours, other), name, scale=1, target=target, better="higher")

    def _sync(self, folder: Path, costs: Sequence[Cost], where: str) -> Row:
        """What a durable ledger cannot go below, one call at a time."""
        return self._row(
            f"floor: one sync of the disk{where}", "latency", "ms", (_syncs(folder), walls(costs)), "ChatOpenAI"
        )

    def _row(
        self,
        case: str,
        metric: str,
        unit: str,
        values: tuple[Sequence[float], Sequence[float]],
        name: str,
        *,
        scale: float = 1e3,
        target: float | None = None,
        better: str = "lower",
    ) -> Row:
        ours, other = values
        ratio, low, high = ratio_of_medians(ours, other, seed=self.seed)
        return Row(
            bench="client" if self.server.apart else "client (server and client share one core)",
            case=case,
            metric=metric,
            unit=unit,
            ours=median(ours) * scale,
            peer=median(other) * scale,
            peer_name=name,
            ratio=ratio,
            low=low,
            high=high,
            n=len(ours),
            seeds=(self.seed,),
            versions=versions(*_PACKAGES),
            target=target,
            better="higher" if better == "higher" else "lower",
        )


def _served(costs: Mapping[str, Sequence[Cost]]) -> tuple[list[float], list[float]]:
    return [max(cost.served, 1e-9) for cost in costs["ours"]], cpus(costs["ours"])


def _syncs(folder: Path, *, count: int = 21) -> list[float]:
    """Seconds this disk takes to make a small write durable."""
    taken = []
    with open(folder / "sync", "wb") as file:
        for _ in range(count):
            file.write(b"x" * 4096)
            file.flush()
            started = time.perf_counter()
            os.fsync(file.fileno())
            taken.append(time.perf_counter() - started)
    return taken
