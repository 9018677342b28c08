"""The bench of heads: what is made once is kept, and findings become the rows that are promised."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from bench import heads_work
from bench.heads_quality import CROSS_ENTROPY, QUICK, REWARD, Findings, Plan, rows
from bench.heads_work import Corpus, Kept, Measured, Trained
from bench.rows import Row
from local_backend.training.evaluation.baselines import BEST, ORACLE
from local_backend.training.evaluation.evaluate import MEASURES, Result, TaskResult

PROMPTS = 30


def result(name: str, **scores: float) -> Result:
    """Every second prompt scores .1 more."""
    tasks = {}
    for family, score in scores.items():
        each = tuple(score + 0.1 * (place % 2) for place in range(PROMPTS))
        tasks[family] = TaskResult(scores=each, right=each, right_once=each, different=each, tokens=each)
    return Result(name=name, tasks=tasks)


def table(reward: Sequence[Result], *, ceiling: Result) -> list[Row]:
    others = [
        result("greedy (temperature=0)", maths=0.9, creative=0.0),
        result(f"{BEST} (temperature=0.6)", maths=0.8, creative=0.4),
    ]
    found = Findings(
        heads={REWARD: list(reward), CROSS_ENTROPY: [result(CROSS_ENTROPY, maths=0.9, creative=0.3)] * len(reward)},
        others=[*others, Result(name=ORACLE, tasks=ceiling.tasks)],
        samples=16,
        training_seconds=1.0,
    )
    return list(rows(found, tuple(range(len(reward)))))


GOOD = [result(REWARD, maths=0.9, creative=0.7), result(REWARD, maths=0.8, creative=0.7)]


def test_what_is_promised_is_met_or_missed() -> None:
    made = table(GOOD, ceiling=result("", maths=0.9, creative=0.6))
    promised = {row.peer_name.split(" (")[0]: row.met for row in made if row.target is not None}
    assert promised == {BEST: True, ORACLE: True}
    best = next(row for row in made if row.target is not None and row.peer_name.startswith(BEST))
    # Means over seeds, families and prompts: (.9 + .8) / 2 and .7, each with .05 for every second prompt's tenth.
    assert best.ours == pytest.approx((0.85 + 0.7) / 2 + 0.05)
    assert best.peer == pytest.approx((0.8 + 0.4) / 2 + 0.05)
    assert best.low == pytest.approx(best.high) == pytest.approx(best.ours - best.peer)
    missed = table(GOOD, ceiling=result("", maths=0.9, creative=0.7))
    assert {row.peer_name: row.met for row in missed if row.target is not None}[ORACLE] is False


def test_an_interval_that_holds_nothing_is_no_proof() -> None:
    wild = TaskResult(
        scores=tuple(1.7 * (place % 2) for place in range(PROMPTS)),
        right=(),
        right_once=(),
        different=(0.5,),
        tokens=(1.0,),
    )
    ours = [Result(name=REWARD, tasks={"maths": wild, "creative": wild})]
    peer = result("", maths=0.7, creative=0.7)
    others = [Result(name=f"{BEST} (x)", tasks=peer.tasks), Result(name=ORACLE, tasks=peer.tasks)]
    found = Findings(heads={REWARD: ours, CROSS_ENTROPY: ours}, others=others, samples=16, training_seconds=1.0)
    row = next(rows(found, (0,)))
    assert row.ratio > 1
    assert row.low < 0 < row.high
    assert row.met is False


def test_every_measure_and_every_peer_is_in_the_table() -> None:
    made = table(GOOD, ceiling=result("", maths=0.9, creative=0.6))
    assert {row.metric for row in made} == {name.replace("@k", "@16") for name in MEASURES}
    peers = {row.peer_name.split(" (")[0] for row in made if row.case == REWARD and row.metric == "score"}
    assert peers == {"greedy", BEST, ORACLE, "AutoDeco"}
    assert {f"{REWARD}, maths", f"{REWARD}, creative", f"{REWARD}, seed 0", f"{REWARD}, seed 1", CROSS_ENTROPY} <= {
        row.case for row in made
    }
    assert all(row.to_json() for row in made)


def test_full_and_quick_plans_ask_for_what_is_promised() -> None:
    full = Plan()
    assert len(full.seeds) >= 5
    assert full.samples == 16
    assert {where.split for where in (full.asked("validation", "t_star"), full.asked("full test", "t_star"))} == {
        "validation",
        "test",
    }
    assert full.asked("test", "t_star").samples is None
    assert all(heads.corpus is not None for heads in QUICK.heads()[CROSS_ENTROPY])


def test_an_outcome_is_made_once(tmp_path: Path) -> None:
    piece = Measured(split="validation", prompts=1, samples=None, how="temperature=0")
    Kept(tmp_path).make("measuring", [piece, piece], jobs=1)
    again = Kept(tmp_path)
    lines = (again.folder / "outcomes.jsonl").read_text().splitlines()
    assert len(lines) == 1
    again.make("measuring", [piece], jobs=1)
    assert (again.folder / "outcomes.jsonl").read_text().splitlines() == lines
    found = again.result(piece, "greedy")
    assert set(found.tasks) == {"reasoning", "maths", "translation", "code", "extraction", "creative"}
    assert found.tasks["creative"].scores == (0.0,)


def test_other_code_has_other_outcomes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = Kept(tmp_path).folder
    monkeypatch.setattr(heads_work, "_CODE", ("heads.py",))
    assert Kept(tmp_path).folder != before


def test_pieces_have_folders_of_their_own(tmp_path: Path) -> None:
    pieces = [
        Trained(seed=0, steps=3),
        Trained(seed=1, steps=3),
        Trained(seed=0, steps=4),
        Trained(corpus=Corpus(prompts=5), seed=0, steps=3),
        Trained(corpus=Corpus(prompts=6), seed=0, steps=3),
    ]
    assert len({piece.folder(tmp_path) for piece in pieces}) == len(pieces)
