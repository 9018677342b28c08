"""Runs a model's Python code and the tests of it in a process of their own, with limits.

The process is isolated from the environment and the user's packages path (``python -I``), starts in an empty folder that is
removed afterwards, has no stdin, and is killed with its process group when its time is up. Processor time, memory and file
sizes are limited, and where the system can, it starts no process or thread, writes nowhere else and has no network (Linux can
all three); `Run.guards` says which limits held.

It is a fence against accidents (endless loops, memory hogs, stray files, floods of output), not a security boundary: code
written to break out can read what the user can read, and it shares an interpreter with its tests, so a determined one can
forge their report. Run untrusted code of that kind in a container or a virtual machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Literal, get_args

from selfreg_sdk.errors import ConfigError, SelfregError

Guard = Literal["cpu", "memory", "files", "processes", "writes", "network"]
Ending = Literal["finished", "exited", "killed", "timeout"]

_CHILD = Path(__file__).with_name("sandbox_child.py")
_REPORT_BYTES = 1 << 20
"""Most bytes read of the report: some 60 per test, and whatever the code writes into it blindly."""


_ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
"""Numerical libraries start a thread per core when they are imported, and fail where they may not."""


class SandboxError(SelfregError):
    """The process could not be started or prepared: nothing is known of the code."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What code under test may use.

    Attributes:
        wall: seconds until the process and its children are killed.
        cpu: seconds of processor time.
        memory: bytes of address space, the interpreter's own some 30 MiB included.
        file_bytes: most bytes of any one file it writes.
        output: bytes of stdout and stderr together that are kept; the rest is read and dropped.
        network: leave the network open.
    """

    wall: float = 10.0
    cpu: int = 5
    memory: int = 512 << 20
    file_bytes: int = 1 << 20
    output: int = 64 << 10
    network: bool = False

    def __post_init__(self) -> None:
        low = {"wall": 0.0, "cpu": 0, "memory": 0, "file_bytes": -1, "output": -1}
        for name, least in low.items():
            if not getattr(self, name) > least:
                raise ConfigError(f"sandbox: {name}={getattr(self, name)!r} must be more than {least!r}")


@dataclass(frozen=True, kw_only=True)
class Run:
    """What became of some code.

    Attributes:
        passed: one per test, in order; a test that was not reached has not passed.
        errors: for the code itself (index None) and for each test that failed: type and message, shortened.
        ending: finished = all tests had their turn; exited = the process ended itself before; killed = a limit or a
            signal ended it; timeout = the wall clock did.
        output: the head of stdout and stderr.
        guards: limits that were in force.
        seconds: from start to end.
    """

    passed: tuple[bool, ...]
    errors: tuple[tuple[int | None, str], ...]
    ending: Ending
    output: str
    guards: frozenset[Guard]
    seconds: float

    @property
    def share(self) -> float:
        """Passed tests among all."""
        return sum(self.passed) / len(self.passed)


@dataclass(frozen=True, kw_only=True)
class Sandbox:
    """Runs code under tests; safe to share between threads and event loops."""

    limits: Limits = Limits()

    def run(self, code: str, tests: Sequence[str]) -> Run:
        """Execute ``code``, then each test in a copy of the names it defined; a test passes if it raises nothing.

        What a test sees of the code's names is a copy, what it changes inside their values is not undone.

        Raises:
            SandboxError: the process could not be started; says nothing of the code.
            ConfigError: no tests, or no POSIX system.
        """
        return _Process(code, tests, self.limits).run()

    async def arun(self, code: str, tests: Sequence[str]) -> Run:
        """`run` for asyncio, at most one per core at a time; a cancelled task kills the process at once."""
        process = _Process(code, tests, self.limits)
        try:
            return await asyncio.get_running_loop().run_in_executor(_threads(), process.run)
        except asyncio.CancelledError:
            process.stop()
            raise


class _Process:
    """One run."""

    def __init__(self, code: str, tests: Sequence[str], limits: Limits) -> None:
        if os.name != "posix":
            raise ConfigError("code is only run on POSIX systems: its limits do not exist elsewhere")
        if isinstance(tests, str) or not tests:
            raise ConfigError(f"sandbox: tests={tests!r} must be a list of at least one piece of code")
        self._code, self._tests, self._limits = code, list(tests), limits
        self._nonce = secrets.token_hex(16)
        self._stopped = threading.Event()

    def stop(self) -> None:
        """End it now, or before it starts."""
        self._stopped.set()

    def run(self) -> Run:
        try:
            folder = tempfile.mkdtemp(prefix="selfreg-code-")
        except OSError as exc:
            raise SandboxError(f"no temporary folder for the code under test: {exc}") from exc
        try:
            return self._in(folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _in(self, folder: str) -> Run:
        uid = _owned_by_nobody(folder)
        spec = {"code": self._code, "tests": self._tests, "nonce": self._nonce, "uid": uid, **asdict(self._limits)}
        report, report_end = os.pipe()
        started = time.monotonic()
        try:
            # The nonce travels in a file that is gone before the code runs; arguments could be read from outside.
            Path(folder, "spec.json").write_text(json.dumps(spec), encoding="utf-8")
            process = subprocess.Popen(
                [sys.executable, "-I", "-B", "-X", "utf8", str(_CHILD), str(report_end)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(report_end,),
                cwd=folder,
                env={"HOME": folder, "TMPDIR": folder, **_ONE_THREAD},
                start_new_session=True,
            )
        except (OSError, ValueError) as exc:
            os.close(report)
            raise SandboxError(f"the process for the code under test could not be started: {exc}") from exc
        finally:
            os.close(report_end)
        try:
            said, output = self._watch(process, report, started + self._limits.wall)
        finally:
            ended = _ended(process)
            # Whatever it started goes with it. It is not reaped before, so its number is nobody else's.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            # Not communicate: a child that left the group may hold the pipe open for ever.
            if process.stdout is not None:
                process.stdout.close()
            process.wait()
            os.close(report)
        return self._judged(said, output, process.returncode if ended else None, time.monotonic() - started)

    def _watch(self, process: subprocess.Popen[bytes], report: int, deadline: float) -> tuple[bytes, bytes]:
        """Report and output, read until the process ends, its time is up or it is stopped."""
        assert process.stdout is not None
        output_fd = process.stdout.fileno()
        kept = {report: bytearray(), output_fd: bytearray()}
        most = {report: _REPORT_BYTES, output_fd: self._limits.output}
        with selectors.DefaultSelector() as ready:
            for source in kept:
                os.set_blocking(source, False)
                ready.register(source, selectors.EVENT_READ)
            while (left := deadline - time.monotonic()) > 0 and not self._stopped.is_set():
                # A child that left the group may hold the pipes open, so their ends alone do not tell. Both closed: it is
                # about to end, or has closed them itself and goes on.
                ended = _ended(process)
                events = ready.select(0.0 if ended else min(0.05 if ready.get_map() else 0.002, left))
                for key, _ in events:
                    piece = os.read(key.fd, 1 << 16)
                    if not piece:
                        ready.unregister(key.fd)
                    kept[key.fd] += piece[: most[key.fd] - len(kept[key.fd])]
                if ended and not events:
                    break
        return bytes(kept[report]), bytes(kept[output_fd])

    def _judged(self, said: bytes, output: bytes, status: int | None, seconds: float) -> Run:
        """Put the report into words; ``status`` is that of the process, None if it had to be stopped."""
        start = f"{self._nonce} ".encode()
        # What follows the last line break was cut off.
        told = [json.loads(line[len(start) :]) for line in said.split(b"\n")[:-1] if line.startswith(start)]
        shown = output.decode("utf-8", "replace")
        guards = next((item["guards"] for item in told if "guards" in item), None)
        if guards is None:
            why = f"within {self._limits.wall} seconds" if status is None else f"before it ended with status {status}"
            raise SandboxError(f"the process for the code under test was not ready {why}; it said {shown[-500:]!r}")
        results = {item["test"]: item["error"] for item in told if "test" in item}
        broken = [(None, item["code"]) for item in told if "code" in item]
        failed = [(index, error) for index, error in sorted(results.items()) if error is not None]
        ending: Ending = "timeout" if status is None else "killed" if status < 0 else "exited"
        if any("end" in item for item in told):
            ending = "finished"
        return Run(
            passed=tuple(results.get(index, "not reached") is None for index in range(len(self._tests))),
            errors=(*broken, *failed),
            ending=ending,
            output=shown,
            guards=frozenset(guard for guard in get_args(Guard) if guard in guards),
            seconds=seconds,
        )


def _ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether it has ended, if possible without reaping it."""
    if not hasattr(os, "waitid"):
        return process.poll() is not None
    try:
        return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:  # somebody else in this program reaps all children
        return True


def _owned_by_nobody(folder: str) -> int | None:
    """For root: gives the folder to a user that nobody is, so that limits on users hold for this one run.

    Returns:
        That user; None for all others than root, and where there is no such user to be had.
    """
    if os.geteuid() != 0:
        return None
    uid = secrets.randbelow(1 << 30) + (1 << 30)
    try:
        os.chown(folder, uid, uid)
    except OSError:
        return None
    return uid


@cache
def _threads() -> ThreadPoolExecutor:
    """Threads that wait for processes, as many as there are cores: more would measure each other's load."""
    return ThreadPoolExecutor(max_workers=os.cpu_count() or 1, thread_name_prefix="selfreg-sandbox")
