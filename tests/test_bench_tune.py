"""The tuning benches: runs are judged by truth and bill, kept where they may be, and turned into the rows that are promised."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from typer import Typer
from typer.testing import CliRunner

pytest.importorskip("pyarrow", reason="pyarrow is not installed: the replay of recorded answers needs it")

from bench import __main__ as command
from bench import replay_data, tune_ours, tune_replay, tune_rows, tune_speed
from bench.replay_client import Endpoint, serving
from bench.replay_data import Recorded
from bench.replay_scores import Metric
from bench.replay_task import Budgets, Configuration, Found, Problem, offer, problems_of
from bench.replay_truth import Truth
from bench.rows import Row, paired_difference
from bench.tune_ours import Ours
from bench.tune_peers import random_search, tpe
from bench.tune_rows import BEST, ECO, FREE, POOL, UNPRUNED, Run
from tests.tiny_exam import write

PLAN = tune_replay.Plan(seeds=(0, 1), per_request=(Decimal(".002"),), totals=(Decimal(".02"),), metrics=("vote",))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def recorded(data: Path) -> Recorded:
    return replay_data.load(data, texts=True)


@pytest.fixture(scope="module")
def endpoint(data: Path, recorded: Recorded) -> Iterator[Endpoint]:
    with serving(data, offer(recorded)) as running:
        yield running


@pytest.fixture
def few_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random search alone: the others take seconds."""
    monkeypatch.setattr(tune_replay, "tpe", lambda: None)


@dataclass
class Cheapest:
    """Spends twice what it may, and returns the cheapest arm."""

    name: str = "cheapest"

    def tune(self, problems: list[Problem], budgets: Budgets, metric: Metric, seed: int, endpoint: Endpoint) -> Found:
        choice = Configuration(model="cheap", prompt="plain", temperature=0.4, n=1, max_tokens=1000)
        spent = Decimal(0)
        while spent < 2 * budgets.total:
            reply = endpoint.complete(choice, problems[0], 5)
            spent += reply.prompt + reply.completion
        return Found(configuration=choice, spent=spent, tried=1, scored=1)


def _run(tuner: str, **more: Any) -> Run:
    case = {"seed": 0, "metric": "vote", "per_request": 0.001, "total": 1.0, "score": 0.5, "feasible": True}
    return Run(**{"tuner": tuner, **case, **more})


def _ladder(tuner: str, *scores: float, **more: Any) -> list[Run]:
    return [_run(tuner, seed=seed, score=score, **more) for seed, score in enumerate(scores)]


def test_a_tuner_is_judged_by_the_truth_and_the_bill(endpoint: Endpoint, recorded: Recorded) -> None:
    truth, budgets = Truth(recorded), Budgets(per_request=Decimal("0.001"), total=Decimal("0.002"))
    made = tune_replay.judged(Cheapest(), 4, "vote", budgets, truth, endpoint)
    cell = recorded.cells.index(("cheap", "plain", 0.5))
    held_out = replay_data.split(recorded, 4).held_out
    assert made.score == truth.value("vote", 1000)[cell, held_out, 0].mean()
    assert made.feasible
    assert made.over == pytest.approx(made.billed - 0.002)
    assert made.over > 0.0015
    kept, within = tune_rows.conduct([made, replace(made, seed=5, over=0.0)], "cheapest")
    assert (kept.ours, kept.met) == (1, True)
    assert (within.ours, within.met) == (0.5, False)
    assert tune_rows.conduct([replace(made, feasible=False)] + [made] * 49, "cheapest")[0].met is False


@pytest.mark.parametrize("make", [random_search, tpe])
def test_searches_without_pruning_stop_with_the_money(endpoint: Endpoint, recorded: Recorded, make: Any) -> None:
    peer = make()
    if peer is None:
        pytest.skip("optuna is not installed")
    budgets = Budgets(per_request=Decimal("0.002"), total=Decimal("0.02"))
    problems = problems_of(recorded, replay_data.split(recorded, 5).tuning.tolist())
    found = []
    for _ in range(2):
        endpoint.reset(5)
        found.append(peer.tune(problems, budgets, "vote", 5, endpoint))
        assert found[-1].spent == endpoint.bill() < Decimal("0.06")
    assert found[0] == found[1]
    assert found[0].scored > 1


@pytest.mark.parametrize("tuner", [Ours(name=POOL, method="pool"), Ours(name=POOL, method="pool", workers=8)])
def test_the_pool_searches_by_the_product_and_never_overspends(
    endpoint: Endpoint, recorded: Recorded, tuner: Ours
) -> None:
    problems = problems_of(recorded, replay_data.split(recorded, 1).tuning.tolist())
    budgets = Budgets(per_request=Decimal("0.002"), total=Decimal("0.1"))
    found = []
    for _ in range(2):
        endpoint.reset(1)
        found.append(tuner.tune(problems, budgets, "vote", 1, endpoint))
        facts = endpoint.facts()
        assert found[-1].spent == endpoint.bill() <= budgets.total
        assert facts["refused"] == 0
        assert facts["requests"] > 3
    assert found[0] == found[1]
    assert found[0].configuration is not None
    assert found[0].scored > found[0].tried > 1


