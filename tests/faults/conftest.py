"""The stores that faults must not break."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import postgres


@pytest.fixture(params=["sqlite", "postgres"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str | Path]:
    """Where a store of the test's own may lie: a new file, and the empty database of a real server."""
    with contextlib.ExitStack() as stack:
        if request.param == "sqlite":
            yield tmp_path / "tune.db"
        elif postgres.programs() is None:
            pytest.skip("PostgreSQL's server programs are not installed")
        else:
            yield stack.enter_context(postgres.cluster())
