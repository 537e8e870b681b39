"""Studies, their trials, and the attempts at each.

A migration never changes once it is released, so this one repeats what `platform/tables.py` says
today.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "studies",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("spec", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("created_s", sa.Double, nullable=False),
    )
    op.create_table(
        "trials",
        sa.Column(
            "study", sa.Text, sa.ForeignKey("studies.name", ondelete="CASCADE"), primary_key=True
        ),
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("label", sa.Text, nullable=False),
        sa.Column("coordinates", sa.Text, nullable=False),
        sa.Column("config", sa.Text, nullable=False),
        sa.Column("cost", sa.Text, nullable=False),
        sa.Column("trunk", sa.Text, nullable=False),
        sa.Column("branch_at", sa.BigInteger, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("is_wanted", sa.Boolean, nullable=False),
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("num_attempts", sa.BigInteger, nullable=False),
        sa.Column("num_failures", sa.BigInteger, nullable=False),
        sa.Column("not_before_s", sa.Double, nullable=False),
        sa.Column("worker", sa.Text, nullable=False),
        sa.Column("until_s", sa.Double, nullable=False),
        sa.Column("result", sa.Text, nullable=False),
    )
    op.create_index("trials_of_study", "trials", ["study", "state", "position"])
    op.create_table(
        "attempts",
        sa.Column("study", sa.Text, primary_key=True),
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("worker", sa.Text, nullable=False),
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("started_s", sa.Double, nullable=False),
        sa.Column("ended_s", sa.Double),
        sa.Column("exit_reason", sa.Text, nullable=False),
        sa.Column("log_tail", sa.Text, nullable=False),
        sa.ForeignKeyConstraint(
            ["study", "key"], ["trials.study", "trials.key"], ondelete="CASCADE"
        ),
    )
