"""Who packs or forgets samples of a run: one at a time, and nobody once the run is deleted."""

from sqlalchemy import Connection, func, select

from .. import tables
from ..engines import unknown_run

_OURS = 0x6D6F6573  # "moes": our locks among those of other programs in the database


def take_turn(connection: Connection, run_number: int) -> None:
    """Until the transaction ends nobody else who asks packs or forgets samples of this run, and
    nobody deletes it; those who write rows go on. SQLite has one writer anyway.

    PostgreSQL's other transactions could change a chunk between its reading and its writing here.
    Raises UnknownRun where the run was deleted.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(_OURS, run_number)))
    number = tables.runs.c.number
    is_there = select(number).where(number == run_number)
    if connection.scalar(is_there.with_for_update(read=True, key_share=True)) is None:
        raise unknown_run(f"number {run_number}")
