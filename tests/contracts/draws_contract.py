"""What every kind of store does for studies: rows of studies, claims on draws, and what they cost."""

from __future__ import annotations

import threading
from decimal import Decimal
from typing import Any

import pytest

from selfreg_sdk.errors import ConfigError
from selfreg_sdk.meter import AttemptInfo, Meter
from selfreg_sdk.store import Store
from selfreg_sdk.store.draw_row import DrawEnd, DrawId, DrawRow
from selfreg_sdk.store.draws import DrawRows
from selfreg_sdk.store.studies import Studies
from selfreg_sdk.usage import Usage

LONG = 60.0
DRAWS = [DrawId(f"key {number}", 0, 2) for number in range(6)]


def request_id(id_: DrawId) -> str:
    return f"{id_.key} {id_.start} {id_.count}"


def unfinished(row: DrawRow | None) -> bool:
    return row is None or row.state == "open"


def paid(store: Store, id_: DrawId, cost: str, *, purpose: Any = "trial", settle: bool = True) -> None:
    """An attempt in the ledger, in the name of a draw."""
    meter = Meter(store)
    info = AttemptInfo(purpose=purpose, model="m", endpoint="http://localhost:1/v1", request_id=request_id(id_))
    held = meter.reserve(scopes=[("b", None)], worst=Decimal("0.5"), info=info)
    if settle:
        meter.settle(held, cost=Decimal(cost), usage=Usage(prompt_tokens=1, completion_tokens=1))


