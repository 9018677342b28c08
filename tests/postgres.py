"""A PostgreSQL of the tests' own: a cluster in a temporary folder, on a Unix socket, without password or network."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

_DEBIAN = "/usr/lib/postgresql"
_ACCOUNT = "postgres"
_SECONDS = 60


def programs() -> Path | None:
    """The folder with PostgreSQL's server programs, newest first; None where there are none."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    versions = [path for path in Path(_DEBIAN).glob("*/bin") if (path / "initdb").exists()]
    return max(versions, key=lambda path: int(path.parent.name.split(".")[0]), default=None)


@contextlib.contextmanager
def cluster() -> Iterator[str]:
    """Start a cluster and yield the URL of its empty database."""
    where = programs()
    assert where is not None
    # Not the folder of the test: a Unix socket's path may have 107 characters at most.
    with tempfile.TemporaryDirectory(prefix="pg", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        _own(folder)
        _run(where / "initdb", "-D", folder / "data", "-U", _ACCOUNT, "-A", "trust", "-E", "UTF8", "--no-sync")
        options = f"-c listen_addresses='' -c unix_socket_directories='{folder}' -c max_connections=200"
        _run(where / "pg_ctl", "-D", folder / "data", "-o", options, "-l", folder / "log", "-w", "start")
        try:
            yield f"postgresql+psycopg://{_ACCOUNT}@/{_ACCOUNT}?host={folder}"
        finally:
            _run(where / "pg_ctl", "-D", folder / "data", "-m", "immediate", "-w", "stop")


def _own(folder: Path) -> None:
    """PostgreSQL refuses to run as root: there, its own account does it."""
    if os.geteuid() == 0:
        shutil.chown(folder, _ACCOUNT)
        folder.chmod(0o755)


def _run(*command: object) -> None:
    words = [str(word) for word in command]
    if os.geteuid() == 0:
        words = ["runuser", "-u", _ACCOUNT, "--", *words]
    done = subprocess.run(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=_SECONDS, cwd="/", check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)} ended with {done.returncode}: {done.stdout}")