def test_ecooptigen_searches_by_the_product_with_and_without_pruning(
    endpoint: Endpoint, recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("flaml", reason="flaml is not installed: BlendSearch needs it")
    problems = problems_of(recorded, replay_data.split(recorded, 1).tuning.tolist())
    budgets = Budgets(per_request=Decimal("0.00015"), total=Decimal("0.02"))
    monkeypatch.setattr(tune_ours, "_IDLE", 10)
    made = {}
    for prune in (True, False):
        endpoint.reset(1)
        found = Ours(name=ECO, method="ecooptigen", prune=prune).tune(problems, budgets, "vote", 1, endpoint)
        assert found.spent == endpoint.bill() <= budgets.total
        assert found.configuration is not None
        made[prune] = found
    assert made[True].scored < made[True].tried
    # Without pruning what is too dear is paid in full.
    assert made[True].spent < made[False].spent


@pytest.mark.usefixtures("few_peers")
def test_a_measurement_keeps_peers_and_not_ours(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(**more: Any) -> list[Run]:
        return tune_replay.measure(data, PLAN, ours=[Cheapest()], cache=tmp_path, patient=False, **more)

    first = measure()
    assert {"cheapest", "random", FREE, BEST} <= {made.tuner for made in first}
    assert all(len([made for made in first if made.tuner == name]) == 2 for name in {made.tuner for made in first})
    (kept,) = tmp_path.glob("peers-*.jsonl")
    written = {Run(**json.loads(line)).tuner for line in kept.read_text().splitlines()}
    assert "random" in written
    assert "cheapest" not in written

    asked: list[str] = []
    judged = tune_replay.judged
    monkeypatch.setattr(tune_replay, "judged", lambda tuner, *rest: (asked.append(tuner.name), judged(tuner, *rest))[1])
    assert measure() == first
    assert set(asked) == {"cheapest"}
    measure(keep=tmp_path / "ours.jsonl")
    asked.clear()
    assert measure(keep=tmp_path / "ours.jsonl") == first
    assert not asked


@pytest.mark.usefixtures("few_peers")
def test_peers_that_take_minutes_count_once_all_their_runs_are_kept(data: Path, tmp_path: Path) -> None:
    kept = tmp_path / f"peers-{tune_replay._digest(data)}.jsonl"
    name = "FLAML with pruning"
    made = [
        _run(name, seed=seed, metric=metric, per_request=float(budgets.per_request), total=float(budgets.total))
        for seed, metric, budgets in PLAN
    ]
    for complete in (False, True):
        kept.write_text("".join(json.dumps(asdict(each)) + "\n" for each in (made if complete else made[1:])))
        runs = tune_replay.measure(data, PLAN, cache=tmp_path, patient=False)
        assert [each for each in runs if each.tuner == name] == (made if complete else [])


@pytest.mark.usefixtures("few_peers")
def test_processes_make_the_same_runs_in_the_same_order(data: Path, tmp_path: Path) -> None:
    def mine(jobs: int) -> list[Run]:
        ours = [Ours(name=POOL, method="pool")]
        runs = tune_replay.measure(data, PLAN, ours=ours, jobs=jobs, cache=tmp_path, patient=False)
        return [each for each in runs if each.tuner == POOL]

    assert mine(2) == mine(1)


def test_scores_are_paired_by_seed_and_held_to_what_is_promised() -> None:
    runs = _ladder(POOL, *(0.5, 0.9, 0.6) * 4) + _ladder("peer", *(0.4, 0.8, 0.5) * 4) + _ladder("odd", *[0.65] * 12)
    (row,) = tune_rows.compare(runs, POOL, "peer")
    assert (row.ours, row.peer, row.n) == (pytest.approx(2 / 3), pytest.approx(17 / 30), 12)
    assert (row.low, row.high) == (pytest.approx(0.1), pytest.approx(0.1))
    assert row.met is True
    # Ahead in the mean, and no more than that.
    (row,) = tune_rows.compare(runs, POOL, "odd")
    assert row.ratio > 1
    assert row.met is False
    early = [replace(each, total=0.5) for each in runs]
    assert tune_rows.compare(early, POOL, "odd")[0].met is True
    assert tune_rows.compare(runs, "odd", POOL)[0].met is None
    assert tune_rows.compare(runs[:2] + runs[12:14], POOL, "peer")[0].met is None
    assert tune_rows.compare(runs + _ladder("none", *[0.0] * 12), POOL, "none")[0].met is True
    assert paired_difference([1, 0, 1, 0], [0, 1, 0, 1])[1] < 0 < paired_difference([1, 0, 1, 0], [0, 1, 0, 1])[2]


@pytest.mark.parametrize(("other", "total", "score", "met"), [
    (FREE, 3.0, 0.61, False), (FREE, 3.0, 0.59, True), (FREE, 1.0, 0.61, None),
    (BEST, 10.0, 0.7, False), (BEST, 10.0, 0.66, True), (BEST, 3.0, 0.7, None),
])  # fmt: skip
def test_references_are_promised_at_one_total_each(other: str, total: float, score: float, met: bool | None) -> None:
    runs = _ladder(POOL, *[0.6] * 10, total=total) + _ladder(other, *[score] * 10, total=total)
    (row,) = tune_rows.compare(runs, POOL, other)
    assert row.met is met


def test_pruning_and_sharing_are_compared_run_by_run_per_usd() -> None:
    runs = [
        _run(name, seed=seed, billed=billed, tried=tried, scored=scored)
        for seed, ratio in enumerate((1, 2, 3, 27))
        for name, billed, tried, scored in (
            (ECO, 0.5, 5 * ratio, 5), (UNPRUNED, 1.0, 10, 10), (POOL, 0.25, 40, 25),
        )
    ]  # fmt: skip
    shown = {row.case: row for row in tune_rows.pruning(runs)}
    assert [round(row.ratio, 2) for row in shown.values()] == [1.25, 2.5, 21.0, 27.0]
    assert [row.met for row in shown.values()] == [None, True, None, None]
    row = tune_rows.sharing(runs)
    assert (row.ours, row.peer, row.ratio, row.met) == (100, 10, 10, True)
    for row in tune_rows.rows(runs):
        json.loads(row.to_json(), parse_constant=pytest.fail)
    assert {row.peer_name for row in tune_rows.rows(runs)} == {ECO, UNPRUNED, "asked for"}


def test_the_table_says_who_is_ahead_and_what_was_broken() -> None:
    runs = [
        *_ladder(POOL, 0.5, 0.7), *_ladder(POOL, 0.6, 0.8, total=3.0),
        *_ladder("peer", 0.4, 0.7, feasible=False), *_ladder("peer", 0.5, 0.7, total=3.0),
        *_ladder(FREE, 0.6, 0.6), *_ladder(FREE, 0.6, 0.6, total=3.0),
    ]  # fmt: skip
    lines = tune_rows.table([*runs, replace(runs[0], over=0.25)]).splitlines()
    assert lines[0] == "| held-out score | 1 USD | 3 USD | over budget |"
    assert lines[1] == "|---|---|---|---|"
    assert lines[2].startswith("| pool | 0.567 | 0.700 | 0 of 5 |")
    assert lines[3] == "| peer | 0.550 | 0.600 | 2 of 4 |"
    assert lines[5].startswith("| pool - peer | ")
    assert lines[5].count("|") == lines[0].count("|")
    assert lines[-1].endswith("above its total: 0.25 USD.")


def test_many_workers_are_timed_beside_one(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = tune_speed.Sizes(totals=(Decimal(".1"), Decimal(3)), seeds=(0,), metrics=("vote",))
    rows = tune_speed.measure(data, sizes, latency=0.02)
    assert [(row.n, row.target) for row in rows] == [(1, None), (1, 15.0)]
    for row in rows:
        assert min(row.ours, row.peer, row.ratio) > 0


def test_without_the_data_the_benches_say_what_they_lack(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for bench in (tune_replay, tune_speed):
        assert bench.run(True) == bench.run(True, tmp_path) == []
        said = capsys.readouterr().err
        assert "--data" in said
        assert "samples.parquet and pricing.json" in said


def test_the_command_hands_each_bench_its_options(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given: dict[str, Any] = {}
    row = Row(
        bench="b", case="c", metric="m", unit="u", ours=2.0, peer=1.0, peer_name="p", ratio=2.0, low=0.5, high=3.0,
        n=1, target=1.0, better="higher", above=1.0,
    )  # fmt: skip
    for bench in (tune_replay, tune_speed):
        monkeypatch.setattr(
            bench, "run", lambda quick, *, name=bench.__name__, **more: (given.update({name: (quick, more)}), [row])[1]
        )
    monkeypatch.setattr(tune_replay, "runs", lambda quick, **more: _ladder(POOL, 0.5, 0.5))
    app = Typer()
    app.command()(command.main)

    def said(*arguments: str) -> str:
        done = CliRunner().invoke(app, [*arguments, "--data", str(tmp_path)])
        assert done.exit_code == 0, done.output
        return done.output

    assert json.loads(said("tune_replay", "--quick", "--json", "--jobs", "3"))["met"] is False
    assert "missed" in said("tune_speed")
    assert given["bench.tune_replay"] == (True, {"data": tmp_path, "jobs": 3, "keep": None})
    assert given["bench.tune_speed"] == (False, {"data": tmp_path})
    assert "| pool | 0.500 | 0 of 2 |" in said("tune_replay", "--table")
    assert CliRunner().invoke(app, ["client", "--table"]).exit_code == 2
