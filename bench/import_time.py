"""How long `import selfreg_sdk` takes, beside `import pydantic`, which it stands on."""

from __future__ import annotations

import subprocess
import sys
import time
from statistics import median

from bench.rows import Row, ratio_of_medians, versions


def run(quick: bool) -> list[Row]:
    """Fresh interpreters, alternating, so that both see the same machine; the empty interpreter is subtracted."""
    rounds = 10 if quick else 30
    ours, peer = [], []
    for _ in range(rounds):
        empty = _seconds("pass")
        ours.append(_seconds("import selfreg_sdk") - empty)
        peer.append(_seconds("import pydantic; pydantic.BaseModel") - empty)
    ratio, low, high = ratio_of_medians(ours, peer)
    return [
        Row(
            bench="import_time",
            case="import selfreg_sdk",
            metric="wall time of a fresh interpreter",
            unit="ms",
            ours=median(ours) * 1e3,
            peer=median(peer) * 1e3,
            peer_name="import pydantic",
            ratio=ratio,
            low=low,
            high=high,
            n=rounds,
            versions=versions("pydantic"),
        )
    ]


def _seconds(code: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - started
