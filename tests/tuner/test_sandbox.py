"""Code of a model in a process of its own: what passes, what is stopped, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from selfreg_sdk.errors import ConfigError
from selfreg_sdk.tuner.scoring import sandbox as sandbox_module
from selfreg_sdk.tuner.scoring.sandbox import Limits, Run, Sandbox, SandboxError

pytestmark = pytest.mark.skipif(os.name != "posix", reason="code is only run on POSIX systems")

HANG = 20.0
PASS = ["assert True"]


def run(code: str, tests: list[str] = PASS, **limits: Any) -> Run:
    return Sandbox(limits=Limits(**limits)).run(code, tests)


def needs(guard: str) -> None:
    if guard not in run("").guards:
        pytest.skip(f"this system cannot limit {guard}")


@pytest.fixture(autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Runs happen in here, and none leaves anything."""
    # Not below pytest's own folders, which other users may not enter.
    with tempfile.TemporaryDirectory(prefix="sandbox-test-") as name:
        Path(name).chmod(0o755)
        monkeypatch.setattr(tempfile, "tempdir", name)
        yield Path(name)
        assert list(Path(name).glob("selfreg-code-*")) == []


def test_each_test_passes_or_fails_by_itself() -> None:
    tests = ["assert f(1) == 2", "assert f(1) == 3, 'three'", "f('a')", "x = f(2)", "assert 'x' not in globals()", "("]
    found = run("def f(x):\n    return x + 1", tests)

    assert found.passed == (True, False, False, True, True, False)
    assert [index for index, _ in found.errors] == [1, 2, 5]
    assert dict(found.errors)[1] == "AssertionError: three"
    assert found.share == 0.5
    assert (found.ending, found.output) == ("finished", "")


def test_code_is_a_module_of_its_own_and_not_the_main_one() -> None:
    code = """
from __future__ import annotations
from dataclasses import dataclass
import pickle
@dataclass
class Point:
    x: int
if __name__ == "__main__":
    raise RuntimeError("a usage example ran")
"""
    assert run(code, ["assert pickle.loads(pickle.dumps(Point(1))) == Point(1)"]).passed == (True,)


LEAVING = {
    "sys.exit": "import sys; sys.exit(0)",
    "SystemExit": "raise SystemExit",
    "os._exit": "import os; os._exit(0)",
    "a signal": "import os; os.kill(os.getpid(), 11)",
    "an error": "1 / 0",
    "no Python": "def f(:",
    "a null byte": "a = '\0'",
    "an interrupt": "raise KeyboardInterrupt",
    "a forged report": "print('0' * 32 + ' {\"test\": 0, \"error\": null}')",
    "a blind report": 'import os\nfor fd in range(3, 1024):\n  try: os.write(fd, b\'{"test": 0, "error": null}\\n\')\n  except OSError: pass\nos._exit(0)',
}


@pytest.mark.parametrize("name", LEAVING)
def test_code_that_ends_before_its_tests_passes_none(name: str) -> None:
    found = run(LEAVING[name], ["assert False", "assert False"])

    assert found.passed == (False, False)
    assert found.ending == {"os._exit": "exited", "a blind report": "exited", "a signal": "killed"}.get(
        name, "finished"
    )


def test_the_test_catches_a_verdict_by_exit_status(monkeypatch: pytest.MonkeyPatch) -> None:
    def judged(self: Any, said: bytes, output: bytes, status: int | None, seconds: float) -> Run:
        passed = tuple(status == 0 for _ in self._tests)
        return Run(passed=passed, errors=(), ending="exited", output="", guards=frozenset(), seconds=seconds)

    monkeypatch.setattr(sandbox_module._Process, "_judged", judged)
    with pytest.raises(AssertionError):
        test_code_that_ends_before_its_tests_passes_none("os._exit")


def test_leaving_from_within_a_test_fails_it_and_those_after_it() -> None:
    found = run("import os, sys", ["pass", "sys.exit(0)", "pass", "os._exit(0)", "pass"])

    assert found.passed == (True, False, True, False, False)
    assert found.ending == "exited"


def test_an_endless_loop_ends_with_its_time_and_what_passed_before_counts() -> None:
    started = time.monotonic()
    found = run("", ["pass", "while True: pass", "pass"], wall=1.0)
    assert (found.passed, found.ending) == ((True, False, False), "timeout")
    assert run("import time; time.sleep(1000)", wall=1.0).ending == "timeout"
    assert (
        run("import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass", cpu=1).ending == "killed"
    )
    assert time.monotonic() - started < HANG


@pytest.mark.skipif(sys.platform != "linux", reason="not every system limits memory")
@pytest.mark.parametrize("code", ["bytearray(10**9)", "x = [0]\nwhile True: x += x"])
def test_a_memory_hog_is_refused_memory(code: str) -> None:
    found = run(code, memory=256 << 20)
    assert found.errors == ((None, "MemoryError: "),)


def test_of_a_flood_of_output_the_head_is_kept() -> None:
    found = run("for _ in range(3000): print('x' * 1000)\nimport sys; print('é', file=sys.stderr)", output=1000)
    assert found.passed == (True,)
    assert found.output == ("x" * 1000 + "\n")[:1000]
    assert run("import sys; print('é☃'); print('err', file=sys.stderr)").output.split() == ["err", "é☃"]


