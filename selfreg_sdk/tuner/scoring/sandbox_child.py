"""What runs inside the process of `selfreg_sdk.tuner.scoring.sandbox`: takes away its own rights, then executes code and tests.

Run as a script by an isolated interpreter, so it imports the standard library alone. Its argument is the number of the file
descriptor for reports: lines of ``nonce JSON``. The code under test knows neither, so it cannot report success by accident.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

_NEW_USER, _NEW_NET = 0x10000000, 0x40000000
_KEEP_CAPABILITIES, _NO_NEW_PRIVILEGES = 8, 38
_CAPABILITIES, _READ_ANYTHING = 0x20080522, 1 << 2
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_WRITE_FILE, _REFER, _TRUNCATE = 1 << 1, 1 << 13, 1 << 14
_CHANGES = _WRITE_FILE | sum(1 << bit for bit in range(4, 13))
"""Landlock's rights to write, remove and make files and folders, as of its first version."""


class _Beneath(ctypes.Structure):
    """Landlock's rule for a folder and what is in it."""

    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("folder", ctypes.c_int32))


def main(report_fd: int) -> NoReturn:
    """Read what to do, become harmless, do it, and end without running anybody's clean-up."""
    path = Path("spec.json")
    spec = json.loads(path.read_text(encoding="utf-8"))
    path.unlink()
    nonce, code, tests = spec.pop("nonce"), spec.pop("code"), spec.pop("tests")

    def report(**said: Any) -> None:
        os.write(report_fd, f"{nonce} {json.dumps(said)}\n".encode())

    report(guards=_confine(spec))
    sys.argv = ["candidate"]
    _execute(code, tests, report)
    report(end=True)
    with contextlib.suppress(BaseException):
        sys.stdout.flush()
    os._exit(0)


def _execute(code: str, tests: list[str], report: Callable[..., None]) -> None:
    # A real module: dataclasses and pickle look their classes up by its name. Not __main__, so no usage example runs.
    module = types.ModuleType("candidate")
    sys.modules["candidate"] = module
    if (error := _error_of(code, "<answer>", module.__dict__)) is not None:
        report(code=error)
        return
    for index, test in enumerate(tests):
        report(test=index, error=_error_of(test, f"<test {index}>", dict(module.__dict__)))


def _error_of(code: str, name: str, names: dict[str, Any]) -> str | None:
    """Execute code; None if nothing was raised. SystemExit is a failure too: what should have run has not."""
    try:
        exec(compile(code, name, "exec"), names)
    except BaseException as exc:
        said = type(exc).__name__
        with contextlib.suppress(BaseException):
            said = f"{said}: {exc}"
        return said[:300]
    return None


def _confine(limits: dict[str, Any]) -> list[str]:
    """Take rights away; names the limits that are in force. What a system does not have is left out, not faked."""
    guards = []
    libc = ctypes.CDLL(None, use_errno=True)
    if not limits["network"] and _without_network(libc):
        guards.append("network")
    if _writes_only_here(libc):
        guards.append("writes")
    if limits["uid"] is not None:
        _become(libc, limits["uid"])
    for guard, name, soft, hard in (
        ("processes", "RLIMIT_NPROC", 1, 1),
        ("files", "RLIMIT_FSIZE", limits["file_bytes"], limits["file_bytes"]),
        ("cpu", "RLIMIT_CPU", limits["cpu"], limits["cpu"] + 1),
        ("memory", "RLIMIT_AS", limits["memory"], limits["memory"]),
        ("", "RLIMIT_CORE", 0, 0),
    ):
        # Root may have as many processes as it likes, whatever the limit says.
        if _limit(name, soft, hard) and guard and (guard != "processes" or os.getuid() != 0):
            guards.append(guard)
    return guards


def _limit(name: str, soft: int, hard: int) -> bool:
    try:
        which = getattr(resource, name)
        _, allowed = resource.getrlimit(which)
        if allowed != resource.RLIM_INFINITY:
            soft, hard = min(soft, allowed), min(hard, allowed)
        resource.setrlimit(which, (soft, hard))
    except (AttributeError, OSError, ValueError):
        return False
    return True


def _without_network(libc: ctypes.CDLL) -> bool:
    """Move into a network of its own, with nothing in it: directly as root, else together with a user namespace."""
    try:
        return any(libc.unshare(flags) == 0 for flags in (_NEW_NET, _NEW_USER | _NEW_NET))
    except AttributeError:  # not Linux
        return False


def _writes_only_here(libc: ctypes.CDLL) -> bool:
    """Allow changes to files below the working folder alone (Landlock, Linux 5.13 or newer)."""
    if sys.platform != "linux":
        return False

    def call(number: int, *arguments: Any) -> int:
        result: int = libc.syscall(ctypes.c_long(number), *arguments)
        return result

    version = call(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    if version < 1:
        return False
    rights = _CHANGES | (_REFER if version >= 2 else 0) | (_TRUNCATE if version >= 3 else 0)
    handled = ctypes.c_uint64(rights)
    rules = call(_CREATE_RULESET, ctypes.byref(handled), ctypes.c_size_t(8), ctypes.c_uint32(0))
    if rules < 0:
        return False
    for place, allowed in ((".", rights), (os.devnull, rights & (_WRITE_FILE | _TRUNCATE))):
        folder = os.open(place, os.O_PATH | os.O_CLOEXEC)
        rule = _Beneath(allowed, folder)
        added = call(_ADD_RULE, ctypes.c_int(rules), ctypes.c_int(1), ctypes.byref(rule), ctypes.c_uint32(0))
        os.close(folder)
        if added != 0:
            return False
    libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    return call(_RESTRICT_SELF, ctypes.c_int(rules), ctypes.c_uint32(0)) == 0


def _become(libc: ctypes.CDLL, uid: int) -> None:
    """From root to a user that nobody else is. Where that one could not read the library, it keeps root's right to read."""
    here = os.getcwd()
    try:
        libc.prctl(_KEEP_CAPABILITIES, 1, 0, 0, 0)
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    except (AttributeError, OSError):  # another system, or a container without this user
        return
    able = os.access(os.__file__, os.R_OK) and os.access(here, os.W_OK | os.X_OK)
    kept = 0 if able else _READ_ANYTHING
    header = (ctypes.c_uint32 * 2)(_CAPABILITIES, 0)
    # Effective, permitted and inheritable, for the lower and the higher 32 capabilities.
    libc.capset(header, (ctypes.c_uint32 * 6)(kept, kept, 0, 0, 0, 0))


if __name__ == "__main__":
    main(int(sys.argv[1]))
