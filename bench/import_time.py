"""How long imports take: the package beside pydantic, which it stands on, and the chat model beside LangChain's own."""

from __future__ import annotations

import subprocess
import sys
import time
from statistics import median

from bench.rows import Row, ratio_of_medians, versions

_CASES = (
    ("import selfreg_sdk", "import pydantic; pydantic.BaseModel", "import pydantic", "pydantic"),
    ("import selfreg_sdk.chat_model", "import langchain_openai", "import langchain_openai", "langchain-openai"),
)
"""Ours, the peer's code, how it is shown, and its distribution."""


def run(quick: bool) -> list[Row]:
    """Fresh interpreters, alternating, so that both see the same machine; the empty interpreter is subtracted."""
    return [_case(*case, rounds=10 if quick else 30) for case in _CASES]


def _case(code: str, peer_code: str, peer_name: str, distribution: str, *, rounds: int) -> Row:
    ours, peer = [], []
    for _ in range(rounds):
        empty = _seconds("pass")
        ours.append(_seconds(code) - empty)
        peer.append(_seconds(peer_code) - empty)
    ratio, low, high = ratio_of_medians(ours, peer)
    return Row(
        bench="import_time",
        case=code,
        metric="wall time of a fresh interpreter",
        unit="ms",
        ours=median(ours) * 1e3,
        peer=median(peer) * 1e3,
        peer_name=peer_name,
        ratio=ratio,
        low=low,
        high=high,
        n=rounds,
        versions=versions(distribution),
    )


def _seconds(code: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - started
