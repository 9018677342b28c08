"""F1 on the whole stack: processes and threads that call one provider under one tiny cap. Billed <= ledger <= cap."""

from __future__ import annotations

import json
import time
from decimal import Decimal
from pathlib import Path

import pytest

from selfreg_sdk.store import Store
from tests.fake_billing import read_bills
from tests.faults.paying import RATES, SPEC, books, start_payer
from tests.faults.processes import start_together
from tests.faults.spending import counted
from tests.provider_process import provider_process

CAP = Decimal("0.03")
Sample = tuple[Decimal, Decimal]


def pay(
    tmp_path: Path, *, meter: str, processes: int, cap: Decimal = CAP, tasks: bool = False
) -> tuple[Sample, list[Sample], list[object]]:
    """Let all workers call until they are refused: (billed, counted) at the end, samples of it, what each says."""
    bills, samples = tmp_path / "bills.jsonl", []
    with (
        provider_process(bills, "--latency", "0.05", "--price", *RATES) as base_url,
        Store.open(tmp_path / "store.db") as store,
    ):
        arguments = {"store": str(store.path), "base_url": base_url, "cap": str(cap), "meter": meter, "tasks": tasks}
        workers = [start_payer(arguments) for _ in range(processes)]
        try:
            start_together(workers)
            deadline = time.monotonic() + 60
            while any(worker.poll() is None for worker in workers):
                # In this order: what was billed by now must be counted from now on.
                samples.append((read_bills(bills).usd, counted(store, "shared")))
                assert time.monotonic() < deadline, "the workers hang"
                time.sleep(0.02)
            said = [outcome for worker in workers for outcome in json.loads(worker.communicate()[0])]
        finally:
            for worker in workers:
                worker.kill()
                worker.communicate()
        return (read_bills(bills).usd, counted(store, "shared")), samples, said


@pytest.mark.parametrize("tasks", [False, True], ids=["threads", "tasks"])
def test_f1_32_callers_of_a_provider_stay_under_the_cap(tmp_path: Path, tasks: bool) -> None:
    (billed, ledger), samples, said = pay(tmp_path, meter="real", processes=4, tasks=tasks)

    assert all(seen_bill <= seen_ledger <= CAP for seen_bill, seen_ledger in samples)
    assert len(said) == 32
    assert all(isinstance(calls, int) for calls in said), said
    answered = sum(calls for calls in said if isinstance(calls, int))
    with Store.open(tmp_path / "store.db") as store:
        worst = books(store, meter="real", cap=str(CAP), base_url="http://127.0.0.1:1/v1").quote(SPEC).worst
    assert worst is not None
    # All settled: the books agree with the bill to the last digit, and not even one more call would have fitted.
    assert billed == ledger <= CAP < ledger + worst
    assert answered > CAP / worst / 2


def test_f1_the_check_catches_calls_over_a_meter_that_checks_and_then_adds(tmp_path: Path) -> None:
    few = Decimal("0.0035")  # five calls, for sixteen threads that all start at once
    (billed, ledger), _, _ = pay(tmp_path, meter="check-then-add", processes=2, cap=few)

    assert billed > few
    assert ledger > few
