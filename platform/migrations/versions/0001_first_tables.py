"""The first tables: runs and what belongs to them, leases, packed samples.

A migration never changes once it is released, so this one repeats what `platform/tables.py` says
today.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def _of_run(*, is_key: bool = False) -> sa.Column[str]:
    owner = sa.ForeignKey("runs.id", ondelete="CASCADE")
    return sa.Column("run_id", sa.Text, owner, primary_key=is_key, nullable=False)


def _number(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.Integer, primary_key=True, autoincrement=False)


def _step(name: str = "step", *, is_key: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, primary_key=is_key, autoincrement=False, nullable=False)


def upgrade() -> None:
    op.create_table(
        "runs",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("id", sa.Text, nullable=False, unique=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("project", sa.Text, nullable=False),
        sa.Column("config", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("device", sa.Text, nullable=False),
        sa.Column("code_version", sa.Text, nullable=False),
        sa.Column("created_s", sa.Double, nullable=False),
        sa.Column("heartbeat_s", sa.Double, nullable=False),
        sa.Column("finished_s", sa.Double),
        sa.Column("mode", sa.Text, nullable=False),
        sa.Column("tags", sa.Text, nullable=False),
        sa.Column("note", sa.Text, nullable=False),
        sa.Column("is_archived", sa.Boolean, nullable=False),
        sa.Column("folder", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_runs_name", "runs", ["name"])
    op.create_table(
        "segments",
        _of_run(is_key=True),
        _step("index", is_key=True),
        _step("start_step"),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("created_s", sa.Double, nullable=False),
        sa.Column("parent_segment", sa.BigInteger),
        sa.Column("parent_step", sa.BigInteger),
        sa.Column("alert_id", sa.Text),
        sa.Column("changes", sa.Text, nullable=False),
    )
    op.create_table(
        "events",
        sa.Column("key", sa.Text, primary_key=True),
        _of_run(),
        _step("segment"),
        _step(),
        sa.Column("time_s", sa.Double, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("details", sa.Text, nullable=False),
    )
    op.create_index("events_of_run", "events", ["run_id", "segment", "step"])
    op.create_table(
        "alerts",
        sa.Column("id", sa.Text, primary_key=True),
        _of_run(),
        _step("segment"),
        sa.Column("rule", sa.Text, nullable=False),
        sa.Column("severity", sa.Text, nullable=False),
        _step("onset_step"),
        _step("fired_step"),
        sa.Column("value", sa.Double),
        sa.Column("threshold", sa.Double),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("created_s", sa.Double, nullable=False),
        sa.Column("dedupe_key", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("evidence", sa.Text, nullable=False),
        sa.Column("changed_by", sa.Text, nullable=False),
        sa.Column("changed_s", sa.Double),
        sa.Column("delivered_s", sa.Double),
        sa.Column("delivery_failure", sa.Text, nullable=False, server_default=""),
        sa.Column("num_deliveries", sa.BigInteger, nullable=False, server_default="0"),
    )
    op.create_index("alerts_of_run", "alerts", ["run_id", "created_s"])
    op.create_table(
        "checkpoints",
        _of_run(is_key=True),
        _step("segment", is_key=True),
        _step(is_key=True),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("batch", sa.BigInteger, nullable=False),
        sa.Column("num_bytes", sa.BigInteger, nullable=False),
        sa.Column("created_s", sa.Double, nullable=False),
        sa.Column("health", sa.Text, nullable=False),
        sa.Column("is_on_disk", sa.Boolean, nullable=False),
    )
    op.create_table(
        "commands",
        sa.Column("id", sa.Text, primary_key=True),
        _of_run(),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("args", sa.Text, nullable=False),
        sa.Column("asked_by", sa.Text, nullable=False),
        sa.Column("asked_s", sa.Double, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("answer", sa.Text, nullable=False),
        sa.Column("answered_s", sa.Double),
    )
    op.create_index("commands_of_run", "commands", ["run_id", "state"])
    op.create_table(
        "leases",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("holder", sa.Text, nullable=False),
        sa.Column("since_s", sa.Double, nullable=False),
        sa.Column("until_s", sa.Double, nullable=False),
    )
    op.create_table(
        "groups",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.Text, nullable=False, unique=True),
    )
    op.create_table(
        "signals",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.Text, nullable=False, unique=True),
        sa.Column("group_name", sa.Text, nullable=False),
        sa.Column("num_dimensions", sa.Integer, nullable=False),
    )
    op.create_table(
        "layouts",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.Text, nullable=False, unique=True),
    )
    op.create_table(
        "scalar_rows",
        _number("run_number"),
        _number("group_id"),
        _number("segment"),
        _step(is_key=True),
        sa.Column("time_s", sa.Double, nullable=False),
        sa.Column("layout_id", sa.Integer, nullable=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "vector_rows",
        _number("run_number"),
        _number("signal_id"),
        _number("row"),
        _number("segment"),
        _step(is_key=True),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "spans",
        _number("run_number"),
        _number("signal_id"),
        _number("segment"),
        _step("first_step"),
        _step("last_step"),
        sa.Column("num_rows", sa.Integer, nullable=False),
        sqlite_with_rowid=False,
    )
