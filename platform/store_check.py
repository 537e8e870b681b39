"""Whether a store is sound: `moescope db check`. Reads all of it, in a transaction for each
question, and changes nothing.

What is asked of both kinds: the version, the tables with their columns and indexes, rows whose run
or name is gone, packed numbers that do not fit. SQLite besides checks its pages and foreign keys
itself, and was set up with pages of 16 KiB and a write-ahead log, which cannot be had later.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Table,
    case,
    func,
    inspect,
    select,
    tuple_,
)

from . import tables
from .compacted.buckets import is_rollup
from .compacted.codec import decode
from .engines import WAL_BYTES, Database
from .errors import MoescopeError
from .migrate import AUTO_VACUUM, PAGE_BYTES, checked_version, set_up_of, versions
from .packing import BETWEEN_NAMES, FLOAT
from .upkeep import store_bytes

_MOST_TOLD = 3
_RESTORE = "restore a backup (`moescope db backup` makes one), or export what can still be read"
# what a column of this name points at; small integers have no foreign keys, which would cost each
# row a look-up
_POINTS_AT = {
    "run_number": tables.runs.c.number,
    "signal_id": tables.signals.c.id,
    "group_id": tables.groups.c.id,
    "layout_id": tables.layouts.c.id,
    "run_id": tables.runs.c.id,
}


@dataclass(frozen=True, slots=True)
class Fault:
    what: str
    todo: str


@dataclass(frozen=True, slots=True)
class StoreReport:
    store: str
    """Its address, without the password."""
    version: str
    num_bytes: int
    wal_bytes: int
    """Part of it; 0 in PostgreSQL."""
    rows: dict[str, int]
    """{table: how many}"""
    faults: tuple[Fault, ...]


def check_store(url: str) -> StoreReport:
    """Looks at all of a store. Raises MoescopeError where it cannot be read at all, is empty, or is
    newer than this program or somebody else's.
    """
    database = Database(url)
    try:
        version = checked_version(database)
        if not version:
            raise MoescopeError(f"store {database.shown} is empty: there is nothing to check")
        faults = [*_set_up(database), *_pages(database)]
        if version != versions()[-1]:
            what = f"it is at version {version}, this program needs {versions()[-1]}"
            faults.append(Fault(what, "run `moescope db upgrade`"))
        shape = list(database.read(_shape)) if version == versions()[-1] else []
        faults += shape
        there = database.read(lambda c: set(inspect(c).get_table_names()))
        known = [table for table in tables.metadata.sorted_tables if table.name in there]
        rows = {table.name: database.read(partial(_count, rows=table)) for table in known}
        if version == versions()[-1] and not shape:
            for table in known:
                faults += _orphans(database, table)
            faults += _misfits(database)
        size = database.read(store_bytes)
        wal = database.wal_bytes()
    finally:
        database.close()
    return StoreReport(database.shown, version, size + wal, wal, rows, tuple(faults))


def _set_up(database: Database) -> Iterator[Fault]:
    if not database.is_embedded:
        return
    found = database.read(set_up_of)
    anew = "run `moescope db vacuum --full` while nothing else uses the store"
    if found["page_size"] != PAGE_BYTES:
        what = f"its pages have {found['page_size']} bytes, expected {PAGE_BYTES}"
        yield Fault(f"{what}: layers of many experts take several times their room", anew)
    if found["journal_mode"] != "wal":
        what = f"its journal mode is {found['journal_mode']}, expected wal"
        yield Fault(f"{what}: readers and writers wait for each other", anew)
    if found["auto_vacuum"] != AUTO_VACUUM:
        yield Fault("it does not give back the disk of what is deleted", anew)
    if database.wal_bytes() > 2 * WAL_BYTES:
        what = f"its write-ahead log has {database.wal_bytes() / 2**20:.0f} MiB"
        yield Fault(
            f"{what}: something reads for very long", "end it; the next writer cuts the log"
        )


def _pages(database: Database) -> Iterator[Fault]:
    if not database.is_embedded:
        return
    told = database.read(lambda c: c.exec_driver_sql("PRAGMA integrity_check(10)").scalars().all())
    for line in [line for line in told if line != "ok"][:_MOST_TOLD]:
        yield Fault(f"its file is damaged: {' '.join(str(line).split())}", _RESTORE)
    broken = database.read(lambda c: c.exec_driver_sql("PRAGMA foreign_key_check").all())
    for name in sorted({str(row[0]) for row in broken}):
        count = sum(row[0] == name for row in broken)
        yield Fault(f"{count} rows of {name} point at something that is gone", _RESTORE)


def _shape(connection: Connection) -> list[Fault]:
    """What of our tables is missing or other than this program makes it."""
    found = inspect(connection)
    there = set(found.get_table_names())
    faults = []
    for table in tables.metadata.sorted_tables:
        if table.name not in there:
            faults.append(Fault(f"table {table.name} is missing", _RESTORE))
            continue
        columns = {column["name"] for column in found.get_columns(table.name)}
        missing = [column.name for column in table.columns if column.name not in columns]
        if missing:
            faults.append(Fault(f"table {table.name} lacks {', '.join(missing)}", _RESTORE))
        keys = found.get_pk_constraint(table.name)["constrained_columns"]
        if set(keys) != {column.name for column in table.primary_key}:
            faults.append(Fault(f"table {table.name} has the key ({', '.join(keys)})", _RESTORE))
        indexes = {index["name"] for index in found.get_indexes(table.name)}
        faults += [
            Fault(f"index {name} of table {table.name} is missing", _RESTORE)
            for name in sorted({str(index.name) for index in table.indexes} - indexes)
        ]
    return faults


def _count(connection: Connection, rows: Table, wanted: ColumnElement[bool] | None = None) -> int:
    statement = select(func.count()).select_from(rows)
    return int(connection.scalar(statement if wanted is None else statement.where(wanted)) or 0)


def _orphans(database: Database, table: Table) -> Iterator[Fault]:
    """Rows whose run, signal, group or layout is gone."""
    for column in table.columns:
        owner = _POINTS_AT.get(column.name)
        # trials name a run before there is one, and rules of all runs have none
        is_bound = column.name != "run_id" or bool(column.foreign_keys)
        if owner is None or owner.table is table or not is_bound:
            continue
        if database.is_embedded and column.foreign_keys:
            continue  # told by the foreign keys
        count = database.read(partial(_num_lost, column=column, owner=owner))
        if count:
            what = f"{count} rows of {table.name} belong to a {owner.table.name[:-1]} that is gone"
            is_of_run = column.name == "run_number"
            yield Fault(
                what, "run `moescope db vacuum`, which deletes them" if is_of_run else _RESTORE
            )


def _num_lost(connection: Connection, column: Column[int], owner: Column[int]) -> int:
    # the few values first: looking each of a million rows up would take minutes
    values = select(column.label("value"), func.count().label("count")).group_by(column).subquery()
    is_known = select(owner).where(owner == values.c.value).exists()
    statement = select(func.coalesce(func.sum(values.c.count), 0)).where(~is_known)
    return int(connection.scalar(statement) or 0)


def _misfits(database: Database) -> Iterator[Fault]:
    """Packed numbers that are cut off, or more or fewer than their layout has names."""
    vector, scalar, layout = tables.vector_rows.c, tables.scalar_rows.c, tables.layouts.c
    is_cut = func.length(vector.data) % FLOAT.itemsize != 0
    num_breaks = func.length(layout.name) - func.length(
        func.replace(layout.name, BETWEEN_NAMES, "")
    )
    num_names = case((layout.name == "", 0), else_=num_breaks + 1)
    has_name = select(layout.id).where(
        layout.id == scalar.layout_id,
        func.length(scalar.data) == FLOAT.itemsize * num_names,
    )
    yield from _unreadable(database)
    for rows, wanted in ((tables.vector_rows, is_cut), (tables.scalar_rows, ~has_name.exists())):
        count = database.read(partial(_count, rows=rows, wanted=wanted))
        if count:
            yield Fault(f"{count} rows of {rows.name} hold numbers that do not fit", _RESTORE)


def _unreadable(database: Database) -> Iterator[Fault]:
    """Chunks and roll-ups that cannot be read."""
    for table in (tables.chunks, tables.chunk_steps, tables.rollups):
        count, after = 0, None
        while True:
            rows = database.read(partial(_some, table=table, after=after))
            if not rows:
                break
            after = tuple(rows[-1][:-1])
            count += sum(not _is_readable(table, row) for row in rows)
        if count:
            yield Fault(f"{count} rows of {table.name} cannot be read", _RESTORE)


def _some(connection: Connection, table: Table, after: tuple[Any, ...] | None) -> Sequence[Any]:
    key = list(table.primary_key)
    statement = select(*key, table.c.data).order_by(*key).limit(256)
    if after is not None:
        statement = statement.where(tuple_(*key) > after)
    return connection.execute(statement).all()


def _is_readable(table: Table, row: Any) -> bool:
    if table is tables.rollups:
        return is_rollup(row.data)
    try:
        decode(row.data, row.window)
    except ValueError:
        return False
    return True


def told(report: StoreReport) -> Sequence[str]:
    """The report in a few lines for a person."""
    state = "sound" if not report.faults else f"{len(report.faults)} faults"
    wal = f", of which {report.wal_bytes / 2**20:.1f} in the write-ahead log"
    filled = ", ".join(f"{name} {count:,}" for name, count in report.rows.items() if count)
    return [
        f"{report.store}: version {report.version}, {state}",
        f"{report.num_bytes / 2**20:.1f} MiB{wal if report.wal_bytes else ''}",
        f"rows: {filled or 'none'}",
        *(f"fault: {fault.what}; {fault.todo}" for fault in report.faults),
    ]
