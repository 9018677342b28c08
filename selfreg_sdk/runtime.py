"""What all calls of one process share: the open store with everything that stands on it."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

from selfreg_sdk.cache import ResponseCache
from selfreg_sdk.meter import Meter
from selfreg_sdk.store.capabilities import LearnedCapabilities
from selfreg_sdk.store.configs import Configs
from selfreg_sdk.store.engine import Store
from selfreg_sdk.store.location import locate


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """The store and the parts that work on it; open it with `runtime`."""

    store: Store
    meter: Meter
    cache: ResponseCache
    configs: Configs
    learned: LearnedCapabilities

    @classmethod
    def on(cls, store: Store) -> Runtime:
        """Everything over an open store. Attempts that died with their process are charged at their worst case first."""
        meter = Meter(store)
        meter.recover()
        return cls(
            store=store,
            meter=meter,
            cache=ResponseCache(store),
            configs=Configs(store),
            learned=LearnedCapabilities(store),
        )


_open: dict[str, Runtime] = {}
_lock = threading.Lock()


def runtime(store: str | Path | None = None) -> Runtime:
    """The runtime of a store, one per process and store: objects that name the same store share it.

    Args:
        store: path or URL; None means SELFREG_STORE, else the user's data folder. ":memory:" is never shared.

    Raises:
        StoreError: it cannot be opened as it is.
    """
    location = locate(store)
    if location.memory:
        return Runtime.on(Store.open(store))
    with _lock:
        if location.shown not in _open:
            _open[location.shown] = Runtime.on(Store.open(store))
        return _open[location.shown]
