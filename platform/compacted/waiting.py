"""What waits to be packed: closed windows of steps that still lie there as rows."""

from dataclasses import dataclass

from sqlalchemy import func, select

from .. import tables
from ..engines import Database
from ..store import Store
from .due import closed_windows, groups_with_rows

MOST_COUNTED = 100
"""Windows that are counted: each is a question."""


@dataclass(frozen=True, slots=True)
class Waiting:
    num_runs: int
    """Runs with rows, be they closed or not."""
    num_windows: int
    is_more: bool
    """Whether there are more windows than were counted."""
    num_packed: int
    """Windows that are packed already."""


def waiting(store: Store, most: int = MOST_COUNTED) -> Waiting:
    """Counts what the service's housekeeping has before it."""
    database, run = store.database, tables.runs.c
    rows = select(tables.scalar_rows.c.run_number)
    has_rows = rows.where(tables.scalar_rows.c.run_number == run.number).exists()
    segment = tables.segments.c
    newest = select(func.max(segment.index)).where(segment.run_id == run.id).scalar_subquery()
    statement = select(run.number, run.status, newest).where(has_rows).order_by(run.number)
    packed = select(func.count()).select_from(tables.chunk_steps)
    there, num_packed = database.read(
        lambda c: (c.execute(statement).all(), int(c.scalar(packed) or 0))
    )
    count = 0
    for number, status, segment_now in there:
        # as of compaction: only the newest segment of a run that lives is still written
        open_from = segment_now if status == "running" else None
        count += _count(database, number, open_from, most - count)
        if count >= most:
            break
    return Waiting(len(there), count, count >= most, num_packed)


def _count(database: Database, number: int, open_from: int | None, most: int) -> int:
    """Windows of a run that are closed, up to so many."""
    count = 0
    for group_id, segment in groups_with_rows(database, number):
        is_open = open_from is not None and segment >= open_from
        for _ in closed_windows(database, number, group_id, segment, is_open):
            count += 1
            if count >= most:
                return count
    return count
