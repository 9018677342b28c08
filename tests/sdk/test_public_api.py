"""The package's front door: its names, what importing it loads, and what happens when another `policies` hides ours."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import policies
import selfreg_sdk

ROOT = Path(selfreg_sdk.__file__).parent.parent
HEAVY = {
    "torch",
    "transformers",
    "langchain_core",
    "sqlalchemy",
    "sqlmodel",
    "openai",
    "httpx",
    "genai_prices",
    "alembic",
}


def python(code: str, *path: Path) -> subprocess.CompletedProcess[str]:
    """Run ``code`` in an interpreter of its own, which finds modules in ``path`` and the packages."""
    found = [str(place) for place in (*path, ROOT)]
    start = f"import sys; sys.path[:0] = {found!r}\n"
    return subprocess.run([sys.executable, "-c", start + code], capture_output=True, text=True, timeout=120, cwd="/")


@pytest.mark.parametrize("package", [selfreg_sdk, policies])
def test_exported_names_resolve_and_are_sorted(package: object) -> None:
    names = package.__all__  # type: ignore[attr-defined]
    assert len(set(names)) == len(names)
    assert names == sorted(names, key=lambda name: (not name.isupper(), name))
    for name in names:
        assert getattr(package, name) is not None


@pytest.mark.parametrize("package", ["selfreg_sdk", "policies"])
def test_every_name_is_listed_and_none_is_hidden_by_a_module(package: str) -> None:
    """A module of the package that is imported first sits where a lazy name of the same spelling would load."""
    done = python(
        "import importlib, json, pkgutil, types\n"
        f"package = importlib.import_module({package!r})\n"
        "listed = sorted(set(package.__all__) - set(dir(package)))\n"
        "for module in pkgutil.iter_modules(package.__path__):\n"
        "    importlib.import_module(f'{package.__name__}.{module.name}')\n"
        "hidden = [name for name in package.__all__ if isinstance(getattr(package, name), types.ModuleType)]\n"
        "print(json.dumps([listed, hidden]))"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [[], []]


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'ChatSelfRegg'"):
        selfreg_sdk.ChatSelfRegg  # noqa: B018


def test_importing_the_package_loads_nothing_heavy() -> None:
    done = python("import selfreg_sdk, json; print(json.dumps(sorted(sys.modules)))")
    assert done.returncode == 0, done.stderr
    loaded = {name.partition(".")[0] for name in json.loads(done.stdout)}
    assert "policies" in loaded
    assert not loaded & HEAVY


def test_the_check_would_see_a_heavy_module() -> None:
    done = python("import selfreg_sdk, json; selfreg_sdk.ChatSelfReg; print(json.dumps(sorted(sys.modules)))")
    assert {"langchain_core", "sqlalchemy"} <= set(json.loads(done.stdout))
    assert "torch" not in json.loads(done.stdout)


@pytest.mark.parametrize("shape", ["policies.py", "policies/__init__.py"])
def test_another_policies_module_in_front_of_ours_is_named(tmp_path: Path, shape: str) -> None:
    other = tmp_path / shape
    other.parent.mkdir(exist_ok=True)
    other.write_text("RULES = []\n")
    done = python("import selfreg_sdk", tmp_path)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: another module named 'policies' hides selfreg's")
    assert str(other) in last
    assert "rename" in last
