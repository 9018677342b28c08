"""F3: kill -9 right after the reservation, after the provider answered, before the commit of its reply, after it.

The reservation is committed without waiting for the disk, and in the first case the disk is never asked to catch up.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
import sqlalchemy as sa

from selfreg_sdk.cache import ResponseCache
from selfreg_sdk.meter import Meter
from selfreg_sdk.store import Store
from tests.faults.dying import BODY, COST, KEY, SCOPE, WORST, Point
from tests.faults.processes import ROOT
from tests.faults.spending import Bill, counted


@dataclass(frozen=True, kw_only=True)
class Wreck:
    """What is found after a kill, before and after recovery."""

    billed: Decimal
    counted_at_once: Decimal
    counted_after_recovery: Decimal
    recovered: int
    states: tuple[str, ...]
    reply: object
    integrity: str


def kill(tmp_path: Path, point: Point, meter: str = "real") -> Wreck:
    """Let a child run to the point, kill it, and look."""
    path, bill = tmp_path / "store.db", Bill(tmp_path / "bill")
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.dying", str(path), str(bill.path), meter, point],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert child.stdout is not None
    reached = child.stdout.readline().strip()
    child.send_signal(signal.SIGKILL)
    child.communicate(timeout=30)
    assert (reached, child.returncode) == (point, -signal.SIGKILL)

    with Store.open(path) as store:
        at_once = counted(store, SCOPE)
        meter_now = Meter(store)
        assert meter_now.recover() == 0, "the lease has not ended yet"
        recovered = meter_now.recover(now=datetime.now(UTC) + timedelta(hours=1))
        with store.read() as connection:
            integrity = connection.execute(sa.text("PRAGMA integrity_check")).scalar_one()
        return Wreck(
            billed=bill.total(),
            counted_at_once=at_once,
            counted_after_recovery=counted(store, SCOPE),
            recovered=recovered,
            states=tuple(entry.state for entry in meter_now.ledger()),
            reply=ResponseCache(store).get(KEY),
            integrity=integrity,
        )


@pytest.mark.parametrize("point", ["reserved", "after-answer", "before-commit"])
def test_f3_killed_before_the_commit_costs_the_worst_case_and_is_marked_unknown(tmp_path: Path, point: Point) -> None:
    wreck = kill(tmp_path, point)

    assert wreck.billed == COST
    assert wreck.counted_at_once == wreck.counted_after_recovery == WORST
    assert (wreck.recovered, wreck.states) == (1, ("unknown",))
    assert wreck.reply is None
    assert wreck.integrity == "ok"


def test_f3_killed_after_the_commit_loses_nothing(tmp_path: Path) -> None:
    wreck = kill(tmp_path, "after-commit")

    assert wreck.billed == wreck.counted_at_once == wreck.counted_after_recovery == COST
    assert (wreck.recovered, wreck.states) == (0, ("settled",))
    assert wreck.reply == BODY
    assert wreck.integrity == "ok"


def test_f3_the_check_catches_a_meter_that_stores_the_reply_in_a_second_commit(tmp_path: Path) -> None:
    wreck = kill(tmp_path, "between-commits", meter="two-commits")

    assert wreck.states == ("settled",)
    assert wreck.reply is None, "paid, settled, and lost: the next run pays for it again"


def test_f3_the_check_catches_a_meter_that_holds_nothing(tmp_path: Path) -> None:
    wreck = kill(tmp_path, "after-answer", meter="holds-nothing")

    assert wreck.billed > wreck.counted_after_recovery
