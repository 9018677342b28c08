"""Stored facts kept in memory, so that a request whose facts are known touches no database.

What this process changes it forgets at once; what another process changes is noticed within `AT_MOST` seconds. The
store is asked at most every `LOOK_EVERY` seconds, by one request; the others go on meanwhile.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

import sqlalchemy as sa

from selfreg_sdk.store.changes import Key, since
from selfreg_sdk.store.engine import Store

T = TypeVar("T")

LOOK_EVERY = 0.1
"""Seconds after which one request asks the store what changed."""
AT_MOST = 0.25
"""Seconds after which every request does, or waits for the one that is asking: no decision stands on facts older than this."""
MOST_FACTS = 4096


class Remembered:
    """Facts read from one store; safe to share between threads and event loops. Get it with ``store.service(Remembered)``.

    Facts that are absent are remembered as well. Values are shared, so they must be immutable.

    Args:
        store: where the facts are.
        most: facts kept; the least recently used one goes first.
        clock: seconds, monotonic.
    """

    def __init__(self, store: Store, *, most: int = MOST_FACTS, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._most = most
        self._clock = clock
        self._facts: OrderedDict[Key, Any] = OrderedDict()
        self._lock = threading.Lock()
        self._looking = threading.Lock()
        self._generation: int | None = None
        self._looked_at = self._claimed_until = float("-inf")
        self._changes = 0

    def read(self, key: Key, load: Callable[[sa.Connection], T]) -> T:
        """The fact, from memory or by ``load`` from the store."""
        return self._read(key, load, self._due())

    async def aread(self, key: Key, load: Callable[[sa.Connection], T]) -> T:
        """`read` for asyncio: at once where the fact is known and fresh, else in a thread."""
        due = self._due()
        if not due and (known := self._get(key)) is not _ABSENT:
            return known  # type: ignore[no-any-return]  # the key's type says T
        return await asyncio.to_thread(self._read, key, load, due)

    def _read(self, key: Key, load: Callable[[sa.Connection], T], due: bool) -> T:
        if due:
            self._look()
        known = self._get(key)
        if known is not _ABSENT:
            return known  # type: ignore[no-any-return]  # the key's type says T
        before = self._changes
        with self._store.read() as connection:
            value = load(connection)
        with self._lock:
            # What changed while it was read may not be in it.
            if self._changes == before:
                self._facts[key] = value
                if len(self._facts) > self._most:
                    self._facts.popitem(last=False)
        return value

    def close(self) -> None:
        """Forget everything: the store is being closed."""
        with self._lock:
            self._forget(None)

    def forget(self, key: Key) -> None:
        """This process changed the fact."""
        with self._lock:
            self._forget(frozenset({key}))

    def _due(self) -> bool:
        """Whether the caller must ask the store what changed before it uses what is remembered; never blocks."""
        now = self._clock()
        age = now - self._looked_at
        if age < LOOK_EVERY or (age < AT_MOST and now < self._claimed_until):
            return False
        self._claimed_until = now + LOOK_EVERY
        return True

    def _look(self) -> None:
        """Ask the store what changed, unless somebody did meanwhile, and forget that."""
        with self._looking:
            began = self._clock()
            if began - self._looked_at < LOOK_EVERY:
                return
            with self._store.read() as connection:
                number, changed = since(connection, self._generation)
            with self._lock:
                self._forget(changed)
                self._generation, self._looked_at = number, began

    def _get(self, key: Key) -> Any:
        with self._lock:
            if key not in self._facts:
                return _ABSENT
            self._facts.move_to_end(key)
            return self._facts[key]

    def _forget(self, keys: frozenset[Key] | None) -> None:
        if keys is None:
            self._facts.clear()
        for key in keys or ():
            self._facts.pop(key, None)
        if keys is None or keys:
            self._changes += 1


_ABSENT: Any = object()
