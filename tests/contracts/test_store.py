"""The store contract, bound to SQLite on disk and in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from selfreg_sdk.store import Store
from tests.contracts.store_contract import StoreContract


class TestSqliteFile(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[Store]:
        with Store.open(tmp_path / "store.db") as opened:
            yield opened


class TestSqliteMemory(StoreContract):
    @pytest.fixture
    def store(self) -> Iterator[Store]:
        with Store.open(":memory:") as opened:
            yield opened
