"""Schedules as the store has them, and what came of them; `studies/` says when they come due."""

from sqlalchemy import select

from . import tables
from .records import Firing, Schedule
from .store import Store


def schedules(store: Store) -> list[Schedule]:
    statement = select(tables.schedules).order_by(tables.schedules.c.name)
    rows = store.database.read(lambda c: c.execute(statement).mappings().all())
    return [Schedule(**row) for row in rows]


def newest_firings(store: Store, most: int) -> list[Firing]:
    """The moments that came due last, of any schedule, newest first."""
    statement = select(tables.firings).order_by(tables.firings.c.fired_s.desc()).limit(most)
    rows = store.database.read(lambda c: c.execute(statement).mappings().all())
    return [Firing(**row) for row in rows]
