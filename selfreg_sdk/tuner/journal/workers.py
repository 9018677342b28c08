"""Names of workers that tell who is dead, so that nobody waits for the leases of a process that was killed."""

from __future__ import annotations

import functools
import os
import platform
import uuid
from pathlib import Path

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_PROCESSES = Path("/proc/self/ns/pid")


def new_worker() -> str:
    """A name that no other worker has: where it runs, its process, and a random part."""
    return f"{_place()}/{os.getpid()}/{uuid.uuid4().hex[:12]}"


def is_gone(worker: str) -> bool:
    """Whether the worker certainly does not run any more: only to be told of a process of this machine.

    Names of another form, or of other places, are never known to be gone: their leases run out.
    """
    place, _, rest = worker.partition("/")
    process = rest.partition("/")[0]
    if place != _place() or not process.isdecimal():
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False


@functools.cache
def _place() -> str:
    """Within which process numbers mean something: one start of one machine, and one container on it."""
    try:
        return f"{_BOOT.read_text().strip()}-{os.stat(_PROCESSES).st_ino}"
    except OSError:
        return f"{platform.node() or 'host'}-{uuid.getnode():x}"
