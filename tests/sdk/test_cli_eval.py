"""``selfreg eval``: what configurations score and cost, on a real server and a real store."""

from __future__ import annotations

import signal
from decimal import Decimal
from pathlib import Path

import pytest

from tests.fake_provider import FakeProvider
from tests.sdk.tune_commands import LABELS, Run, reached, started, write_task


def test_settings_against_the_baseline(selfreg: Run, sorter: FakeProvider, tmp_path: Path) -> None:
    file = write_task(tmp_path)
    done = selfreg(
        "eval", file, "--config", "temperature=0 n=3", "--against", "baseline", "--part", "all", "--budget", "0.01", "--json"
    )  # fmt: skip
    found = done.json()
    cold, baseline = found["measured"]
    assert (cold["config"]["temperature"], cold["config"]["n"], cold["config"]["max_tokens"]) == (0, 3, 8)
    assert (baseline["name"], baseline["config"]["n"]) == ("baseline", 1)
    assert cold["examples"] == baseline["examples"] == len(LABELS)
    assert cold["score_low"] <= cold["score"] <= cold["score_high"]
    assert cold["score"] > baseline["score"]
    assert cold["cost_usd"] > baseline["cost_usd"]
    (compared,) = found["compared"]
    assert compared["low"] > 0
    assert compared["difference"] == pytest.approx(cold["score"] - baseline["score"])
    assert Decimal(found["spent_usd"]) == sorter.billed.usd <= Decimal("0.01")


def test_a_stored_version_and_the_same_again_for_nothing(selfreg: Run, sorter: FakeProvider, tmp_path: Path) -> None:
    file = write_task(tmp_path)
    tuned = selfreg("tune", file, "--json").json()
    options = ["--config", str(tuned["versions"]["fake-model"]), "--against", "baseline", "--json"]
    found = selfreg("eval", file, *options).json()
    winner = {name: value for name, value in tuned["winner"]["config"].items() if name != "prompt"}
    assert winner.items() <= found["measured"][0]["config"].items()
    assert (found["part"], found["measured"][0]["examples"]) == ("unseen", 10)
    calls = sorter.billed.calls
    again = selfreg("eval", file, *options).json()
    assert again["measured"][0]["score"] == found["measured"][0]["score"]
    assert (Decimal(again["spent_usd"]), sorter.billed.calls) == (0, calls)


def test_other_examples_for_people(selfreg: Run, sorter: FakeProvider, tmp_path: Path) -> None:
    file = write_task(tmp_path)
    (tmp_path / "more.csv").write_text("number,answer\nnumber 2;,even\nnumber 3;,odd\n")
    done = selfreg("eval", file, "--examples", tmp_path / "more.csv", "--budget", "0.01")
    assert done.returncode == 0, done.stderr
    assert "2 examples (more.csv)" in done.stdout
    assert "baseline" in done.stdout
    assert "of 0.01 USD spent" in done.stdout
    assert sorter.billed.calls == 2


def test_a_budget_that_ends_is_said_and_can_be_raised(selfreg: Run, sorter: FakeProvider, tmp_path: Path) -> None:
    file = write_task(tmp_path, workers="1")
    options = ["--config", "temperature=0", "--part", "all"]
    least = Decimal(selfreg("tune", file, "--dry-run", "--json").json()["first_request_usd"]["fake-model"])
    short = selfreg("eval", file, *options, "--budget", f"{least:f}")
    assert short.returncode == 0, short.stderr
    assert "the budget ended after" in short.stdout
    assert "measuring · " in short.stderr
    assert sorter.billed.usd <= least
    calls = sorter.billed.calls
    assert 0 < calls < len(LABELS)
    whole = selfreg("eval", file, *options, "--budget", "0.01", "--json").json()
    assert whole["measured"][0]["examples"] == len(LABELS) == sorter.billed.calls


def test_a_budget_that_lets_nothing_through(selfreg: Run, sorter: FakeProvider, tmp_path: Path) -> None:
    done = selfreg("eval", write_task(tmp_path), "--budget", "0.000001")
    assert done.returncode == 3, done.stderr
    assert "the budget ended after 0 of" in done.stdout
    assert sorter.requests == []


def test_ctrl_c_goes_on_where_it_was(selfreg: Run, sorter: FakeProvider, tmp_path: Path) -> None:
    file = write_task(tmp_path, workers="1")
    sorter.latency = 0.05
    with started("eval", str(file), "--part", "all") as running:
        assert reached(sorter, 3, running), running.communicate()
        running.send_signal(signal.SIGINT)
        _, errors = running.communicate(timeout=60)
    assert running.returncode == 130, errors
    assert "the same command goes on from here" in errors
    assert sorter.billed.calls < len(LABELS)
    sorter.latency = 0.0
    assert selfreg("eval", file, "--part", "all").returncode == 0
    assert sorter.billed.calls == len(LABELS)


BAD = {
    "no such version": (["--config", "999"], "999"),
    "no pair": (["--config", "hot"], "'hot' is no configuration"),
    "half a pair": (["--config", "n=3 hot"], "'hot' is not NAME=VALUE"),
    "no such setting": (["--config", "heat=1"], "'heat'"),
    "value": (["--config", "temperature=3"], "temperature"),
    "another model": (["--config", "model=other"], "other"),
    "another prompt": (["--config", "prompt=other"], "other"),
    "no such part": (["--part", "test"], "'test'"),
    "part of a file": (["--examples", "more.csv", "--part", "test"], "--part test"),
    "no such examples": (["--examples", "more.csv"], "more.csv"),
    "budget": (["--budget", "1 EUR"], "EUR"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_work_is_one_line(case: str, selfreg: Run, sorter: FakeProvider, tmp_path: Path) -> None:
    arguments, named = BAD[case]
    done = selfreg("eval", write_task(tmp_path), *arguments)
    assert done.returncode == 2, done.stderr
    assert named in done.stderr
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
    assert (done.stdout, sorter.requests) == ("", [])


def test_examples_of_another_form_are_refused_before_the_first_call(
    selfreg: Run, sorter: FakeProvider, tmp_path: Path
) -> None:
    (tmp_path / "more.csv").write_text("digit,answer\n2,even\n")
    done = selfreg("eval", write_task(tmp_path), "--examples", tmp_path / "more.csv")
    assert (done.returncode, sorter.requests) == (2, [])
    assert "{number}" in done.stderr
    (tmp_path / "more.csv").write_text("number\nnumber 2;\n")
    done = selfreg("eval", write_task(tmp_path), "--examples", tmp_path / "more.csv")
    assert (done.returncode, sorter.requests) == (2, [])
    assert "answer" in done.stderr
