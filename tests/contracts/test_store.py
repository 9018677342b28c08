"""The store contracts, bound to SQLite on disk and in memory, and to Postgres where its server programs are installed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from selfreg_sdk.store import Store
from tests.contracts.draws_contract import DrawsContract
from tests.contracts.store_contract import StoreContract
from tests.contracts.writer_contract import WriterContract
from tests.postgres import cluster, programs


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    with cluster() as url:
        yield url


class TestSqliteFile(StoreContract, WriterContract, DrawsContract):
    @pytest.fixture(params=["normal", "strict"])
    def store(self, tmp_path: Path, request: Any) -> Iterator[Store]:
        with Store.open(tmp_path / "store.db", durability=request.param) as opened:
            yield opened


class TestSqliteMemory(StoreContract, WriterContract, DrawsContract):
    @pytest.fixture
    def store(self) -> Iterator[Store]:
        with Store.open(":memory:") as opened:
            yield opened

    def again(self, store: Store, kind: type[Store]) -> Any:
        pytest.skip("a store in memory is opened once")


@pytest.mark.skipif(programs() is None, reason="PostgreSQL's server programs are not installed")
class TestPostgres(StoreContract, WriterContract, DrawsContract):
    @pytest.fixture
    def store(self, database: str) -> Iterator[Store]:
        with Store.open(database) as opened, opened.write() as connection:
            connection.execute(sa.text("DROP SCHEMA public CASCADE"))
            connection.execute(sa.text("CREATE SCHEMA public"))
        with Store.open(database) as opened:
            yield opened
