"""What a list of runs tells besides the runs themselves, asked once for many of them: commands on
their way, what happened lately, how many are archived.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import func, or_, select

from . import tables
from .records import Command, Event, EventKind
from .store import Store

_TELLING: tuple[EventKind, ...] = (
    "rollback",
    "skip_data",
    "damp",
    "halt",
    "resume",
    "data_change",
    "resolution",
    "decay",
)
"""Kinds of events that change what a run does; the others note something."""


@dataclass(slots=True)
class Doings:
    """Of one run."""

    commands: list[Command] = field(default_factory=list)
    """Those that nobody has answered, and all that pause or continue; oldest first."""
    event: Event | None = None
    """The newest that changed what the run does."""
    resumed_s: float | None = None
    """When its newest process began, if it is not the first: it is not paused any more."""


def doings(store: Store, run_ids: Sequence[str], since_s: float) -> dict[str, Doings]:
    """{run id: what it is about}, of those runs that have something to tell.

    since_s: how old an event may be.
    """
    command, event, segment = tables.commands.c, tables.events.c, tables.segments.c
    is_open = command.state.in_(("asked", "taken"))
    asked = (
        select(tables.commands)
        .where(command.run_id.in_(run_ids), or_(is_open, command.kind.in_(("pause", "continue"))))
        .order_by(command.asked_s, command.id)
    )
    columns = [column for column in event if column.name != "key"]
    happened = (
        select(*columns)
        .where(event.run_id.in_(run_ids), event.kind.in_(_TELLING), event.time_s >= since_s)
        .order_by(event.time_s, event.key)
    )
    began = (
        select(segment.run_id, func.max(segment.created_s))
        .where(segment.run_id.in_(run_ids), segment.reason.in_(("resume", "changed")))
        .group_by(segment.run_id)
    )
    found: dict[str, Doings] = {}
    commands, events, resumes = store.database.read(
        lambda c: (
            c.execute(asked).mappings().all(),
            c.execute(happened).mappings().all(),
            c.execute(began).all(),
        )
    )
    for row in commands:
        found.setdefault(row["run_id"], Doings()).commands.append(Command(**row))
    for row in events:
        found.setdefault(row["run_id"], Doings()).event = Event(**row)
    for run_id, resumed_s in resumes:
        found.setdefault(run_id, Doings()).resumed_s = resumed_s
    return found


def num_archived(store: Store) -> int:
    statement = select(func.count()).select_from(tables.runs).where(tables.runs.c.is_archived)
    return int(store.database.read(lambda c: c.scalar(statement)) or 0)
