"""Functions of users, named as "module:function" in task files and on the command line."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

from selfreg_sdk.errors import ConfigError


def load_function(named: str, *, folder: Path | None = None, arguments: int | None = None) -> Callable[..., Any]:
    """The function that a text like "scoring:judge" or "package.module:Class.method" names.

    The module is imported, so its code runs: name only what you trust.

    Args:
        folder: also looked for modules in, before all others; that of the task file, say.
        arguments: how many it must take by position; None does not look.

    Raises:
        ConfigError: the text has another form, there is no such module or name, importing it fails, or it cannot be called
            with so many arguments.
    """
    module_name, colon, path = named.partition(":")
    parts = [*module_name.split("."), *path.split(".")]
    if not colon or not all(part.isidentifier() for part in parts):
        raise ConfigError(f"{named!r} does not name a function: write 'module:function', like 'my_scores:close_enough'")
    found: Any = _module(named, module_name, folder)
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            near = difflib.get_close_matches(part, dir(found), n=1)
            hint = (
                f"did you mean {near[0]!r}?" if near else "look for it in " + str(getattr(found, "__file__", "there"))
            )
            raise ConfigError(f"{named!r}: {module_name!r} has no {path!r}; {hint}") from None
    if not callable(found):
        raise ConfigError(f"{named!r} is no function but {type(found).__name__}")
    if arguments is not None and not _takes(found, arguments):
        raise ConfigError(f"{named!r} cannot be called with {arguments} arguments; it takes {signature(found)}")
    return found  # type: ignore[no-any-return]  # callable, seen above


def _module(named: str, module_name: str, folder: Path | None) -> Any:
    try:
        with _searched(folder):
            if folder is not None:
                _forget_namesake(module_name.partition(".")[0], folder)
            return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if module_name != missing and not module_name.startswith(f"{missing}."):
            # It is there, but what it needs is not.
            raise ConfigError(
                f"{named!r}: importing {module_name!r} needs the module {missing!r}; install it"
            ) from error
        where = "the Python path" if folder is None else f"{str(folder)!r} or the Python path"
        raise ConfigError(f"{named!r}: there is no module {missing!r} in {where}") from error
    except Exception as error:
        raise ConfigError(f"{named!r}: importing {module_name!r} raised {type(error).__name__}: {error}") from error


@contextmanager
def _searched(folder: Path | None) -> Iterator[None]:
    """The folder in front of the Python path, for a while."""
    if folder is None:
        yield
        return
    entry = str(folder.resolve())
    sys.path.insert(0, entry)
    try:
        importlib.invalidate_caches()
        yield
    finally:
        sys.path.remove(entry)


def _forget_namesake(module: str, folder: Path) -> None:
    """Drop a module that was imported for another task from its own folder, where this folder has one of that name.

    Functions that were taken from it go on working. Python's own modules are never dropped.
    """
    here = {path.resolve() for path in (folder / f"{module}.py", folder / module / "__init__.py") if path.is_file()}
    loaded = getattr(sys.modules.get(module), "__file__", None)
    if not here or loaded is None or module in sys.stdlib_module_names or Path(loaded).resolve() in here:
        return
    for name in [name for name in sys.modules if name == module or name.startswith(f"{module}.")]:
        del sys.modules[name]


def _takes(function: Callable[..., Any], count: int) -> bool:
    try:
        form = signature(function)
    except (TypeError, ValueError):  # built in C, it does not tell
        return True
    try:
        form.bind(*[Parameter.empty] * count)
    except TypeError:
        return False
    return True
