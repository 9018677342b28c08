"""What goes wrong with checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from local_backend.config import SetupError


class CheckpointError(SetupError):
    """A folder or file cannot be read, written or combined as asked; the message says what to do about it."""


@contextmanager
def as_checkpoint_error(what: str) -> Iterator[None]:
    """Name what failed when transformers cannot read or build something."""
    try:
        yield
    except CheckpointError:
        raise
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise CheckpointError(f"{what}: {error}") from error
