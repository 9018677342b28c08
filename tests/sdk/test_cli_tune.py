"""``selfreg tune`` and what reads its result, as a person meets them: real files, a real server, real signals."""

from __future__ import annotations

import json
import signal
from decimal import Decimal
from pathlib import Path

import pytest

from selfreg_sdk.chat_model import ChatSelfReg
from selfreg_sdk.runtime import runtime
from selfreg_sdk.tuner.task.file import load_task, task_schema
from tests.fake_provider import FakeProvider
from tests.sdk.tune_commands import LABELS, Run, reached, started, write_task
from tests.tuner.sorting import Sorting


def spent(scope: str) -> Decimal:
    return next(status.spent for status in runtime().meter.status() if status.scope == scope)


def test_from_the_dry_run_to_the_answer(selfreg: Run, sorter: FakeProvider, tmp_path: Path) -> None:
    file = write_task(tmp_path)
    quote = selfreg("tune", file, "--dry-run", "--json").json()
    assert sorter.requests == []
    assert (quote["examples"], quote["worst_case_usd"]) == ({"search": 10, "holdout": 10}, "0.02")
    assert Decimal(quote["first_request_usd"]["fake-model"]) > 0

    done = selfreg("tune", file, "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    found = json.loads(done.stdout)
    assert found["verdict"] == "use the winner"
    assert found["winner"]["config"]["temperature"] < 1
    assert found["held_out"]["difference"]["low"] > 0
    assert Decimal(found["spent_usd"]) == sorter.billed.usd == spent("study:parity") <= Decimal("0.02")

    calls = sorter.billed.calls
    again = selfreg("tune", file, "--resume", "--json").json()
    assert again == found
    frontier = selfreg("frontier", "parity", "--json").json()
    assert frontier["frontier"] == found["frontier"]
    (row,) = selfreg("studies", "--json").json()
    assert (row["name"], row["state"], row["spent_usd"]) == ("parity", "finished", found["spent_usd"])
    assert sorter.billed.calls == calls

    answer = ChatSelfReg.from_task("parity").invoke("Even or odd: number 4;")
    assert answer.response_metadata["selfreg"]["config_version"] in found["versions"].values()


def test_the_end_and_the_way_for_people(selfreg: Run, sorter: FakeProvider, tmp_path: Path) -> None:
    done = selfreg("tune", write_task(tmp_path), "--name", "mine", "--no-save", "--seed", "3", "--model", "fake-model")
    assert done.returncode == 0, done.stderr
    assert "mine: the winner beside the baseline, on 10 held-out examples" in done.stdout
    assert "ChatSelfReg" not in done.stdout  # nothing was saved
    assert "of 0.02 USD spent" in done.stdout
    assert "searching · " in done.stderr
    assert "done · " in done.stderr
    shown = selfreg("frontier", "mine", "--budget", "0.0002")
    assert "Frontier" in shown.stdout
    assert selfreg("configs", "list", "--json").stdout == "[]\n"


def test_ctrl_c_keeps_what_was_paid_for_and_the_same_command_goes_on(
    selfreg: Run, sorter: FakeProvider, tmp_path: Path
) -> None:
    file = write_task(tmp_path)
    whole = selfreg("tune", file, "--json", "--store", tmp_path / "whole.db").json()
    calls, sorter.latency = sorter.billed.calls, 0.05
    sorter.reply = Sorting(LABELS)  # the same answers again
    with started("tune", str(file)) as running:
        assert reached(sorter, calls + 12, running), running.communicate()
        running.send_signal(signal.SIGINT)
        output, errors = running.communicate(timeout=60)
    assert running.returncode == 130, errors
    assert "interrupted: everything paid for is kept, and the same command goes on from here" in errors
    assert "Traceback" not in errors
    assert output == ""
    (row,) = selfreg("studies", "--json").json()
    assert row["state"] == "stopped"
    sorter.latency = 0.0
    resumed = selfreg("tune", file, "--json").json()
    assert resumed["winner"]["config"] == whole["winner"]["config"]
    assert sorter.billed.calls == 2 * calls


BAD = {
    "no such file": (["none.yaml"], 2, "none.yaml"),
    "no budget": (["{file}", "--budget", "0"], 2, "budget=0"),
    "another currency": (["{file}", "--budget", "1 EUR"], 2, "EUR"),
    "no such study": (["{file}", "--resume"], 2, "parity"),
    "unknown price": (["{file}", "--model", "no-such-model"], 2, "no-such-model"),
    "unknown price, dry": (["{file}", "--model", "no-such-model", "--dry-run"], 2, "no-such-model"),
    "model twice": (["{file}", "--model", "fake-model", "--model", "fake-model"], 2, "named twice"),
    "prices": (["{file}", "--prices", "/nonexistent.yaml"], 2, "/nonexistent.yaml"),
    "no server": (["{file}", "--base-url", "http://127.0.0.1:9/v1"], 4, "127.0.0.1:9"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_work_is_one_line_before_the_first_call(
    case: str, selfreg: Run, sorter: FakeProvider, tmp_path: Path
) -> None:
    arguments, code, named = BAD[case]
    file = write_task(tmp_path)
    done = selfreg("tune", *(argument.replace("{file}", str(file)) for argument in arguments))
    assert done.returncode == code, done.stderr
    assert named in done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith("error: ")] == [done.stderr.splitlines()[-1]]
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert sorter.requests == []


def test_a_study_that_was_begun_is_not_begun_again(selfreg: Run, sorter: FakeProvider, tmp_path: Path) -> None:
    file = write_task(tmp_path)
    assert selfreg("tune", file, "--json").returncode == 0
    assert "parity" in selfreg("tune", file, "--fresh").stderr
    changed = selfreg("tune", write_task(tmp_path, inference_budget="0.0001 USD"))
    assert changed.returncode == 2
    assert "inference_budget" in changed.stderr


def test_help_that_teaches(selfreg: Run, tmp_path: Path) -> None:
    assert selfreg("tune", "--schema").json() == task_schema()
    file = tmp_path / "task.yaml"
    file.write_text(selfreg("tune", "--example").stdout)
    assert load_task(file).spec.name == "sums"
    for command in ("tune", "eval", "frontier", "studies"):
        assert selfreg(command, "--help").returncode == 0
    assert "no studies yet" in selfreg("studies").stdout
    assert selfreg("frontier", "sums").returncode == 2