def test_a_flood_of_reports_changes_nothing() -> None:
    code = "import os\nfor fd in range(3, 1024):\n  try:\n    for _ in range(500): os.write(fd, b'x' * 9999)\n  except OSError: pass"
    assert run(code, ["assert True"]).passed == (False,)


def test_nothing_is_inherited_but_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary")
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    found = run("import os, sys; print(sorted(os.environ), sys.argv, sys.flags.isolated)\ninput()")
    assert "API" not in found.output
    assert "PYTHONPATH" not in found.output
    assert "['candidate'] 1" in found.output
    assert found.errors == ((None, "EOFError: EOF when reading a line"),)


def test_files_are_written_to_its_folder_up_to_a_size() -> None:
    small = "open('a', 'w').write('x' * 1000)\nimport tempfile; tempfile.TemporaryFile().write(b'x')"
    assert run(small).passed == (True,)
    assert "OSError" in run("print('x' * 5000, file=open('a', 'w'), flush=True)", file_bytes=4096).errors[0][1]


def test_files_elsewhere_stay_as_they_are(folder: Path) -> None:
    needs("writes")
    mine = folder / "mine.txt"
    mine.write_text("mine")
    mine.chmod(0o666)
    folder.chmod(0o777)
    for attempt in (
        f"open({str(mine)!r}, 'w')",
        f"__import__('os').remove({str(mine)!r})",
        f"open({str(mine)!r} + '2', 'w')",
    ):
        assert "PermissionError" in run(attempt).errors[0][1]
    assert [path.name for path in folder.iterdir()] == ["mine.txt"]
    assert mine.read_text() == "mine"


@pytest.mark.parametrize(
    "code",
    [
        "import os; os.fork()",
        "import subprocess; subprocess.run(['true'])",
        "import threading; threading.Thread(target=print).start()",
        "import multiprocessing; multiprocessing.Process(target=print).start()",
    ],
)
def test_code_starts_no_other_process(code: str) -> None:
    needs("processes")
    assert run(code).passed == (False,)


def test_the_network_is_out_of_reach() -> None:
    needs("network")
    with socket.create_server(("127.0.0.1", 0)) as server:
        code = f"import socket; socket.create_connection(('127.0.0.1', {server.getsockname()[1]}), 2)"
        assert run(code).passed == (False,)
        assert run(code, network=True).passed == (True,)


@pytest.fixture
def free_to_fork(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Nothing keeps code from starting processes, as it is for root on systems without these limits."""
    child = Path(sandbox_module._CHILD).read_text().replace('"RLIMIT_NPROC", 1, 1', '"RLIMIT_NPROC", 99999, 99999')
    loose = folder / "child.py"
    loose.write_text(child)
    monkeypatch.setattr(sandbox_module, "_CHILD", loose)


@pytest.mark.usefixtures("free_to_fork")
@pytest.mark.parametrize("test", ["pass", "while True: pass"])
def test_children_go_when_their_parent_does(test: str) -> None:
    started = time.monotonic()
    found = run("import subprocess; print(subprocess.Popen(['sleep', '1000']).pid, flush=True)", [test], wall=2.0)
    assert found.errors == ()
    while _alive(int(found.output)):
        assert time.monotonic() - started < HANG
        time.sleep(0.01)


@pytest.mark.usefixtures("free_to_fork")
def test_a_child_that_left_and_holds_the_pipes_is_not_waited_for() -> None:
    started = time.monotonic()
    code = "import subprocess; p = subprocess.Popen(['sleep', '60'], start_new_session=True, close_fds=False); print(p.pid)"
    found = run(code, wall=30.0)
    with contextlib.suppress(ProcessLookupError):
        os.kill(int(found.output), 9)
    assert found.passed == (True,)
    assert time.monotonic() - started < HANG


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


async def test_a_cancelled_run_is_killed_at_once() -> None:
    started = time.monotonic()
    task = asyncio.create_task(Sandbox(limits=Limits(wall=1000.0, cpu=1000)).arun("while True: pass", PASS))
    await asyncio.sleep(0.3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    # Its thread is free again, so others can run.
    found = await asyncio.gather(*[Sandbox().arun("", PASS) for _ in range(4)])
    assert [one.passed for one in found] == [(True,)] * 4
    assert time.monotonic() - started < HANG


def test_a_process_that_cannot_start_says_nothing_of_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with pytest.raises(SandboxError, match="could not be started"):
        run("")
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(SandboxError, match="before it ended with status 1"):
        run("")


@pytest.mark.parametrize(
    "wrong", [{"wall": 0.0}, {"cpu": 0}, {"memory": -1}, {"file_bytes": -1}, {"wall": float("nan")}]
)
def test_limits_that_make_no_sense_are_refused(wrong: Any) -> None:
    name, value = next(iter(wrong.items()))
    with pytest.raises(ConfigError, match=f"{name}={value!r}"):
        Limits(**wrong)


@pytest.mark.parametrize("tests", [[], "assert True"])
def test_no_tests_or_a_bare_text_are_refused(tests: Any) -> None:
    with pytest.raises(ConfigError, match="tests="):
        run("", tests)
