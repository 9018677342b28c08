"""What every kind of store does. A test class per backend inherits this and says how to open one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa

from selfreg_sdk.cache import ResponseCache
from selfreg_sdk.errors import BudgetExceeded, ConfigError
from selfreg_sdk.meter import AttemptInfo, Meter
from selfreg_sdk.store import Store
from selfreg_sdk.store.capabilities import LearnedCapabilities
from selfreg_sdk.store.configs import ConfigRecord, Configs
from selfreg_sdk.usage import Usage

INFO = AttemptInfo(
    purpose="answer",
    model="m",
    endpoint="http://user:secret@localhost:1/v1/?key=secret",
    request_id="r1",
    task_key="t",
    params={"temperature": 0.7, "stop": ["\n"]},
)
USAGE = Usage(prompt_tokens=10, completion_tokens=5, reasoning_tokens=2, cached_tokens=3)
BODY: dict[str, Any] = {"choices": [{"finish_reason": "stop", "message": {"content": "é\u2028😀"}}]}


def record(**changes: Any) -> ConfigRecord:
    values: dict[str, Any] = {
        "task_key": "t",
        "model": "m",
        "aggregation": "first",
        "params": {"temperature": 0.3, "stop": ["a", "ü"]},
        "provenance": {"kind": "static"},
    }
    return ConfigRecord(**values | changes)


class StoreContract:
    """The contract. A subclass gives the fixture ``store``: a new, empty one."""

    @pytest.fixture
    def store(self) -> Iterator[Store]:
        raise NotImplementedError

    @contextmanager
    def unchanged(self, store: Store) -> Iterator[None]:
        """Nothing about money changes inside the block."""
        meter = Meter(store)
        before = (meter.status(), meter.ledger(), meter.totals())
        yield
        assert (meter.status(), meter.ledger(), meter.totals()) == before

    # transactions

    def test_a_block_that_raises_is_rolled_back(self, store: Store) -> None:
        insert = sa.text("INSERT INTO lease (resource, owner, until) VALUES ('x', 'me', '2026-01-01 00:00:00')")

        def fail() -> None:
            with store.write() as connection:
                connection.execute(insert)
                raise RuntimeError

        with pytest.raises(RuntimeError):
            fail()
        with store.read() as connection:
            assert connection.execute(sa.text("SELECT count(*) FROM lease")).scalar_one() == 0

    def test_foreign_keys_hold(self, store: Store) -> None:
        with pytest.raises(ConfigError, match="does not exist"):
            Configs(store).add_version(record(parent_id=99))

    # configs

    def test_a_version_comes_back_as_it_was_added(self, store: Store) -> None:
        configs = Configs(store)
        first = configs.add_version(record())
        full = record(
            plan={"family": "maths", "depth": "none"},
            provenance={"kind": "planned", "planner_model": "p", "raw": "x" * 1000},
            score=0.5,
            score_low=0.25,
            score_high=0.75,
            cost_usd=Decimal("0.000000000001"),
            parent_id=first,
            created_at=datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
        )
        second = configs.add_version(full)
        found = configs.get(second)
        assert found == ConfigRecord(**{**vars(full), "id": second})
        assert found.created_at.tzinfo == UTC
        assert [version.id for version in configs.list()] == [first, second]

    def test_versions_are_listed_by_task(self, store: Store) -> None:
        configs = Configs(store)
        mine = configs.add_version(record(task_key="mine"))
        configs.add_version(record(task_key="other"))
        assert [version.id for version in configs.list("mine")] == [mine]
        assert configs.list("none") == ()

    def test_pointers_move_back_and_forth_and_nothing_is_overwritten(self, store: Store) -> None:
        configs = Configs(store)
        old, new = configs.add_version(record()), configs.add_version(record(params={"temperature": 1.0}))
        assert configs.current("t") is None
        for version in (old, new, old):
            configs.point("t", "production", version)
            current = configs.current("t")
            assert current is not None
            assert current.id == version
        configs.point("t", "staging", new)
        assert configs.pointers("t") == {("t", "production"): old, ("t", "staging"): new}
        assert configs.get(new).params == {"temperature": 1.0}

    def test_a_pointer_takes_no_version_of_another_task_and_no_unknown_stage(self, store: Store) -> None:
        configs = Configs(store)
        other = configs.add_version(record(task_key="other"))
        for bad in (other, 99):
            with pytest.raises(ConfigError, match=f"config version {bad}"):
                configs.point("t", "production", bad)
        with pytest.raises(ConfigError, match="'live'"):
            configs.point("other", "live", other)  # type: ignore[arg-type]
        assert configs.pointers() == {}

    def test_a_version_that_does_not_exist_is_a_clear_error(self, store: Store) -> None:
        with pytest.raises(ConfigError, match="7"):
            Configs(store).get(7)

    def test_a_version_without_a_kind_is_refused(self, store: Store) -> None:
        with pytest.raises(ConfigError, match="kind"):
            Configs(store).add_version(record(provenance={}))

    # capabilities

    def test_what_was_learned_belongs_to_one_model_at_one_endpoint(self, store: Store) -> None:
        learned = LearnedCapabilities(store)
        learned.learn("http://localhost:1/v1", "m", "temperature", "rejected", "no " * 500)
        learned.learn("http://localhost:1/v1/", "m", "top_p", "rejected")
        learned.learn("http://localhost:1/v1", "m", "top_p", "ignored")
        assert learned.learned("http://LOCALHOST:1/v1", "m") == {"temperature": "rejected", "top_p": "ignored"}
        assert learned.learned("http://localhost:1/v1", "other") == {}
        assert learned.learned("http://localhost:2/v1", "m") == {}

    # money

    def test_the_life_of_a_settled_attempt(self, store: Store) -> None:
        meter = Meter(store)
        reservation = meter.reserve(scopes=[("b", Decimal(1)), ("a", None)], worst=Decimal("0.4"), info=INFO)
        for status in meter.status():
            assert (status.spent, status.held) == (0, Decimal("0.4"))
        reply = ResponseCache(store).record("k", BODY, model="m", endpoint="http://localhost:1/v1")
        charged = meter.settle(reservation, cost=Decimal("0.1"), usage=USAGE, flags=["odd"], response=reply)

        assert charged == Decimal("0.1")
        assert ResponseCache(store).get("k") == BODY
        (entry,) = meter.ledger()
        assert (entry.state, entry.worst, entry.cost) == ("settled", Decimal("0.4"), Decimal("0.1"))
        assert (entry.usage, entry.flags, entry.scopes) == (USAGE, ("odd",), ("a", "b"))
        assert (entry.params, entry.request_id, entry.attempt) == (INFO.params, "r1", 1)
        assert entry.endpoint == "http://localhost:1/v1"
        a, b = meter.status()
        assert (a.cap, a.spent, a.held, a.left) == (None, Decimal("0.1"), 0, None)
        assert (b.cap, b.spent, b.held, b.left) == (1, Decimal("0.1"), 0, Decimal("0.9"))
        totals = meter.totals()
        assert (totals.tokens, totals.usd, totals.settled) == (15, Decimal("0.1"), 1)

    def test_settling_twice_charges_once(self, store: Store) -> None:
        meter = Meter(store)
        reservation = meter.reserve(scopes=[("b", Decimal(1))], worst=Decimal("0.4"), info=INFO)
        meter.settle(reservation, cost=Decimal("0.1"), usage=USAGE)
        with self.unchanged(store):
            assert meter.settle(reservation, cost=Decimal("0.3"), usage=None) == Decimal("0.1")
            meter.release(reservation, "no")
            meter.mark_unknown(reservation, "no")

    def test_a_released_attempt_costs_nothing(self, store: Store) -> None:
        meter = Meter(store)
        reservation = meter.reserve(scopes=[("b", Decimal(1))], worst=Decimal("0.4"), info=INFO)
        meter.release(reservation, "refused connection")
        with self.unchanged(store):
            meter.release(reservation, "again")
            meter.mark_unknown(reservation, "again")
        (entry,), (status,) = meter.ledger(), meter.status()
        assert (entry.state, entry.cost, entry.reason) == ("released", None, "refused connection")
        assert (status.spent, status.held, status.left) == (0, 0, 1)

    def test_an_unknown_attempt_costs_its_worst_case_until_the_truth_is_known(self, store: Store) -> None:
        meter = Meter(store)
        scopes = [("b", Decimal(1))]
        late, free = (meter.reserve(scopes=scopes, worst=Decimal("0.4"), info=INFO) for _ in range(2))
        meter.mark_unknown(late, "timeout")
        meter.mark_unknown(free, "timeout")
        assert meter.totals().unknown_usd == meter.status()[0].spent == Decimal("0.8")

        meter.settle(late, cost=Decimal("0.1"), usage=USAGE)
        meter.release(free, "was never sent")
        assert [entry.state for entry in meter.ledger()] == ["released", "settled"]
        assert meter.ledger(state="settled")[0].flags == ("late",)
        assert (meter.status()[0].spent, meter.status()[0].held) == (Decimal("0.1"), 0)

    def test_a_reply_without_usage_is_charged_at_the_worst_case_and_flagged(self, store: Store) -> None:
        meter = Meter(store)
        reservation = meter.reserve(scopes=[("b", Decimal(1))], worst=Decimal("0.4"), info=INFO)
        assert meter.settle(reservation, cost=None, usage=None) == Decimal("0.4")
        assert meter.ledger()[0].flags == ("usage_missing",)
        assert meter.ledger()[0].usage is None

    def test_a_cost_above_the_worst_case_is_recorded_in_full_and_flagged(self, store: Store) -> None:
        meter = Meter(store)
        reservation = meter.reserve(scopes=[("b", Decimal(1))], worst=Decimal("0.4"), info=INFO)
        meter.settle(reservation, cost=Decimal(3), usage=USAGE)
        assert meter.status()[0].spent == 3
        assert meter.status()[0].left == 0
        assert meter.ledger()[0].flags == ("over_worst_case",)

    def test_a_call_must_fit_under_every_cap_or_holds_nothing(self, store: Store) -> None:
        meter = Meter(store)
        meter.reserve(scopes=[("day", Decimal(1))], worst=Decimal("0.8"), info=INFO)
        with self.unchanged(store), pytest.raises(BudgetExceeded) as caught:
            meter.reserve(scopes=[("all", Decimal(9)), ("day", Decimal(1))], worst=Decimal("0.3"), info=INFO)
        error = caught.value
        assert (error.scope, error.cap, error.spent, error.held, error.wanted) == (
            "day",
            1,
            0,
            Decimal("0.8"),
            Decimal("0.3"),
        )

    def test_a_cap_is_used_up_to_the_last_pico_and_no_further(self, store: Store) -> None:
        meter = Meter(store)
        pico = Decimal("1e-12")
        meter.reserve(scopes=[("b", Decimal(1))], worst=Decimal(1) - pico, info=INFO)
        with pytest.raises(BudgetExceeded):
            meter.reserve(scopes=[("b", Decimal(1))], worst=2 * pico, info=INFO)
        with pytest.raises(BudgetExceeded):
            meter.reserve(scopes=[("b", Decimal(1))], worst=Decimal("1.1e-12"), info=INFO)
        meter.reserve(scopes=[("b", Decimal(1))], worst=pico, info=INFO)
        meter.reserve(scopes=[("b", Decimal(1))], worst=Decimal(0), info=INFO)

    def test_a_lowered_cap_counts_what_was_spent_before(self, store: Store) -> None:
        meter = Meter(store)
        meter.reserve(scopes=[("b", Decimal(5))], worst=Decimal(2), info=INFO)
        with pytest.raises(BudgetExceeded):
            meter.reserve(scopes=[("b", Decimal(2))], worst=Decimal("0.01"), info=INFO)

    def test_recovery_takes_only_attempts_whose_lease_ended(self, store: Store) -> None:
        start = datetime(2026, 11, 21, tzinfo=UTC)
        old = Meter(store, lease_seconds=60, clock=lambda: start)
        young = Meter(store, lease_seconds=60, clock=lambda: start + timedelta(seconds=50))
        old.reserve(scopes=[("b", None)], worst=Decimal(1), info=INFO)
        young.reserve(scopes=[("b", None)], worst=Decimal(2), info=INFO)

        assert old.recover(start + timedelta(seconds=70)) == 1
        assert old.recover(start + timedelta(seconds=70)) == 0
        (status,) = old.status()
        assert (status.spent, status.held) == (1, 2)
        assert old.ledger(state="unknown")[0].reason == "lease ended"

    def test_the_ledger_is_filtered_and_newest_first(self, store: Store) -> None:
        meter = Meter(store)
        for purpose, request in (("plan", "r1"), ("answer", "r1"), ("answer", "r2")):
            info = AttemptInfo(purpose=purpose, model="m", endpoint="x", request_id=request)  # type: ignore[arg-type]
            meter.settle(meter.reserve(scopes=[], worst=Decimal(1), info=info), cost=Decimal(1), usage=USAGE)
        assert [entry.id for entry in meter.ledger()] == sorted((e.id for e in meter.ledger()), reverse=True)
        assert [entry.purpose for entry in meter.ledger(request_id="r1")] == ["answer", "plan"]
        assert len(meter.ledger(limit=1)) == 1
        assert meter.totals(purpose="plan").tokens == 15
        assert meter.totals(request_id="r2").settled == 1
        assert meter.totals(task_key="none") == Meter(store).totals(task_key="nothing")

    def test_the_soft_limit_is_told_once_for_each_budget(self, store: Store) -> None:
        told: list[str] = []

        def tell(status: Any) -> None:
            told.append(status.scope)
            raise RuntimeError("a broken callback loses no reply")

        meter = Meter(store, soft=Decimal("0.5"), on_soft=tell)
        for _ in range(3):
            reservation = meter.reserve(scopes=[("b", Decimal(1)), ("free", None)], worst=Decimal("0.3"), info=INFO)
            meter.settle(reservation, cost=Decimal("0.3"), usage=USAGE)
        assert told == ["b"]

    def test_the_first_reply_under_a_key_stays(self, store: Store) -> None:
        meter, cache = Meter(store), ResponseCache(store)
        for text in ("first", "second"):
            body = {"choices": [{"finish_reason": "stop", "message": {"content": text}}]}
            reservation = meter.reserve(scopes=[], worst=Decimal(0), info=INFO)
            reply = cache.record("k", body, model="m", endpoint="x")
            meter.settle(reservation, cost=Decimal(0), usage=USAGE, response=reply)
        found = cache.get("k")
        assert found is not None
        assert found["choices"][0]["message"]["content"] == "first"
        assert meter.totals().settled == 2

    def test_threads_share_one_cap(self, store: Store) -> None:
        outcomes: list[str] = []
        start = threading.Barrier(8)

        def work() -> None:
            meter = Meter(store)
            start.wait()
            for _ in range(5):
                try:
                    meter.settle(
                        meter.reserve(scopes=[("b", Decimal(10))], worst=Decimal(1), info=INFO),
                        cost=Decimal(1),
                        usage=USAGE,
                    )
                    outcomes.append("paid")
                except BudgetExceeded:
                    outcomes.append("refused")

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (outcomes.count("paid"), outcomes.count("refused")) == (10, 30)
        assert Meter(store).status()[0].spent == 10
