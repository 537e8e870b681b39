"""Trials that a person has skipped: their study may go on asking for them, nobody trains them.

A trial and those that branch off it go together, since a branch waits for its trunk for ever.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, and_, or_, select, update

from . import tables
from .records import Trial
from .store import Store
from .trials import SKIPPED

_trial = tables.trials.c


def skip(store: Store, name: str, key: str, who: str) -> int:
    """Takes a trial that waits or has failed out of its study, with its branches; what they found
    is kept. Returns how many are skipped: 0 where it runs, or is done, meanwhile."""

    def work(connection: Connection) -> int:
        is_idle = and_(
            _trial.study == name, _trial.is_wanted, _trial.state.in_(("waiting", "failed"))
        )
        of_it = select(_trial.key, _trial.result).where(
            is_idle, or_(_trial.key == key, _trial.trunk == key)
        )
        rows = connection.execute(of_it.with_for_update()).all()
        if key not in {row.key for row in rows}:
            return 0
        for row in rows:
            _change(connection, name, row.key, False, {**row.result, SKIPPED: who})
        return len(rows)

    return store.database.write(work, is_durable=True)


def unskip(store: Store, name: str, key: str) -> int:
    """Brings a skipped trial back, with its branches and the trunk that it needs; returns how
    many."""
    trunk = select(_trial.trunk).where(_trial.study == name, _trial.key == key).scalar_subquery()

    def work(connection: Connection) -> int:
        of_it = select(_trial.key, _trial.result).where(
            _trial.study == name,
            ~_trial.is_wanted,
            or_(_trial.key == key, _trial.trunk == key, _trial.key == trunk),
        )
        rows = [row for row in connection.execute(of_it).all() if SKIPPED in row.result]
        for row in rows:
            result = {name: value for name, value in row.result.items() if name != SKIPPED}
            _change(connection, name, row.key, True, result)
        return len(rows)

    return store.database.write(work, is_durable=True)


def skipped(store: Store, name: str) -> list[Trial]:
    """The trials that a person has skipped, in the order of the study's plan."""
    statement = select(tables.trials).where(_trial.study == name, ~_trial.is_wanted)
    rows: Sequence[Any] = store.database.read(
        lambda c: c.execute(statement.order_by(_trial.position)).mappings().all()
    )
    return [trial for trial in (Trial(**row) for row in rows) if SKIPPED in trial.result]


def _change(
    connection: Connection, name: str, key: str, is_wanted: bool, result: dict[str, Any]
) -> None:
    mine = and_(_trial.study == name, _trial.key == key)
    changed = {"is_wanted": is_wanted, "result": result}
    connection.execute(update(tables.trials).where(mine).values(changed))
