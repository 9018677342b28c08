"""What every searcher does. A test class per searcher inherits this and says how to make one."""

from __future__ import annotations

import json
import time
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from selfreg_sdk.errors import ConfigError
from selfreg_sdk.tuner.search.dimensions import contains, point_key
from selfreg_sdk.tuner.search.search import (
    Alternatives,
    Choice,
    Event,
    Float,
    Int,
    Mode,
    Point,
    Proposal,
    Searcher,
    Space,
    Told,
    replay,
)

SPACE: Space = {
    "model": Choice(("small", "large")),
    "stop": Choice((None, ["\n"], ["a", "ü"])),
    "temperature_or_top_p": Alternatives(({"temperature": Float(0.0, 2.0)}, {"top_p": Float(0.05, 1.0)}, {})),
    "n": Int(1, 64, log=True),
    "max_tokens": Int(50, 1000, log=True),
    "fixed": Float(0.5, 0.5),
}
NESTED: Space = {
    "kind": Alternatives(
        (
            {"model": Choice(("thinker",)), "effort": Choice(("low", "high"))},
            {
                "model": Choice(("writer", "poet")),
                "heat": Alternatives(({"temperature": Float(0.1, 2.0, log=True)}, {"top_p": Float(0.05, 1.0)})),
            },
        )
    ),
    "n": Int(1, 8),
}


def worth(point: Point) -> float:
    """A smooth hill with its top at n=16, temperature 0.7, 300 tokens, the large model."""
    value = -abs(point["n"] - 16) / 64 - abs(point["max_tokens"] - 300) / 1000
    return value - abs(point.get("temperature", 2.0) - 0.7) - (point["model"] == "small")


def work(searcher: Searcher, count: int, *, seed: int = 0, parallel: int = 1) -> list[Event]:
    """Ask and tell, with some failures, several open at a time; the record of it."""
    random, events, waiting = Random(seed), list[Event](), list[Proposal]()
    for _ in range(count):
        if (proposal := searcher.ask()) is not None:
            events.append(proposal)
            waiting.append(proposal)
        if waiting and (len(waiting) >= parallel or proposal is None):
            done = waiting.pop(random.randrange(len(waiting)))
            value = None if random.random() < 0.2 else worth(done.point) if "max_tokens" in done.point else 1.0
            cost = float(done.point["n"])
            searcher.tell(done.id, value, cost)
            events.append(Told(id=done.id, value=value, cost=cost))
    return events


def asked(events: list[Event]) -> list[tuple[int, str]]:
    return [(event.id, point_key(event.point)) for event in events if isinstance(event, Proposal)]


