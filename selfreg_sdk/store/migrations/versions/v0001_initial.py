"""The schema of the first release.

Revision ID: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

ROW_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")
STAMP = sa.DateTime(timezone=True)


def upgrade() -> None:
    _configs()
    _money()
    _responses()
    _studies()


def downgrade() -> None:
    raise RuntimeError("a store is only ever upgraded; restore a backup to go back")


def _text(name: str, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=nullable)


def _json(name: str, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.JSON, nullable=nullable)


def _big(name: str, nullable: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=nullable)


def _stamp(name: str, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, STAMP, nullable=nullable)


def _ref(name: str, target: str, nullable: bool = False) -> sa.Column[int]:
    return sa.Column(name, ROW_ID, sa.ForeignKey(target), nullable=nullable)


def _configs() -> None:
    op.create_table(
        "config_version",
        sa.Column("id", ROW_ID, primary_key=True, autoincrement=True),
        _text("task_key"),
        _text("model"),
        _text("aggregation"),
        _json("params"),
        _json("plan", nullable=True),
        _json("provenance"),
        sa.Column("score", sa.Float),
        sa.Column("score_low", sa.Float),
        sa.Column("score_high", sa.Float),
        _big("cost_pico", nullable=True),
        _ref("parent_id", "config_version.id", nullable=True),
        _stamp("created_at"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_config_version_task_key", "config_version", ["task_key"])
    op.create_table(
        "config_pointer",
        sa.Column("task_key", sa.Text, primary_key=True),
        sa.Column("stage", sa.Text, primary_key=True),
        _ref("version_id", "config_version.id"),
        _stamp("moved_at"),
    )
    op.create_table(
        "learned_capability",
        sa.Column("endpoint", sa.Text, primary_key=True),
        sa.Column("model", sa.Text, primary_key=True),
        sa.Column("field", sa.Text, primary_key=True),
        _text("outcome"),
        _text("detail"),
        _stamp("learned_at"),
    )


def _money() -> None:
    op.create_table(
        "budget",
        sa.Column("scope", sa.Text, primary_key=True),
        _big("spent_pico"),
        _big("held_pico"),
        sa.Column("unpriced", sa.Integer, nullable=False),
        _big("last_cap_pico", nullable=True),
        _stamp("updated_at"),
    )
    op.create_table(
        "ledger",
        sa.Column("id", ROW_ID, primary_key=True, autoincrement=True),
        _text("request_id"),
        sa.Column("attempt", sa.Integer, nullable=False),
        _text("purpose"),
        _text("state"),
        _text("task_key"),
        _text("model"),
        _text("endpoint"),
        _ref("config_version_id", "config_version.id", nullable=True),
        _json("params"),
        _json("scopes"),
        _big("worst_pico", nullable=True),
        _big("cost_pico", nullable=True),
        _big("prompt_tokens", nullable=True),
        _big("completion_tokens", nullable=True),
        _big("reasoning_tokens", nullable=True),
        _big("cached_tokens", nullable=True),
        _json("flags"),
        _text("reason", nullable=True),
        sa.Column("pid", sa.Integer, nullable=False),
        _stamp("lease_until"),
        _stamp("created_at"),
        _stamp("ended_at", nullable=True),
        sqlite_autoincrement=True,
    )
    for column in ("request_id", "state", "task_key", "lease_until"):
        op.create_index(f"ix_ledger_{column}", "ledger", [column])


def _responses() -> None:
    op.create_table(
        "response",
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("sample_index", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("format", sa.Integer, nullable=False),
        _text("body"),
        _text("digest"),
        _text("model"),
        _text("endpoint"),
        _ref("ledger_id", "ledger.id", nullable=True),
        _stamp("created_at"),
    )


def _studies() -> None:
    op.create_table(
        "study",
        sa.Column("id", ROW_ID, primary_key=True, autoincrement=True),
        sa.Column("name", sa.Text, nullable=False, unique=True),
        _text("task_key"),
        _json("spec"),
        _big("seed"),
        _text("state"),
        _stamp("created_at"),
        _stamp("updated_at"),
    )
    op.create_index("ix_study_task_key", "study", ["task_key"])
    op.create_table(
        "trial",
        sa.Column("id", ROW_ID, primary_key=True, autoincrement=True),
        _ref("study_id", "study.id"),
        sa.Column("number", sa.Integer, nullable=False),
        _text("state"),
        _json("params"),
        sa.Column("score", sa.Float),
        sa.Column("score_low", sa.Float),
        sa.Column("score_high", sa.Float),
        _big("cost_pico", nullable=True),
        _json("detail"),
        _stamp("created_at"),
        _stamp("ended_at", nullable=True),
        sa.UniqueConstraint("study_id", "number"),
    )
    op.create_table(
        "lease",
        sa.Column("resource", sa.Text, primary_key=True),
        _text("owner"),
        _stamp("until"),
    )
