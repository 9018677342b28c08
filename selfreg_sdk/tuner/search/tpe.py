"""Optuna's tree-structured Parzen estimator behind `Searcher`: multivariate, safe to ask in parallel."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from selfreg_sdk.errors import ConfigError
from selfreg_sdk.tuner.search.dimensions import (
    Alternatives,
    Choice,
    Float,
    Point,
    Space,
    option_of,
    part_of,
    space_size,
)
from selfreg_sdk.tuner.search.random_search import fresh_point, random_for
from selfreg_sdk.tuner.search.search import Mode, Proposal, Register

try:
    import optuna
except ImportError as missing:
    raise ConfigError(
        "the TPE searcher needs Optuna: pip install 'selfreg[tune]', or use searcher='local'"
    ) from missing

_RETRIES = 5


class TpeSearch:
    """Optuna TPE with constant liar: proposals without a result push others away; n and max_tokens on their log scale.

    Randomness is renewed for every proposal from the seed and its number, so proposals depend on what was asked and told
    alone. Failed points count as worse than all others.

    Args:
        startup: random proposals before the model is used.
    """

    def __init__(self, space: Space, *, mode: Mode = "max", seed: int = 0, startup: int = 10) -> None:
        self._space, self._seed, self._startup = space, seed, startup
        self._register = Register(space, mode)
        self._size = space_size(space)
        self._trials: list[optuna.Trial] = []
        with _quiet():
            self._study = optuna.create_study(direction="maximize", sampler=self._sampler(0))

    def ask(self) -> Proposal | None:
        """As `Searcher.ask`; None once a finite space is used up."""
        number = len(self._register.points)
        if self._size is not None and number >= self._size:
            return None
        with _quiet():
            for attempt in range(_RETRIES):
                self._study.sampler = self._sampler(attempt)
                trial = self._study.ask()
                point = _suggest(self._space, trial, "")
                if self._register.is_new(point):
                    self._trials.append(trial)
                    return self._register.add(point)
                # A repetition teaches nothing: leave it out of the model.
                self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
            if (fresh := fresh_point(self._space, self._register, seed=self._seed)) is None:
                return None
            self._study.enqueue_trial(_parameters(self._space, fresh, ""))
            trial = self._study.ask()
            self._trials.append(trial)
            return self._register.add(_suggest(self._space, trial, ""))

    def tell(self, point_id: int, value: float | None, cost: float = 0.0) -> None:
        """As `Searcher.tell`."""
        better = self._register.close(point_id, value)
        # Optuna forgets failed trials; pruned ones without a value it ranks below everything.
        state = optuna.trial.TrialState.PRUNED if better is None else optuna.trial.TrialState.COMPLETE
        with _quiet():
            self._study.tell(self._trials[point_id], better, state=state)

    def _sampler(self, attempt: int) -> optuna.samplers.TPESampler:
        seed = random_for(self._seed, len(self._register.points), f"tpe/{attempt}").getrandbits(32)
        return optuna.samplers.TPESampler(
            seed=seed,
            n_startup_trials=self._startup,
            multivariate=True,
            group=True,
            constant_liar=True,
        )


def _suggest(space: Space, trial: optuna.Trial, path: str) -> dict[str, Any]:
    """The point a trial stands for. Optuna's names are paths, for alternatives may share names."""
    point: dict[str, Any] = {}
    for name, dimension in space.items():
        at = f"{path}{name}"
        if isinstance(dimension, Alternatives):
            index = trial.suggest_categorical(at, range(len(dimension.options)))
            point |= _suggest(dimension.options[index], trial, f"{at}/{index}/")
        elif isinstance(dimension, Choice):
            # Optuna takes scalars alone as categories, so it gets indices: a stop setting is a list.
            point[name] = dimension.values[trial.suggest_categorical(at, range(len(dimension.values)))]
        elif isinstance(dimension, Float):
            point[name] = trial.suggest_float(at, dimension.low, dimension.high, log=dimension.log)
        else:
            point[name] = trial.suggest_int(at, dimension.low, dimension.high, log=dimension.log)
    return point


def _parameters(space: Space, point: Point, path: str) -> dict[str, Any]:
    """Optuna's parameters of a point, the inverse of `_suggest`."""
    parameters: dict[str, Any] = {}
    for name, dimension in space.items():
        at = f"{path}{name}"
        if isinstance(dimension, Alternatives):
            part = part_of(dimension, point)
            index = option_of(dimension, part)
            assert index is not None, "the point was drawn from this space"
            parameters |= {at: index} | _parameters(dimension.options[index], part, f"{at}/{index}/")
        elif isinstance(dimension, Choice):
            parameters[at] = dimension.index(point[name])
        else:
            parameters[at] = point[name]
    return parameters


@contextmanager
def _quiet() -> Iterator[None]:
    """Optuna announces every study, and warns that what is used here was experimental before version 5."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)
