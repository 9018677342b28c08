"""F1: 4 processes with 8 threads each on a tiny cap. Billed <= ledger <= cap, at the end and at every instant sampled."""

from __future__ import annotations

import json
import subprocess
import time
from decimal import Decimal
from pathlib import Path

import pytest
import sqlalchemy as sa

from selfreg_sdk.meter import Meter
from selfreg_sdk.store import Store
from tests.faults.processes import start_python, start_together
from tests.faults.spending import Bill, counted, spend_until_refused, start_worker

CAP = Decimal("0.0100")
WORST = Decimal("0.0003")


def spend(tmp_path: Path, meter: str) -> tuple[Decimal, Decimal, list[tuple[Decimal, Decimal]], list[object]]:
    """Let 32 workers spend; returns (billed, counted, samples of both, what each worker says)."""
    bill = Bill(tmp_path / "bill")
    samples = []
    with Store.open(tmp_path / "store.db") as store:
        arguments = {"store": str(store.path), "bill": str(bill.path), "cap": str(CAP), "worst": str(WORST)}
        workers = [start_worker({**arguments, "meter": meter, "seed": seed}) for seed in range(4)]
        try:
            start_together(workers)
            deadline = time.monotonic() + 60
            while any(worker.poll() is None for worker in workers):
                # In this order: what was billed by now must be counted from now on.
                samples.append((bill.total(), counted(store, "shared")))
                assert time.monotonic() < deadline, "the workers hang"
                time.sleep(0.01)
            said = [outcome for worker in workers for outcome in json.loads(worker.communicate()[0])]
        finally:
            for worker in workers:
                worker.kill()
                worker.communicate()
        return bill.total(), counted(store, "shared"), samples, said


@pytest.mark.parametrize("durability", ["normal", "strict"])
def test_f1_no_thread_of_no_process_overspends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durability: str
) -> None:
    monkeypatch.setenv("SELFREG_DURABILITY", durability)
    billed, ledger, samples, said = spend(tmp_path, "real")

    assert all(seen_bill <= seen_ledger <= CAP for seen_bill, seen_ledger in samples)
    assert len(samples) >= 3
    # Everybody was refused with the typed error, nobody failed in another way.
    assert len(said) == 32
    assert all(isinstance(calls, int) for calls in said)
    assert sum(calls for calls in said if isinstance(calls, int)) > CAP / WORST / 2
    # All settled: the books agree with the bill, and not even one more call would have fitted.
    assert billed == ledger <= CAP < ledger + WORST


def test_f1_the_check_catches_a_meter_that_checks_and_then_adds(tmp_path: Path) -> None:
    billed, ledger, _, _ = spend(tmp_path, "check-then-add")

    assert billed > CAP
    assert ledger > CAP


INCREMENT_OURS = """
import sys, sqlalchemy as sa
from selfreg_sdk.store import Store
with Store.open(sys.argv[1]) as store:
    print("ready", flush=True); sys.stdin.readline()
    for _ in range(50):
        with store.write() as connection:
            value = connection.execute(sa.text("SELECT number FROM counter")).scalar_one()
            connection.execute(sa.text("UPDATE counter SET number = :value"), {"value": value + 1})
"""

INCREMENT_SQLMODEL_DEFAULT = """
import sys
from sqlmodel import Field, Session, SQLModel, create_engine
class Counter(SQLModel, table=True):
    id: int = Field(primary_key=True)
    number: int
engine = create_engine("sqlite:///" + sys.argv[1])
print("ready", flush=True); sys.stdin.readline()
for _ in range(50):
    with Session(engine) as session:
        row = session.get_one(Counter, 1)
        row.number += 1
        session.add(row)
        session.commit()
engine.dispose()
"""


def increment(tmp_path: Path, code: str) -> int:
    """Four processes add 1 fifty times each; returns where the counter ends."""
    path = str(tmp_path / "store.db")
    with Store.open(path) as store:
        with store.write() as connection:
            connection.execute(sa.text("CREATE TABLE counter (id INTEGER PRIMARY KEY, number INTEGER)"))
            connection.execute(sa.text("INSERT INTO counter VALUES (1, 0)"))
        workers = [start_python("-c", code, path, stderr=subprocess.PIPE) for _ in range(4)]
        try:
            start_together(workers)
            for worker in workers:
                worker.communicate(timeout=60)
        finally:
            for worker in workers:
                worker.kill()
                worker.communicate()
        with store.read() as connection:
            return int(connection.execute(sa.text("SELECT number FROM counter")).scalar_one())


def test_f1_no_update_is_lost_between_processes(tmp_path: Path) -> None:
    assert increment(tmp_path, INCREMENT_OURS) == 200


def test_f1_the_check_catches_the_default_isolation_of_sqlmodel(tmp_path: Path) -> None:
    assert increment(tmp_path, INCREMENT_SQLMODEL_DEFAULT) < 200


@pytest.mark.parametrize("cap", ["0", "0.0002"])
def test_f1_a_cap_below_one_call_lets_none_through(tmp_path: Path, cap: str) -> None:
    bill = Bill(tmp_path / "bill")
    with Store.open(":memory:") as store:
        assert spend_until_refused(Meter(store), bill, cap=Decimal(cap), worst=WORST, seed=1) == 0
    assert bill.total() == 0