class SearcherContract:
    """The contract. A subclass says how a searcher is made."""

    def make(self, space: Space = SPACE, *, mode: Mode = "max", seed: int = 1) -> Searcher:
        raise NotImplementedError

    @pytest.mark.parametrize("space", [SPACE, NESTED], ids=["plain", "nested"])
    def test_points_lie_inside_the_space(self, space: Space) -> None:
        events = work(self.make(space), 40)
        points = [event.point for event in events if isinstance(event, Proposal)]
        assert len(points) == 40
        for point in points:
            assert contains(space, point), point
            assert json.loads(json.dumps(point)) == point

    def test_alternatives_never_meet_and_are_all_tried(self) -> None:
        points = [e.point for e in work(self.make(), 40) if isinstance(e, Proposal)]
        assert not any({"temperature", "top_p"} <= point.keys() for point in points)
        assert {("temperature" in point, "top_p" in point) for point in points} == {
            (True, False),
            (False, True),
            (False, False),
        }

    @pytest.mark.parametrize("parallel", [1, 5])
    def test_same_seed_and_results_give_the_same_proposals(self, parallel: int) -> None:
        first, second = (work(self.make(seed=3), 40, parallel=parallel) for _ in range(2))
        assert first == second

    def test_another_seed_gives_other_proposals(self) -> None:
        assert asked(work(self.make(seed=3), 5)) != asked(work(self.make(seed=4), 5))

    def test_the_global_random_state_is_neither_used_nor_changed(self) -> None:
        import random

        import numpy as np

        random.seed(1)
        np.random.seed(1)
        first = work(self.make(), 20)
        after = random.random(), np.random.random()
        random.seed(1)
        np.random.seed(1)
        assert (random.random(), np.random.random()) == after
        random.seed(2)
        np.random.seed(2)
        assert work(self.make(), 20) == first

    def test_asks_without_tells_are_distinct(self) -> None:
        searcher = self.make()
        points = [proposal.point for _ in range(20) if (proposal := searcher.ask()) is not None]
        assert len(points) == 20
        assert len({point_key(point) for point in points}) == len(points)

    def test_no_point_is_proposed_twice(self) -> None:
        keys = [key for _, key in asked(work(self.make(NESTED), 60))]
        assert len(set(keys)) == len(keys)

    def test_a_finite_space_ends(self) -> None:
        space: Space = {"n": Int(1, 3), "m": Choice(("a", "b"))}
        searcher, seen = self.make(space), set[str]()
        for _ in range(30):
            if (proposal := searcher.ask()) is not None:
                seen.add(point_key(proposal.point))
                searcher.tell(proposal.id, 1.0, 1.0)
        assert searcher.ask() is None
        assert len(seen) == 6

    @pytest.mark.parametrize("parallel", [1, 4])
    def test_replay_brings_back_the_live_state(self, parallel: int) -> None:
        live, twin = self.make(), self.make()
        record = work(live, 30, parallel=parallel)
        replay(twin, record)
        assert asked(work(live, 10)) == asked(work(twin, 10)) != []

    def test_a_record_survives_json(self) -> None:
        record = work(self.make(), 12)
        rows = json.loads(json.dumps([vars(event) for event in record]))
        again: list[Event] = [Proposal(**row) if "point" in row else Told(**row) for row in rows]
        replay(self.make(), again)

    def test_replay_of_a_foreign_record_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="resume with the same searcher, space, mode and seed"):
            replay(self.make(seed=5), work(self.make(seed=6), 5))

    def test_everything_may_fail(self) -> None:
        searcher = self.make()
        count = 0
        for _ in range(40):
            if (proposal := searcher.ask()) is not None:
                searcher.tell(proposal.id, None, 0.0)
                count += 1
        assert count == 40

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
    def test_values_are_finite(self, value: float) -> None:
        searcher = self.make()
        proposal = searcher.ask()
        assert proposal is not None
        with pytest.raises(ConfigError, match="tell None for a failed point"):
            searcher.tell(proposal.id, value)
        searcher.tell(proposal.id, 0.0)

    def test_a_proposal_is_told_once(self) -> None:
        searcher = self.make()
        proposal = searcher.ask()
        assert proposal is not None
        searcher.tell(proposal.id, 1.0)
        with pytest.raises(ConfigError, match="not open"):
            searcher.tell(proposal.id, 1.0)
        for unknown in (7, -1):
            with pytest.raises(ConfigError, match="not open"):
                searcher.tell(unknown, 1.0)

    def test_minimising_is_maximising_the_negative(self) -> None:
        up, down = self.make(mode="max"), self.make(mode="min")
        for _ in range(30):
            one, other = up.ask(), down.ask()
            assert one == other
            if one is not None and other is not None:
                up.tell(one.id, worth(one.point), 1.0)
                down.tell(other.id, -worth(other.point), 1.0)

    @pytest.mark.parametrize("space", [{}, {"a": Choice((1,)), "b": Alternatives(({"a": Choice((1,))}, {}))}])
    def test_spaces_are_checked(self, space: Any) -> None:
        with pytest.raises(ConfigError):
            self.make(space)

    def test_the_mode_is_checked(self) -> None:
        with pytest.raises(ConfigError, match="'max' or 'min'"):
            self.make(mode="up")  # type: ignore[arg-type]

    def test_hundred_points_take_no_time(self) -> None:
        started = time.monotonic()
        work(self.make(), 100)
        assert time.monotonic() - started < 60

    @settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        low=st.integers(1, 50),
        span=st.integers(0, 2000),
        log=st.booleans(),
        values=st.sets(st.text(), min_size=1, max_size=5),
    )
    def test_any_space_is_respected(self, low: int, span: int, log: bool, values: set[str]) -> None:
        space: Space = {
            "i": Int(low, low + span, log=log),
            "f": Float(low / 7, low / 7 + span / 3, log=log),
            "c": Choice(tuple(sorted(values))),
        }
        searcher = self.make(space)
        for _ in range(12):
            if (proposal := searcher.ask()) is None:
                break
            assert contains(space, proposal.point), proposal
            searcher.tell(proposal.id, float(proposal.point["i"]), 1.0)
