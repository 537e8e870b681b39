"""What an autopsy found of an alert."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    owner = sa.ForeignKey("runs.id", ondelete="CASCADE")
    op.create_table(
        "incidents",
        sa.Column("alert_id", sa.Text, primary_key=True),
        sa.Column("run_id", sa.Text, owner, nullable=False),
        sa.Column("made_s", sa.Double, nullable=False),
        sa.Column("verdict", sa.Text, nullable=False),
        sa.Column("is_replayed", sa.Boolean, nullable=False),
        sa.Column("content", sa.Text, nullable=False),
    )
    op.create_index("incidents_of_run", "incidents", ["run_id", "made_s"])
