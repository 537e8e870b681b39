"""Closed windows of steps as chunks and roll-ups; of each scalar its last, lowest and highest."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


_KEYS = {
    "chunk_steps": ("run_number", "group_id", "segment", "window"),
    "chunks": ("run_number", "signal_id", "row", "segment", "window"),
    "rollups": ("run_number", "signal_id", "row", "segment", "level", "window"),
}


def _key(name: str) -> sa.Column[int]:
    kind = sa.BigInteger if name == "window" else sa.Integer
    return sa.Column(name, kind, primary_key=True, autoincrement=False)


def upgrade() -> None:
    for name, key in _KEYS.items():
        data = sa.Column("data", sa.LargeBinary, nullable=False)
        op.create_table(name, *map(_key, key), data, sqlite_with_rowid=False)
        if op.get_bind().dialect.name == "postgresql":
            # packed already: the server's own compression would cost time for nothing
            op.execute(f"ALTER TABLE {name} ALTER COLUMN data SET STORAGE EXTERNAL")
    for name in ("last_value", "low", "high"):
        op.add_column("spans", sa.Column(name, sa.Double))
    for name in ("low_step", "high_step"):
        op.add_column("spans", sa.Column(name, sa.BigInteger))
