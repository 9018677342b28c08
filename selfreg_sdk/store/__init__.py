"""What is remembered and spent: SQLite by default, Postgres by URL."""

from selfreg_sdk.store.engine import Store

__all__ = ["Store"]
