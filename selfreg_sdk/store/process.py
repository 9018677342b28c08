"""What of a store belongs to one process, and what a fork must do about it."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any

import sqlalchemy as sa

from selfreg_sdk.store import connections
from selfreg_sdk.store.location import Location

# The number of this process, without asking the system for every call that is made.
_pid = os.getpid()


def process_id() -> int:
    """``os.getpid`` at the price of a look."""
    return _pid


class Process:
    """What one process may use: an engine and the lock that lets its threads queue for SQLite's single write lock.

    Threads that queue here wake at once; in SQLite's own busy handler they would sleep and retry.

    Attributes:
        link, cursor: the connection of ``group`` on SQLite, made at its first use.
        synchronous: how that connection commits now.
        behind: the disk has not yet got everything that was committed.
    """

    def __init__(self, location: Location) -> None:
        self.pid = _pid
        self._location = location
        self.lock = threading.RLock()
        self.engine = connections.new_engine(location)
        self.services: dict[Any, Any] = {}
        # Not ``lock``: an event loop that needs a service must not wait for a writer.
        self.services_lock = threading.Lock()
        self.link: sa.PoolProxiedConnection | None = None
        self.cursor: Any = None
        self.synchronous = "FULL"
        self.behind = False
        _processes.add(self)
        # Stores in memory close when the last model that uses them is collected.
        weakref.finalize(self, self.engine.dispose).atexit = False

    def succeed(self) -> Process:
        """What a forked child uses instead."""
        _inherited.append(self)
        return Process(self._location)


_processes: weakref.WeakSet[Process] = weakref.WeakSet()
# Connections inherited through a fork are kept, not closed: closing them would run SQLite's clean-up in the child.
_inherited: list[Process] = []
# So long a fork waits for a transaction of another thread.
_FORK_WAIT = 5.0
_forking: list[Process] = []


def _before_fork() -> None:
    """Let transactions end first: SQLite in the child would believe for ever that the write lock is taken."""
    _forking.extend(process for process in list(_processes) if process.lock.acquire(timeout=_FORK_WAIT))


def _after_fork() -> None:
    while _forking:
        _forking.pop().lock.release()


def _after_fork_in_child() -> None:
    global _pid
    _pid = os.getpid()
    _after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)
