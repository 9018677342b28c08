"""Folders that are there whole or not at all: written beside, flushed to the disk, then moved into place."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from local_backend.checkpoint.errors import CheckpointError


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder to write into, which becomes `target` at the end of the block.

    After an error nothing is left; after a kill, at most a hidden folder beside that may be deleted.

    Raises:
        CheckpointError: target exists and is not empty.
    """
    require_absent(target)
    with _staged(target) as stage:
        yield stage
        _flush(stage)
        if target.is_dir():
            target.rmdir()  # empty
        stage.rename(target)
    _flush_entries(target.parent)


@contextmanager
def replaced_files(target: Path, *, last: str) -> Iterator[Path]:
    """A folder to write into, whose files replace those of `target`, an existing folder, at the end of the block.

    Each file is replaced in one step. A kill between two of them leaves some new and some old, but `last` is replaced last:
    readers must take from it alone whatever has to agree.
    """
    with _staged(target) as stage:
        yield stage
        _flush(stage)
        files = [file.relative_to(stage) for file in stage.rglob("*") if file.is_file()]
        for file in sorted(files, key=lambda file: file == Path(last)):
            place = target / file
            place.parent.mkdir(exist_ok=True)
            os.replace(stage / file, place)
            # A power cut must not keep a later file and lose an earlier one.
            _flush_entries(place.parent)


def require_absent(target: Path) -> None:
    """Refuse a target that would be written over.

    Raises:
        CheckpointError: it exists and is not an empty folder.
    """
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise CheckpointError(f"{str(target)!r} is there already: name a new folder, or delete it first")


@contextmanager
def _staged(target: Path) -> Iterator[Path]:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Beside the target: only within one file system is a move one step.
        stage = Path(tempfile.mkdtemp(prefix=f".{target.name}.partial-", dir=target.parent))
    except OSError as error:
        raise CheckpointError(f"cannot write beside {str(target)!r}: {error}") from error
    stage.chmod(0o777 & ~_umask())
    try:
        yield stage
    except OSError as error:
        raise CheckpointError(f"cannot write {str(target)!r}, nothing of it is left: {error}") from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _umask() -> int:
    """What mkdtemp ignores, and a folder that others may read must not."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _flush(folder: Path) -> None:
    for directory, _, files in os.walk(folder):
        for name in files:
            with open(os.path.join(directory, name), "rb") as stream:
                os.fsync(stream.fileno())
        _flush_entries(Path(directory))


def _flush_entries(folder: Path) -> None:
    """Make moves into a folder last; Windows has no such call and needs none."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
