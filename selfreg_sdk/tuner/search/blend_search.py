"""FLAML's BlendSearch behind `Searcher`, as EcoOptiGen uses it: local search and Optuna, aware of what a trial costs."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from selfreg_sdk.errors import ConfigError
from selfreg_sdk.tuner.search.dimensions import Alternatives, Choice, Float, Space, space_size
from selfreg_sdk.tuner.search.random_search import fresh_point
from selfreg_sdk.tuner.search.search import Mode, Proposal, Register

try:
    with warnings.catch_warnings():
        # It misses flaml[automl], which this has no use for.
        warnings.filterwarnings("ignore", message="flaml.automl is not available", category=UserWarning)
        import optuna
        from flaml import tune
        from flaml.tune.searcher.blendsearch import BlendSearch as FlamlBlendSearch
except ImportError as missing:
    raise ConfigError(
        "BlendSearch needs flaml and Optuna: pip install 'selfreg[blendsearch]', or use searcher='tpe' or 'local'"
    ) from missing

_PATIENCE = 20
"""Proposals in a row that FLAML may hold back or repeat, before a random point takes its turn."""

_METRIC, _COST, _OPTION = "value", "cost", "option"


class BlendSearch:
    """BlendSearch of FLAML, started without a cheap point, as the reference of EcoOptiGen does.

    Failed points count as worse than the worst result so far by the whole range of results. Where FLAML has nothing to
    propose (it keeps a point back while the same is open, and repeats itself in small spaces), a random point is proposed
    that FLAML never hears of.
    """

    def __init__(self, space: Space, *, mode: Mode = "max", seed: int = 20) -> None:
        self._space, self._seed = space, seed
        self._register = Register(space, mode)
        # Proposal → FLAML's name of it, and its configuration.
        self._trials: dict[int, tuple[str, dict[str, Any]]] = {}
        self._asked = 0
        domains = _domains(space)
        with _quiet():
            # FLAML cannot search a space without any choice.
            self._flaml = (
                FlamlBlendSearch(metric=_METRIC, mode="max", space=domains, cost_attr=_COST, seed=seed)
                if domains
                else None
            )

    def ask(self) -> Proposal | None:
        """As `Searcher.ask`; None once a finite space is used up."""
        size = space_size(self._space)
        if self._flaml is not None and (size is None or len(self._register.points) < size):
            with _quiet():
                for _ in range(_PATIENCE):
                    if (proposal := self._ask_flaml(self._flaml)) is not None:
                        return proposal
        point = fresh_point(self._space, self._register, seed=self._seed)
        return None if point is None else self._register.add(point)

    def tell(self, point_id: int, value: float | None, cost: float = 0.0) -> None:
        """As `Searcher.tell`."""
        better = self._register.close(point_id, value)
        if self._flaml is None or point_id not in self._trials:
            return
        trial, config = self._trials[point_id]
        result = {_METRIC: self._worse_than_all() if better is None else better, _COST: float(cost), "config": config}
        with _quiet():
            self._flaml.on_trial_complete(trial, result)

    def _ask_flaml(self, flaml: FlamlBlendSearch) -> Proposal | None:
        trial = str(self._asked)
        self._asked += 1
        config = flaml.suggest(trial)
        if config is None:
            return None
        point = _point(self._space, config)
        if not self._register.is_new(point):
            # A trial that is never completed would stay open in FLAML for ever.
            flaml.on_trial_complete(trial, None, error=True)
            return None
        proposal = self._register.add(point)
        self._trials[proposal.id] = (trial, config)
        return proposal

    def _worse_than_all(self) -> float:
        """A number for what has none: BlendSearch compares differences, so infinity would not do."""
        known = [value for value in self._register.results.values() if value is not None]
        return min(known) - max(max(known) - min(known), 1.0) if known else -1e6


def _domains(space: Space, prefix: str = "") -> dict[str, Any]:
    """The space in FLAML's words. Indices are text, FLAML takes numbers to be in order."""
    domains: dict[str, Any] = {}
    for name, dimension in space.items():
        key = f"{prefix}{name}"
        if not isinstance(dimension, Alternatives) and dimension.size == 1:
            continue  # FLAML divides by the length of an interval
        if isinstance(dimension, Alternatives):
            domains[key] = tune.choice(
                [
                    {f"{key}|{_OPTION}": str(index), **_domains(option, f"{key}|{index}|")}
                    for index, option in enumerate(dimension.options)
                ]
            )
        elif isinstance(dimension, Choice):
            domains[key] = tune.choice([str(index) for index in range(len(dimension.values))])
        elif isinstance(dimension, Float):
            domains[key] = (tune.loguniform if dimension.log else tune.uniform)(dimension.low, dimension.high)
        else:
            # FLAML's integers end before the upper end.
            domains[key] = (tune.lograndint if dimension.log else tune.randint)(dimension.low, dimension.high + 1)
    return domains


def _point(space: Space, config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The point that a configuration of FLAML stands for."""
    point: dict[str, Any] = {}
    for name, dimension in space.items():
        key = f"{prefix}{name}"
        if isinstance(dimension, Alternatives):
            index = int(config[key][f"{key}|{_OPTION}"])
            point |= _point(dimension.options[index], config[key], f"{key}|{index}|")
        elif dimension.size == 1:
            point[name] = dimension.at(0.5)
        elif isinstance(dimension, Choice):
            point[name] = dimension.values[int(config[key])]
        elif isinstance(dimension, Float):
            point[name] = min(max(float(config[key]), dimension.low), dimension.high)
        else:
            point[name] = min(max(int(config[key]), dimension.low), dimension.high)
    return point


@contextmanager
def _quiet() -> Iterator[None]:
    """FLAML warns of Optuna's news and logs every point that it was told twice."""
    verbosity = optuna.logging.get_verbosity()
    log = logging.getLogger("flaml")
    level = log.level
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)
        log.setLevel(level)
