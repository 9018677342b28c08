"""Alembic revisions, one file for every release that changed the schema. Run by ``selfreg_sdk.store.schema``."""
