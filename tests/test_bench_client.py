"""The client bench runs to its end and says what it promises to say. What it measures is no matter of tests."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import aiohttp
import pytest

from bench import client
from bench.client_server import _stream, _whole
from bench.client_timing import server_apart, side_by_side
from bench.rows import Row, ratio_of_medians

SMALL = client.Sizes(rounds=2, sequential=2, concurrent={2: 4, 40: 2}, pieces=3, streams=1)


def test_the_bench_measures_every_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "MEMORY_DISK", tmp_path / "none")
    before = os.sched_getaffinity(0)
    rows = client.measure(SMALL)

    cases = " | ".join(row.case for row in rows)
    for said in ("around ChatOpenAI", "2 messages", "40 messages", "no ledger", "streams", "floor"):
        assert said in cases
    assert [row.target for row in rows if row.target] == [1.03, 1.03, 0.97, 3.0, 8.0, 0.75, 0.6, 0.5, 0.5]
    for row in rows:
        assert min(row.ours, row.peer, row.low) > 0, row.case
        assert row.low <= row.high
        assert json.loads(row.to_json())["met"] == row.met
    assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize(
    ("better", "ratio", "met"),
    [("lower", 0.7, True), ("lower", 0.9, False), ("higher", 0.9, True), ("higher", 0.7, False)],
)
def test_a_target_is_met_on_its_right_side(better: str, ratio: float, met: bool) -> None:
    given = dict(bench="b", case="c", metric="m", unit="u", ours=1, peer=1, peer_name="p", low=1, high=1, n=1)
    row = Row(**given, ratio=ratio, target=0.8, better=better)  # type: ignore[arg-type]

    assert row.met is met
    assert Row(**given, ratio=ratio).met is None  # type: ignore[arg-type]


async def test_rounds_are_interleaved_and_the_first_is_thrown_away() -> None:
    made: list[str] = []

    async def call(name: str) -> None:
        made.append(name)
        await asyncio.sleep(0.02 if name == "slow" else 0)

    with server_apart() as server:
        costs = await side_by_side(
            {"slow": lambda: call("slow"), "quick": lambda: call("quick")},
            calls=3,
            ways=3,
            rounds=4,
            seed=1,
            server=server,
        )
    assert {name: len(rounds) for name, rounds in costs.items()} == {"slow": 4, "quick": 4}
    assert made.count("slow") == made.count("quick") == 15
    assert "slow" in made[:6]
    assert "quick" in made[:6]
    assert ratio_of_medians(client.walls(costs["slow"]), client.walls(costs["quick"]))[0] > 1


async def test_the_server_answers_pipelined_split_and_delayed_requests() -> None:
    body = b'{"x": 1}'
    asked = b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    with server_apart() as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        for piece in (asked[:20], asked[20:] + asked, asked.replace(b"/v1", b"/s2/v1")):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.01)
        assert await asyncio.wait_for(reader.readexactly(2 * len(_whole())), 5) == _whole() * 2
        assert await asyncio.wait_for(reader.readexactly(len(_stream(2))), 5) == _stream(2)
        writer.close()
        async with aiohttp.ClientSession() as session:
            began = asyncio.get_running_loop().time()
            async with session.post(f"{server.url(delay=30)}/chat/completions", data=body) as response:
                assert (await response.json())["usage"]["total_tokens"] == 52
        assert asyncio.get_running_loop().time() - began >= 0.03
