"""Processes that tune one study, started in no time: a nursery that has everything imported forks them on demand.

Run as ``python -m tests.faults.tuners``; `Nursery` talks to it. A worker tunes as its order says and writes what it found to a
file; a variant of it is broken on purpose.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa

from selfreg_sdk.meter import Meter
from selfreg_sdk.store import Store
from selfreg_sdk.store.draw_row import DrawRow
from selfreg_sdk.store.draws import DrawRows
from selfreg_sdk.store.studies import Studies
from selfreg_sdk.store.tables import metadata
from selfreg_sdk.tuner.tune import tune
from tests.faults.processes import start_python
from tests.tuner.tuning import PRICES, QUICK, found

Variant = Literal["real", "forgetful", "greedy"]

SCOPE = "study:sums"


@dataclass
class Nursery:
    """Starts workers."""

    process: Any

    def start(self, **order: Any) -> int:
        """Fork a worker; its process id. What it finds is written to ``order["result"]``."""
        return int(self._ask({"start": {name: str(v) if isinstance(v, Path) else v for name, v in order.items()}}))

    def wait(self, pid: int) -> int:
        """Its exit status; negative is the signal that ended it."""
        return int(self._ask({"wait": pid}))

    def kill(self, pid: int) -> int:
        """As kill -9."""
        os.kill(pid, signal.SIGKILL)
        return self.wait(pid)

    def _ask(self, what: dict[str, Any]) -> str:
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()
        return str(self.process.stdout.readline())


@contextlib.contextmanager
def nursery() -> Iterator[Nursery]:
    process = start_python("-m", "tests.faults.tuners")
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    try:
        yield Nursery(process)
    finally:
        process.communicate(timeout=30)


@dataclass(frozen=True, kw_only=True)
class Left:
    """What a study left in its store."""

    draws: dict[Any, DrawRow]
    ledger: list[tuple[str, str]]
    spent: Decimal
    held: Decimal

    def requests(self, *states: str) -> list[str]:
        """The requests of the ledger's rows in these states."""
        return [request for request, state in self.ledger if state in states]

    @property
    def bought(self) -> dict[Any, Any]:
        """Each draw with its fate and its marks: what the search went by."""
        return {id_: (row.state, row.marks) for id_, row in self.draws.items()}


def left(store: Store) -> Left:
    """What is there now; nothing of a study that was not begun."""
    study = Studies(store).find("sums")
    rows = () if study is None else DrawRows(store, study.id, request_id=lambda id_: "").all()
    ledger = metadata.tables["ledger"]
    with store.read() as connection:
        query = sa.select(ledger.c.request_id, ledger.c.state).order_by(ledger.c.id)
        entries = [(str(request), str(state)) for request, state in connection.execute(query)]
    statuses = Meter(store).status([SCOPE])
    return Left(
        draws={row.id: row for row in rows},
        ledger=entries,
        spent=sum((status.spent for status in statuses), Decimal(0)),
        held=sum((status.held for status in statuses), Decimal(0)),
    )


def tune_once(*, task: dict[str, Any], store: str, base_url: str, result: str, variant: Variant = "real") -> None:
    """One worker from its start to the study's end."""
    if variant == "forgetful":
        with Store.open(store) as opened, opened.write() as connection:
            for name in ("draw", "response"):
                connection.execute(sa.delete(metadata.tables[name]))
    if variant == "greedy":
        DrawRows._is_held = lambda self, row, now: False  # type: ignore[method-assign]
    tuned = tune(task, store=store, base_url=base_url, api_key="sk-test", prices=PRICES, retry=QUICK)
    Path(result).write_text(json.dumps(found(tuned), default=str, sort_keys=True))


def warm() -> None:
    """Have all that a worker loads late in memory, before there is a thread or a connection."""
    for name in ("aiohttp", "httpx2", "numpy.random", "selfreg_sdk.wire.aiohttp_transport", "selfreg_sdk.wire.tls"):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    with tempfile.TemporaryDirectory() as folder:
        Store.open(Path(folder) / "any.db").close()


def main() -> None:
    warm()
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            _, status = os.waitpid(order["wait"], 0)
            print(os.waitstatus_to_exitcode(status), flush=True)
            continue
        pid = os.fork()
        if pid:
            print(pid, flush=True)
            continue
        code = 1
        try:
            os.close(0)
            tune_once(**order["start"])
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)


if __name__ == "__main__":
    main()
