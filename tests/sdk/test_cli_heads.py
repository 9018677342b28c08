"""`selfreg heads` hands everything to the local backend, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

SELFREG = "import sys; sys.argv[0] = 'selfreg'; from selfreg_sdk.cli import main; main()"


def selfreg(*arguments: str, before: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", before + SELFREG, "heads", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("arguments", [(), ("--help",)])
def test_help_lists_the_backends_commands(arguments: tuple[str, ...]) -> None:
    shown = selfreg(*arguments)
    for command in ("inspect", "merge", "split"):
        assert command in shown.stdout + shown.stderr


def test_options_are_the_backends(tmp_path: object) -> None:
    shown = selfreg("merge", "--help")
    assert shown.returncode == 0
    assert "--any-base" in shown.stdout
    done = selfreg("inspect", f"{tmp_path}/nowhere", "--json")
    assert done.returncode == 2
    assert done.stderr.startswith("error: heads ")


# Nothing of torch is found, as on a machine where the backend's extra is not installed.
BARE = (
    "import importlib.util as u; find = u.find_spec; "
    "u.find_spec = lambda name, *rest: None if name == 'torch' else find(name, *rest); "
)


def test_without_the_local_extra_help_is_there_and_the_rest_says_what_to_install() -> None:
    assert "merge" in selfreg("--help", before=BARE).stdout
    done = selfreg("inspect", "x", before=BARE)
    assert done.returncode == 2
    assert "pip install 'selfreg[local]'" in done.stderr
