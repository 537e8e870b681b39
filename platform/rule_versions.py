"""Versions of rules: what was changed of the table that every run starts with, by whom and when.

A rule of all runs has an empty run_id; one of a run goes before it. A version is never changed: the
newest of a (run, name) holds, and taking a rule away is a version without a body. What a body means
is the business of whoever reads it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, and_, func, insert, select
from sqlalchemy.exc import IntegrityError

from . import tables
from .errors import MoescopeError
from .records import RuleVersion
from .store import Store
from .upserts import columns_of

ALL_RUNS = ""
_MOST_TRIES = 5
_version = tables.rule_versions.c


@dataclass(frozen=True, slots=True)
class RuleChange:
    """A version that is yet to be written."""

    run_id: str
    name: str
    body: dict[str, Any]
    """Empty: the rule is taken away, and what lay below it holds again."""
    is_on: bool = True


def change(
    store: Store, changes: Sequence[RuleChange], changed_by: str, now_s: float
) -> list[RuleVersion]:
    """Writes the next version of each rule: all of them, or none where one cannot be written."""

    def work(connection: Connection) -> list[RuleVersion]:
        written = []
        for new in changes:
            mine = (_version.run_id == new.run_id, _version.name == new.name)
            last = connection.scalar(select(func.max(_version.version)).where(*mine)) or 0
            version = RuleVersion(
                new.run_id, new.name, last + 1, new.body, new.is_on, changed_by, now_s
            )
            connection.execute(insert(tables.rule_versions).values(columns_of(version)))
            written.append(version)
        return written

    for _ in range(_MOST_TRIES):
        try:
            return store.database.write(work, is_durable=True)
        except IntegrityError:  # somebody wrote the same version in between
            continue
    raise MoescopeError("rules are being changed by somebody else just now: try again")


def newest(store: Store, run_id: str = ALL_RUNS) -> list[RuleVersion]:
    """The newest version of each rule of all runs and, where one is given, of a run; those of all
    runs first."""
    last = (
        select(_version.run_id, _version.name, func.max(_version.version).label("version"))
        .where(_version.run_id.in_([ALL_RUNS, run_id]))
        .group_by(_version.run_id, _version.name)
        .subquery()
    )
    is_last = and_(
        _version.run_id == last.c.run_id,
        _version.name == last.c.name,
        _version.version == last.c.version,
    )
    statement = select(tables.rule_versions).join(last, is_last)
    rows = store.database.read(
        lambda c: c.execute(statement.order_by(_version.run_id, _version.name)).mappings().all()
    )
    return [RuleVersion(**row) for row in rows]


def history(store: Store, name: str) -> list[RuleVersion]:
    """All versions of a rule, of all runs and of single ones, newest first."""
    statement = select(tables.rule_versions).where(_version.name == name)
    statement = statement.order_by(_version.changed_s.desc(), _version.version.desc())
    rows = store.database.read(lambda c: c.execute(statement).mappings().all())
    return [RuleVersion(**row) for row in rows]