class DrawsContract:
    """The contract. A subclass gives the fixture ``store``: a new, empty one."""

    def rows(self, store: Store, name: str = "s", **options: Any) -> DrawRows:
        study = Studies(store).ensure(name, task_key="t", spec={}, seed=0)
        return DrawRows(store, study.id, request_id=request_id, **options)

    def claim(self, rows: DrawRows, owner: str, wanted: list[DrawId] = DRAWS, **options: Any) -> list[DrawId]:
        given: dict[str, Any] = {"needs": unfinished, "most": 100, "seconds": LONG, **options}
        return list(rows.claim(owner, wanted, **given).ids)

    # studies

    def test_a_study_is_made_once_and_comes_back_as_it_was(self, store: Store) -> None:
        studies = Studies(store)
        made = studies.ensure("n", task_key="t", spec={"é": [1, None, {"a": 0.5}]}, seed=2**40)
        assert (made.spec, made.seed, made.state, made.outcome) == (
            {"é": [1, None, {"a": 0.5}]},
            2**40,
            "running",
            None,
        )
        assert studies.ensure("n", task_key="other", spec={}, seed=1) == made == studies.find("n") == studies.get("n")
        assert studies.find("m") is None
        with pytest.raises(ConfigError, match=r"no study 'm' .* it has 'n'"):
            studies.get("m")

    def test_workers_that_make_one_study_at_once_get_the_same(self, store: Store) -> None:
        studies, found = Studies(store), list[int]()

        def work() -> None:
            found.append(studies.ensure("n", task_key="t", spec={}, seed=0).id)

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 8
        assert len(set(found)) == 1

    def test_what_is_given_changes_and_the_rest_stays(self, store: Store) -> None:
        studies = Studies(store)
        first = studies.ensure("a", task_key="t", spec={"x": 1}, seed=0)
        second = studies.ensure("b", task_key="u", spec={}, seed=0)
        studies.update(first.id, state="finished", outcome={"best": None})
        studies.update(first.id, spec={"x": 2})
        now = studies.get("a")
        assert (now.state, now.outcome, now.spec) == ("finished", {"best": None}, {"x": 2})
        assert now.updated_at > first.updated_at
        assert [study.id for study in studies.list()] == [second.id, first.id]
        assert [study.id for study in studies.list("t")] == [first.id]
        with pytest.raises(ConfigError, match="'paused' is not one of"):
            studies.update(first.id, state="paused")  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="no study with the id 99"):
            studies.update(99, state="stopped")

    # claims

    def test_nobody_claims_what_another_has(self, store: Store) -> None:
        rows = self.rows(store)
        assert self.claim(rows, "a") == DRAWS
        assert self.claim(rows, "b") == []
        assert rows.claim("b", DRAWS, needs=unfinished, most=9, seconds=LONG).others == len(DRAWS)
        assert {id_ for id_, row in rows.find({id_.key for id_ in DRAWS}).items() if row.held} == set(DRAWS)
        rows.release("a", DRAWS[:2])
        assert self.claim(rows, "b") == DRAWS[:2]

    def test_workers_of_a_study_share_what_there_is(self, store: Store) -> None:
        rows = self.rows(store)
        self.claim(rows, "a", [])
        self.claim(rows, "b", [])
        assert self.claim(rows, "a") == DRAWS[:3]
        assert self.claim(rows, "b") == DRAWS[3:]
        rows.leave("a")
        assert self.claim(self.rows(store, "another study"), "c") == DRAWS
        fresh = [DrawId("fresh", number, 1) for number in range(4)]
        assert self.claim(rows, "b", fresh, most=3) == fresh[:3]

    def test_many_who_claim_at_once_get_each_draw_once(self, store: Store) -> None:
        rows = self.rows(store)
        wanted = [DrawId(f"k{number}", 0, 1) for number in range(40)]
        got: list[DrawId] = []

        def work(name: str) -> None:
            while ids := self.claim(rows, name, wanted, most=3):
                got.extend(ids)
                rows.finish(name, [DrawEnd(id=id_, state="failed") for id_ in ids])

        threads = [threading.Thread(target=work, args=(f"w{number}",)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(got, key=lambda id_: id_.key) == sorted(wanted, key=lambda id_: id_.key)

    def test_draws_under_one_key_are_in_one_hand(self, store: Store) -> None:
        rows = self.rows(store)
        first, second = DrawId("k", 0, 1), DrawId("k", 1, 1)
        assert self.claim(rows, "a", [first]) == [first]
        assert self.claim(rows, "b", [second]) == []
        rows.finish("a", [DrawEnd(id=first, state="bought")])
        assert self.claim(rows, "b", [second]) == [second]

    def test_a_lease_that_ran_out_is_taken_over_and_the_first_is_turned_away(self, store: Store) -> None:
        rows = self.rows(store)
        (draw,) = self.claim(rows, "a", DRAWS[:1], seconds=-1)
        assert self.claim(rows, "b", [draw]) == [draw]
        rows.renew("a", LONG)
        assert rows.finish("a", [DrawEnd(id=draw, state="failed")]) == {}
        assert list(rows.finish("b", [DrawEnd(id=draw, state="bought")])) == [draw]
        assert rows.finish("b", [DrawEnd(id=draw, state="failed")]) == {}
        assert [row.state for row in rows.all()] == ["bought"]

    def test_a_lease_that_is_renewed_in_time_holds(self, store: Store) -> None:
        rows = self.rows(store)
        (draw,) = self.claim(rows, "a", DRAWS[:1], seconds=-1)
        rows.renew("a", LONG)
        assert self.claim(rows, "b", [draw]) == []

    def test_the_leases_of_the_dead_need_not_run_out(self, store: Store) -> None:
        self.claim(self.rows(store), "dead")
        rows = self.rows(store, gone=lambda owner: owner == "dead")
        assert not any(row.held for row in rows.all())
        claimed = rows.claim("b", DRAWS, needs=unfinished, most=100, seconds=LONG)
        assert (list(claimed.ids), claimed.others) == (DRAWS, 0)

    def test_what_needs_no_work_is_not_claimed(self, store: Store) -> None:
        rows = self.rows(store)
        self.claim(rows, "a")
        rows.finish("a", [DrawEnd(id=id_, state="bought") for id_ in DRAWS[:4]])
        assert self.claim(rows, "a") == []
        rows.release("a", DRAWS)
        assert self.claim(rows, "a") == DRAWS[4:]
        seen: list[DrawRow | None] = []
        rows.claim("a", [*DRAWS[:1], DrawId("new", 0, 1)], needs=lambda row: bool(seen.append(row)), most=9, seconds=1)
        assert [None if row is None else row.state for row in seen] == ["bought", None]

    # what became of them

    def test_a_draw_comes_back_as_it_was_finished(self, store: Store) -> None:
        rows = self.rows(store)
        self.claim(rows, "a")
        ends = [
            DrawEnd(id=DRAWS[0], state="bought", seconds=0.25, marks=((0.5, "é"), (-1e300, None))),
            DrawEnd(id=DRAWS[1], state="bought", mark_error="it raised"),
            DrawEnd(id=DRAWS[2], state="refused", refused=("study:s", Decimal("0.000000000001")), reason="no money"),
            DrawEnd(id=DRAWS[3], state="failed", reason="x" * 1000),
        ]
        written = rows.finish("a", ends)
        assert written == {
            id_: row for id_, row in rows.find({id_.key for id_ in DRAWS[:4]}).items() if row.reason[:1] != "x"
        } | {DRAWS[3]: written[DRAWS[3]]}
        assert [vars(written[end.id]) for end in ends] == [
            vars(end) | {"cost": Decimal(0), "mark_cost": Decimal(0), "held": False} for end in ends
        ]
        assert rows.find({DRAWS[3].key})[DRAWS[3]].reason == "x" * 500
        assert [row.id for row in rows.all()] == DRAWS

    def test_a_draw_costs_what_the_ledger_says_of_it(self, store: Store) -> None:
        rows = self.rows(store)
        self.claim(rows, "a")
        paid(store, DRAWS[0], "0.25")
        paid(store, DRAWS[0], "0.125")
        paid(store, DRAWS[0], "0.0625", purpose="score")
        paid(store, DRAWS[1], "0", settle=False)  # nobody knows yet: its worst case
        paid(store, DRAWS[3], "1")
        rows.finish("a", [DrawEnd(id=id_, state="failed") for id_ in DRAWS[:3]])
        assert [(row.cost, row.mark_cost) for row in rows.all()[:3]] == [
            (Decimal("0.375"), Decimal("0.0625")),
            (Decimal("0.5"), 0),
            (0, 0),
        ]

    def test_studies_know_nothing_of_each_others_draws(self, store: Store) -> None:
        one, other = self.rows(store, "one"), self.rows(store, "other")
        self.claim(one, "a")
        assert (len(one.all()), other.all(), other.find([DRAWS[0].key])) == (len(DRAWS), (), {})
