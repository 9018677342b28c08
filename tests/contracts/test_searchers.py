"""The searcher contract, bound to each of ours; and what is particular to some."""

from __future__ import annotations

import logging
import statistics
import sys
from random import Random

import pytest

from selfreg_sdk.errors import ConfigError
from selfreg_sdk.tuner.search.local_search import LocalSearch
from selfreg_sdk.tuner.search.random_search import RandomSearch
from selfreg_sdk.tuner.search.search import Choice, Float, Int, Mode, Searcher, Space
from selfreg_sdk.tuner.search.searchers import make_searcher
from selfreg_sdk.tuner.search.tpe import TpeSearch
from tests.contracts.searcher_contract import SPACE, SearcherContract, work, worth


class TestRandom(SearcherContract):
    def make(self, space: Space = SPACE, *, mode: Mode = "max", seed: int = 1) -> Searcher:
        return RandomSearch(space, mode=mode, seed=seed)


class TestLocal(SearcherContract):
    def make(self, space: Space = SPACE, *, mode: Mode = "max", seed: int = 1) -> Searcher:
        return LocalSearch(space, mode=mode, seed=seed)


class TestTpe(SearcherContract):
    def make(self, space: Space = SPACE, *, mode: Mode = "max", seed: int = 1) -> Searcher:
        return TpeSearch(space, mode=mode, seed=seed)


class TestBlendSearch(SearcherContract):
    def make(self, space: Space = SPACE, *, mode: Mode = "max", seed: int = 1) -> Searcher:
        return make_searcher("blendsearch", space, mode=mode, seed=seed)


def noisy_best(searcher: Searcher, count: int, seed: int) -> float:
    """The true worth of the point with the best noisy value."""
    random, best = Random(seed), (-9.0, -9.0)
    for _ in range(count):
        proposal = searcher.ask()
        assert proposal is not None
        value = worth(proposal.point) + random.gauss(0.0, 0.05)
        searcher.tell(proposal.id, value, 1.0)
        best = max(best, (value, worth(proposal.point)))
    return best[1]


@pytest.mark.parametrize(("kind", "runs"), [(LocalSearch, 24), (TpeSearch, 6)])
def test_better_than_random_within_forty_noisy_evaluations(kind: type[LocalSearch], runs: int) -> None:
    ours = [noisy_best(kind(SPACE, seed=seed), 40, seed) for seed in range(runs)]
    chance = [noisy_best(RandomSearch(SPACE, seed=seed), 40, seed) for seed in range(24)]
    assert statistics.mean(ours) > statistics.mean(chance) + 0.05


def test_random_search_ignores_results() -> None:
    searcher = RandomSearch(SPACE, seed=1)
    untold = [searcher.ask() for _ in range(10)]
    assert [(point.id, point.point) for point in untold if point] == [
        (event.id, event.point) for event in work(RandomSearch(SPACE, seed=1), 10) if hasattr(event, "point")
    ]


def test_the_first_points_of_local_search_cover_every_dimension() -> None:
    searcher = LocalSearch({"x": Float(0.0, 8.0), "n": Int(1, 64, log=True)}, seed=5)
    points = [proposal.point for _ in range(8) if (proposal := searcher.ask()) is not None]
    assert {int(point["x"]) for point in points} == set(range(8))
    assert len({point["n"] for point in points}) >= 6


def test_open_proposals_push_tpe_away() -> None:
    space: Space = {"x": Float(0.0, 1.0)}
    searcher = TpeSearch(space, seed=2)
    for _ in range(20):
        proposal = searcher.ask()
        assert proposal is not None
        searcher.tell(proposal.id, -abs(proposal.point["x"] - 0.5))
    waiting = [proposal.point["x"] for _ in range(8) if (proposal := searcher.ask()) is not None]
    assert max(waiting) - min(waiting) > 0.1


def test_nothing_is_said_or_warned(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    with caplog.at_level(logging.DEBUG):
        for name in ("tpe", "blendsearch"):
            work(make_searcher(name, SPACE), 25, parallel=3)  # type: ignore[arg-type]
    assert capfd.readouterr() == ("", "")


def test_auto_is_tpe_where_it_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(make_searcher("auto", SPACE), TpeSearch)
    monkeypatch.setattr("selfreg_sdk.tuner.search.searchers.find_spec", lambda name: None)
    assert isinstance(make_searcher("auto", SPACE), LocalSearch)


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for library, module in (("optuna", "tpe"), ("flaml", "blend_search")):
        monkeypatch.setitem(sys.modules, library, None)
        monkeypatch.delitem(sys.modules, f"selfreg_sdk.tuner.search.{module}", raising=False)
    with pytest.raises(ConfigError, match=r"selfreg\[tune\]"):
        make_searcher("tpe", SPACE)
    with pytest.raises(ConfigError, match=r"selfreg\[blendsearch\]"):
        make_searcher("blendsearch", SPACE)


def test_an_unknown_searcher_is_refused() -> None:
    with pytest.raises(ConfigError, match="choose from auto, tpe"):
        make_searcher("grid", SPACE)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Choice(()),
        lambda: Choice(("a", "a")),
        lambda: Choice((object(),)),
        lambda: Float(1.0, 0.0),
        lambda: Float(0.0, 1.0, log=True),
        lambda: Float(0.0, float("nan")),
        lambda: Int(1, 2.5),
        lambda: Int(0, 5, log=True),
    ],
)
def test_dimensions_are_checked(wrong: object) -> None:
    with pytest.raises(ConfigError):
        wrong()  # type: ignore[operator]
