"""The loopback provider in a process of its own: ``python -m tests.provider_process --port 0 --bills FILE`` prints its base_url."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

from tests.fake_provider import FakeProvider


@contextlib.contextmanager
def provider_process(bills: Path | str, *arguments: str) -> Iterator[str]:
    """Run the provider as its own process and yield its base_url."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.provider_process", "--bills", str(bills), *arguments],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait(timeout=10)
        process.stdout.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.provider_process", description=FakeProvider.__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--bills", help="file to append one line per billed call to")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds every answer takes")
    parser.add_argument("--price", nargs=2, type=Decimal, default=(Decimal("0.40"), Decimal("1.60")), metavar="USD")
    arguments = parser.parse_args()
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    prices = (arguments.price[0], arguments.price[1])
    with FakeProvider(port=arguments.port, bills=arguments.bills, latency=arguments.latency, price=prices) as provider:
        print(provider.base_url, flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            stopped.wait()


if __name__ == "__main__":
    main()
