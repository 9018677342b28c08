"""`policies` is the ground floor: light, and free of input, output and clocks."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import policies

HEAVY = {
    "torch", "transformers", "numpy", "langchain", "langchain_core", "langchain_openai", "openai", "httpx", "httpx2",
    "requests", "sqlalchemy", "sqlmodel", "alembic", "yaml", "rich", "typer", "fastapi", "selfreg_sdk", "local_backend",
}  # fmt: skip
DOORS = {"time", "random", "secrets", "os", "io", "socket", "pathlib", "sqlite3", "subprocess", "threading", "asyncio"}
FILES = sorted(Path(policies.__file__).parent.glob("*.py"))


def test_importing_policies_loads_nothing_heavy() -> None:
    program = "import policies, sys; [getattr(policies, name) for name in policies.__all__]; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert "policies" in loaded
    assert "pydantic" in loaded
    assert HEAVY.isdisjoint(loaded)


def imports_of(source: str) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_module_can_reach_a_clock_a_file_or_a_network(path: Path) -> None:
    imported = imports_of(path.read_text(encoding="utf-8"))
    assert imported <= set(sys.stdlib_module_names) | {"policies", "pydantic"}
    assert imported.isdisjoint(DOORS)
    assert "open(" not in path.read_text(encoding="utf-8")


def test_companion_the_reader_of_imports_sees_every_form() -> None:
    source = "import time\nimport os.path as p\nfrom socket import socket\ndef f():\n    from httpx import get"
    assert imports_of(source) == {"time", "os", "socket", "httpx"}


def test_every_exported_name_exists() -> None:
    assert sorted(policies.__all__) == sorted(set(policies.__all__))
    assert all(hasattr(policies, name) for name in policies.__all__)
    assert policies.SELFREG is True
