"""A generation for every move of a pointer and every learned field, so that other processes notice what changed; one index
of the attempts that are still open in place of two of all.

Revision ID: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "generation",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("number", sa.BigInteger, nullable=False),
    )
    for table in ("config_pointer", "learned_capability"):
        op.add_column(table, sa.Column("generation", sa.BigInteger, nullable=False, server_default="0"))
        op.create_index(f"ix_{table}_generation", table, ["generation"])
    # Every call moves its row from one state to the next: an index of the open ones alone is written half as often.
    for column in ("state", "lease_until"):
        op.drop_index(f"ix_ledger_{column}", "ledger")
    still_open = sa.text("state = 'reserved'")
    op.create_index("ix_ledger_open", "ledger", ["lease_until"], sqlite_where=still_open, postgresql_where=still_open)


def downgrade() -> None:
    raise RuntimeError("a store is only ever upgraded; restore a backup to go back")
