"""Money on a store, spent by several processes, with a bill that is kept outside of the ledger.

Run as ``python -m tests.faults.spending JSON``: one worker process of F1.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from selfreg_sdk.errors import BudgetExceeded
from selfreg_sdk.meter import AttemptInfo, Meter, Reservation
from selfreg_sdk.money import from_pico, to_pico
from selfreg_sdk.store import Store
from selfreg_sdk.usage import Usage
from tests.faults.processes import start_python

INFO = AttemptInfo(purpose="answer", model="m", endpoint="http://localhost:1/v1", request_id="r")


class Bill:
    """What a provider charged: a file that only grows, one amount a line. Appends of a line are atomic."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()

    def add(self, amount: Decimal) -> None:
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        os.write(file, f"{to_pico(amount)}\n".encode())
        os.close(file)

    def total(self) -> Decimal:
        return from_pico(sum(int(line) for line in self.path.read_text().split()))


class CheckThenAddMeter(Meter):
    """Broken on purpose: looks at the sum, decides, then adds in a second transaction."""

    def reserve(
        self, *, scopes: Sequence[tuple[str, Decimal | None]], worst: Decimal | None, info: AttemptInfo
    ) -> Reservation:
        assert worst is not None
        for status in self.status([scope for scope, _ in scopes]):
            cap = dict(scopes)[status.scope]
            if cap is not None and status.spent + status.held + worst > cap:
                raise BudgetExceeded(scope=status.scope, cap=cap, spent=status.spent, held=status.held, wanted=worst)
        time.sleep(0.02)
        return super().reserve(scopes=[(scope, None) for scope, _ in scopes], worst=worst, info=info)


METERS: dict[str, type[Meter]] = {"real": Meter, "check-then-add": CheckThenAddMeter}


def counted(store: Store, scope: str) -> Decimal:
    """What the ledger counts in a scope: spent and held."""
    (status,) = Meter(store).status([scope]) or (None,)
    return Decimal(0) if status is None else status.spent + status.held


def spend_until_refused(meter: Meter, bill: Bill, *, cap: Decimal, worst: Decimal, seed: int) -> int:
    """Call the provider until the budget refuses; returns the number of calls."""
    dice = random.Random(seed)
    for calls in range(1000):
        try:
            reservation = meter.reserve(scopes=[("shared", cap)], worst=worst, info=INFO)
        except BudgetExceeded:
            return calls
        price = worst * dice.randint(1, 3) / 3
        bill.add(price)
        time.sleep(dice.random() / 500)
        meter.settle(reservation, cost=price, usage=Usage(prompt_tokens=1, completion_tokens=1))
    raise AssertionError("the budget never refused")


def start_worker(arguments: dict[str, Any]) -> subprocess.Popen[str]:
    """A worker process; it says "ready" and starts to spend when it reads a line."""
    return start_python("-m", "tests.faults.spending", json.dumps(arguments))


def main() -> None:
    given = json.loads(sys.argv[1])
    bill = Bill(Path(given["bill"]))
    cap, worst = Decimal(given["cap"]), Decimal(given["worst"])
    with Store.open(given["store"]) as store:
        meter = METERS[given["meter"]](store)
        outcomes: list[int | str] = []

        def work(seed: int) -> None:
            try:
                outcomes.append(spend_until_refused(meter, bill, cap=cap, worst=worst, seed=seed))
            except Exception as error:
                outcomes.append(repr(error))

        threads = [threading.Thread(target=work, args=(given["seed"] * 100 + number,)) for number in range(8)]
        print("ready", flush=True)
        sys.stdin.readline()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    print(json.dumps(outcomes), flush=True)


if __name__ == "__main__":
    main()
