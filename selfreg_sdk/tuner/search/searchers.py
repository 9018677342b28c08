"""Which searchers there are, by name."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal, get_args

from selfreg_sdk.errors import ConfigError
from selfreg_sdk.tuner.search.dimensions import Space
from selfreg_sdk.tuner.search.local_search import LocalSearch
from selfreg_sdk.tuner.search.random_search import RandomSearch
from selfreg_sdk.tuner.search.search import Mode, Searcher

SearcherName = Literal["auto", "tpe", "local", "random", "blendsearch"]


def make_searcher(name: SearcherName, space: Space, *, mode: Mode = "max", seed: int = 0) -> Searcher:
    """A new searcher.

    Args:
        name: "auto" is "tpe" where Optuna is installed, else "local", which needs nothing.
        space: what it searches.
        mode: whether more is better.
        seed: the same one gives the same proposals for the same results.

    Raises:
        ConfigError: the name is not known, a library is missing, or the space is not well formed.
    """
    if name == "auto":
        name = "tpe" if find_spec("optuna") else "local"
    match name:
        case "tpe":
            from selfreg_sdk.tuner.search.tpe import TpeSearch

            return TpeSearch(space, mode=mode, seed=seed)
        case "blendsearch":
            from selfreg_sdk.tuner.search.blend_search import BlendSearch

            return BlendSearch(space, mode=mode, seed=seed)
        case "local":
            return LocalSearch(space, mode=mode, seed=seed)
        case "random":
            return RandomSearch(space, mode=mode, seed=seed)
    raise ConfigError(f"searcher {name!r} is not known; choose from {', '.join(get_args(SearcherName))}")
