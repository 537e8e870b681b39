"""Gives the disk of deleted rows back while others go on writing: `moescope db vacuum`."""

import time
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy import (
    Connection,
    Executable,
    Select,
    delete,
    func,
    inspect,
    select,
    text,
    tuple_,
)

from . import tables
from .engines import PATIENCE_S, Database
from .errors import MoescopeError
from .migrate import AUTO_VACUUM, PAGE_BYTES, checked_version, set_up_file, set_up_of

_WAIT_FOR_A_MOMENT_S = 10.0
_ROWS_AT_ONCE = 2000
ALL_TABLES = [*tables.metadata.tables, tables.VERSION_TABLE]


@dataclass(frozen=True, slots=True)
class Vacuumed:
    store: str
    """Its address, without the password."""
    bytes_before: int
    bytes_after: int
    """On disk, SQLite's write-ahead log included."""


def store_bytes(connection: Connection) -> int:
    """What our tables take on disk, with their indexes; of SQLite the file without its log."""
    if connection.dialect.name == "sqlite":
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        return int(pages * connection.exec_driver_sql("PRAGMA page_size").scalar_one())
    there = set(inspect(connection).get_table_names())
    sizes = [func.pg_total_relation_size(_quoted(name)) for name in ALL_TABLES if name in there]
    return sum(int(connection.scalar(select(size)) or 0) for size in sizes)


def vacuum_store(url: str, *, is_full: bool = False, patience_s: float = PATIENCE_S) -> Vacuumed:
    """Deletes samples of runs that are gone and gives free pages back: SQLite in bites, PostgreSQL
    by VACUUM (ANALYZE) of our tables, beside whoever writes.

    is_full: rewrites the store whole, which takes its size in free disk and holds all writers up
    meanwhile; trainers bridge that by their journals. Raises MoescopeError where the store is
    empty, away, or, if its pages must change, in use.
    """
    database = Database(url, patience_s)
    try:
        if not checked_version(database):
            raise MoescopeError(f"store {database.shown} is empty: there is nothing to give back")
        before = _size(database)
        _delete_lost(database)
        if database.is_embedded:
            if is_full:
                _rewrite(database)
            else:
                database.give_back_disk()
            _shorten(database)
        else:
            how = "FULL, ANALYZE" if is_full else "ANALYZE"
            there = database.read(lambda c: set(inspect(c).get_table_names()))
            for name in ALL_TABLES:
                if name in there:
                    statement = text(f"VACUUM ({how}) {_quoted(name)}")
                    database.maintain(lambda c, statement=statement: c.execute(statement))  # type: ignore[misc]
        return Vacuumed(database.shown, before, _size(database))
    finally:
        database.close()


def _delete_lost(database: Database) -> None:
    """Deletes samples whose run is gone, in bites. A number is never given to a second run, and a
    run is there before its samples are.
    """
    there = database.read(lambda c: set(inspect(c).get_table_names()))
    for table in tables.metadata.sorted_tables:
        if "run_number" not in table.c or table.name not in there:
            continue
        key = list(table.primary_key)
        lost = select(*key).where(table.c.run_number.not_in(select(tables.runs.c.number)))
        some = delete(table).where(tuple_(*key).in_(lost.limit(_ROWS_AT_ONCE)))
        # a look costs nobody anything, while deleting needs the writer's turn
        while database.read(partial(_is_any, rows=lost)):
            database.write(partial(_execute, statement=some))


def _is_any(connection: Connection, rows: Select[Any]) -> bool:
    return connection.execute(rows.limit(1)).first() is not None


def _execute(connection: Connection, statement: Executable) -> None:
    connection.execute(statement)


def _shorten(database: Database) -> None:
    """The file itself becomes shorter when its write-ahead log is written back; a moment without
    readers and writers comes soon.
    """
    until_s = time.monotonic() + _WAIT_FOR_A_MOMENT_S
    while not database.cut_wal() and time.monotonic() < until_s:
        time.sleep(0.05)


def _size(database: Database) -> int:
    if database.file is not None:
        return database.file.stat().st_size + database.wal_bytes()
    return database.read(store_bytes)


def _rewrite(database: Database) -> None:
    """VACUUM; a file whose pages or modes are not ours becomes what a new one would be."""

    def work(connection: Connection) -> None:
        ours = {"page_size": PAGE_BYTES, "journal_mode": "wal", "auto_vacuum": AUTO_VACUUM}
        is_ours = set_up_of(connection) == ours
        if not is_ours:
            # the size of pages is fixed while there is a write-ahead log
            connection.exec_driver_sql("PRAGMA journal_mode = DELETE").all()
            set_up_file(connection)
        connection.exec_driver_sql("VACUUM")
        connection.exec_driver_sql("PRAGMA journal_mode = WAL").all()

    database.maintain(work)


def _quoted(name: str) -> str:
    assert name.isidentifier(), name
    return f'"{name}"'
