"""What studies asked for: a row for every purchase of samples, and what a study ended with.

Revision ID: 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

ROW_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")
STAMP = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.add_column("study", sa.Column("outcome", sa.JSON, nullable=True))
    op.create_table(
        "draw",
        sa.Column("study_id", ROW_ID, sa.ForeignKey("study.id"), primary_key=True),
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("start", sa.Integer, primary_key=True),
        sa.Column("count", sa.Integer, primary_key=True),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("cost_pico", sa.BigInteger, nullable=False),
        sa.Column("seconds", sa.Float),
        sa.Column("marks", sa.JSON),
        sa.Column("mark_cost_pico", sa.BigInteger, nullable=False),
        sa.Column("mark_error", sa.Text),
        sa.Column("reason", sa.Text),
        sa.Column("refused_scope", sa.Text),
        sa.Column("refused_cap_pico", sa.BigInteger),
        sa.Column("owner", sa.Text),
        sa.Column("lease_until", STAMP),
        sa.Column("created_at", STAMP, nullable=False),
        sa.Column("ended_at", STAMP),
    )
    held = sa.text("lease_until IS NOT NULL")
    op.create_index("ix_draw_held", "draw", ["study_id", "owner"], sqlite_where=held, postgresql_where=held)


def downgrade() -> None:
    raise RuntimeError("a store is only ever upgraded; restore a backup to go back")
