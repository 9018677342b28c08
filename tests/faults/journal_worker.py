"""A worker of a study in a process of its own: ``python -m tests.faults.journal_worker JSON`` buys what it is told to."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import Any

from selfreg_sdk.store import Store
from selfreg_sdk.tuner.journal.journal import Bought
from tests.faults.processes import start_python
from tests.tuner.journaled import desk, texts, wish


def start_worker(**given: Any) -> subprocess.Popen[str]:
    """A worker; it says "ready" and begins when it reads a line, then prints what it got.

    Args:
        given: url, store, wishes, and further arguments of `desk`.
    """
    return start_python("-m", "tests.faults.journal_worker", json.dumps(given))


def seen(bought: list[Bought]) -> list[Any]:
    """What a search sees, as JSON."""
    return [[one.fate, texts(one), [mark.score for mark in one.marks or ()], str(one.cost)] for one in bought]


async def work(url: str, store: str, wishes: int, **options: Any) -> None:
    with Store.open(store) as opened:
        async with desk(url, opened, **options) as one:
            print("ready", flush=True)
            sys.stdin.readline()
            bought = await one.buy(*[wish(number) for number in range(wishes)], mark=True)
            print(json.dumps(seen(bought)), flush=True)


if __name__ == "__main__":
    asyncio.run(work(**json.loads(sys.argv[1])))
