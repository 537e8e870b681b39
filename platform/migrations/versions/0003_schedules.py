"""Schedules and what came of them, calibrations, and the reports of studies."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column(
        "studies",
        sa.Column("is_served", sa.Boolean, nullable=False, server_default=sa.false()),
    )
    op.create_table(
        "schedules",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("spec", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("when", sa.Text, nullable=False),
        sa.Column("zone", sa.Text, nullable=False),
        sa.Column("created_s", sa.Double, nullable=False),
        sa.Column("is_paused", sa.Boolean, nullable=False),
    )
    op.create_table(
        "firings",
        sa.Column(
            "schedule",
            sa.Text,
            sa.ForeignKey("schedules.name", ondelete="CASCADE"),
            primary_key=True,
        ),
        sa.Column("due_s", sa.Double, primary_key=True),
        sa.Column("fired_s", sa.Double, nullable=False),
        sa.Column("by", sa.Text, nullable=False),
        sa.Column("outcome", sa.Text, nullable=False),
    )
    op.create_table(
        "calibrations",
        sa.Column("machine", sa.Text, primary_key=True),
        sa.Column("shape", sa.Text, primary_key=True),
        sa.Column("flops_per_s", sa.Double, nullable=False),
        sa.Column("measured_s", sa.Double, nullable=False),
    )
    op.create_table(
        "reports",
        sa.Column(
            "study", sa.Text, sa.ForeignKey("studies.name", ondelete="CASCADE"), primary_key=True
        ),
        sa.Column("made_s", sa.Double, nullable=False),
        sa.Column("folder", sa.Text, nullable=False),
        sa.Column("content", sa.Text, nullable=False),
    )
