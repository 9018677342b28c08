"""Run by alembic for ``schema.upgrade``, which passes its connection and owns the transaction."""

from alembic import context

from selfreg_sdk.store.schema import VERSION_TABLE

context.configure(connection=context.config.attributes["connection"], version_table=VERSION_TABLE)
context.run_migrations()
