"""How large a store is, and what takes the room: what the dashboard's page of the system tells.

In short transactions, and never all of a large store: what would take long to count is left open,
and `moescope db check` counts it.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy import Connection, bindparam, case, column, func, inspect, select, table

from . import tables
from .engines import Database, StoreAway
from .migrate import checked_version
from .store import Store
from .upkeep import store_bytes

MOST_SCANNED_BYTES = 512 * 2**20
"""Of an embedded store whose tables are looked through: about a second."""
MOST_ROWS = 200_000
"""Rows of a run in one table that are added up; of more the rest is not."""
_dbstat = table("dbstat", *(column(n) for n in ("name", "pgsize", "ncell", "aggregate")))
_pg_class = table("pg_class", *(column(n) for n in ("oid", "relname", "reltuples", "relkind")))


@dataclass(frozen=True, slots=True)
class StoreSize:
    shown: str
    """The store's address, without the password."""
    engine: str
    """SQLite or PostgreSQL, with its version."""
    version: str
    """Of the tables."""
    num_bytes: int | None
    """On disk, SQLite's write-ahead log included; None where the server does not tell."""
    wal_bytes: int
    database_bytes: int | None
    """Of the whole PostgreSQL database, whoever's tables; None where the user may not ask."""
    free_bytes: int | None
    """Left on the disk of an embedded store."""


@dataclass(frozen=True, slots=True)
class TableSize:
    name: str
    num_rows: int | None
    """None where it is not known without counting."""
    num_bytes: int | None


@dataclass(frozen=True, slots=True)
class RunSize:
    run_id: str
    name: str
    num_steps: int
    """Of all segments."""
    num_bytes: int
    """Of the packed numbers, without what a table adds to each row."""
    is_more: bool
    """Whether it has rows beyond those that were added up."""


def store_size(store: Store) -> StoreSize:
    """Raises MoescopeError while the store is away."""
    database = store.database
    wal = database.wal_bytes()
    return StoreSize(
        database.shown,
        _engine(database),
        checked_version(database),
        _asked(database, store_bytes, wal),
        wal,
        None if database.is_embedded else _asked(database, _of_database),
        None if database.file is None else _free(database),
    )


def table_sizes(store: Store) -> list[TableSize]:
    """The tables, largest first. PostgreSQL's rows are as its statistics have them."""
    database = store.database
    there = database.read(lambda c: set(inspect(c).get_table_names()))
    known = [name for name in tables.metadata.tables if name in there]
    if database.is_embedded:
        is_small = database.read(store_bytes) <= MOST_SCANNED_BYTES
        read = partial(_of_sqlite, database) if is_small else _unknown
        found = [read(name) for name in known]
    else:
        found = database.read(partial(_of_postgres, known=known))
    return sorted(found, key=lambda one: (-(one.num_bytes or 0), -(one.num_rows or 0), one.name))


def largest_runs(store: Store, most: int = 8) -> list[RunSize]:
    """The runs that take most, largest first. Of those that look largest by steps and rows of
    their spans the bytes are added up, twice as many as are told.
    """
    span, run = tables.spans.c, tables.runs.c
    steps = span.last_step - span.first_step + 1
    guess = func.sum(steps * case((span.num_rows > 0, span.num_rows), else_=1))
    statement = (
        select(run.number, run.id, run.name, guess.label("guess"))
        .join(tables.runs, run.number == span.run_number)
        .group_by(run.number, run.id, run.name)
        .order_by(guess.desc(), run.number)
        .limit(2 * most)
    )
    rows = store.database.read(lambda c: c.execute(statement).all())
    found = [_of_run(store.database, *row[:3]) for row in rows]
    return sorted(found, key=lambda one: -one.num_bytes)[:most]


def _of_run(database: Database, number: int, run_id: str, name: str) -> RunSize:
    num_bytes, is_more = 0, False
    for one in (tables.vector_rows, tables.scalar_rows, tables.chunks, tables.rollups):
        mine = select(one.c.data).where(one.c.run_number == number).limit(MOST_ROWS).subquery()
        size = func.coalesce(func.sum(func.length(mine.c.data)), 0)
        statement = select(func.count(), size).select_from(mine)
        count, some = database.read(lambda c, ask=statement: tuple(c.execute(ask).one()))  # type: ignore[misc]
        num_bytes += int(some)
        is_more |= count == MOST_ROWS
    return RunSize(run_id, name, _num_steps(database, number), num_bytes, is_more)


def _num_steps(database: Database, number: int) -> int:
    """Steps from the first to the last of each segment."""
    span = tables.spans.c
    ends = (
        select(func.max(span.last_step) - func.min(span.first_step) + 1)
        .where(span.run_number == number)
        .group_by(span.segment)
    )
    return sum(database.read(lambda c: c.scalars(ends).all()))


def _asked(database: Database, work: Any, more: int = 0) -> int | None:
    """A size that a server may keep from this user."""
    try:
        return int(database.read(work)) + more
    except StoreAway:
        if database.is_embedded:
            raise
        database.read(lambda c: c.scalar(select(1)))  # away altogether is another thing
        return None


def _engine(database: Database) -> str:
    if database.is_embedded:
        return f"SQLite {database.read(lambda c: c.scalar(select(func.sqlite_version())))}"
    said = str(database.read(lambda c: c.scalar(select(func.current_setting("server_version")))))
    return f"PostgreSQL {said.split()[0]}"


def _of_database(connection: Connection) -> int:
    return int(connection.scalar(select(func.pg_database_size(func.current_database()))) or 0)


def _free(database: Database) -> int | None:
    assert database.file is not None
    try:
        return shutil.disk_usage(database.file.parent).free
    except OSError:
        return None


def _unknown(name: str) -> TableSize:
    return TableSize(name, None, None)


def _of_sqlite(database: Database, name: str) -> TableSize:
    """Rows and pages of a table with its indexes, by SQLite's own statistics where it has them."""
    try:
        return database.read(partial(_of_pages, name=name))
    except StoreAway:
        return TableSize(name, database.read(partial(_num_rows, name=name)), None)


def _of_pages(connection: Connection, name: str) -> TableSize:
    statement = select(_dbstat.c.pgsize, _dbstat.c.ncell).where(
        _dbstat.c.name == bindparam("name"), _dbstat.c.aggregate == 1
    )
    num_bytes, num_cells = connection.execute(statement, {"name": name}).one()
    for index in inspect(connection).get_indexes(name):
        num_bytes += connection.execute(statement, {"name": index["name"]}).one()[0]
    # a cell is a row only where there is no rowid; such tables are the large ones
    is_exact = tables.metadata.tables[name] in tables.OF_SAMPLES
    num_rows = num_cells if is_exact else _num_rows(connection, name)
    return TableSize(name, int(num_rows), int(num_bytes))


def _num_rows(connection: Connection, name: str) -> int:
    count = select(func.count()).select_from(tables.metadata.tables[name])
    return int(connection.scalar(count) or 0)


def _of_postgres(connection: Connection, known: Sequence[str]) -> list[TableSize]:
    is_ours = _pg_class.c.oid.in_([func.to_regclass(f'"{name}"') for name in known])
    size = func.pg_total_relation_size(_pg_class.c.oid)
    statement = select(_pg_class.c.relname, _pg_class.c.reltuples, size).where(is_ours)
    return [
        # -1: nobody has looked through it yet
        TableSize(name, int(rows) if rows >= 0 else None, int(num_bytes))
        for name, rows, num_bytes in connection.execute(statement)
    ]
