"""Upserts many rows of integers, floats and bytes: the one place where the driver is spoken to
directly, since a row costs a microsecond there and ten above it.

SQLite: one prepared statement for all rows. PostgreSQL: binary COPY, which knows no conflicts;
where there is one, into a table of the connection's own, and an upsert from there (facts:
tracking.md 5.2).
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

from psycopg.errors import UniqueViolation
from sqlalchemy import BigInteger, Connection, Double, Integer, LargeBinary, Table

from .upserts import for_sqlite, replace

# of the columns' types, most special first
_POSTGRES = {BigInteger: "int8", Integer: "int4", Double: "float8", LargeBinary: "bytea"}


def write_rows(
    connection: Connection, table: Table, columns: tuple[str, ...], rows: Sequence[tuple[Any, ...]]
) -> None:
    """Writes rows of these columns; one whose key is taken replaces it. No two of them may share a
    key."""
    if not rows:
        return
    if connection.dialect.name == "postgresql":
        _write_postgres(connection, table, columns, rows)
    else:
        statement, places = for_sqlite(replace("sqlite", table, columns), columns)
        assert places == columns, (places, columns)
        # in the order of the key: neighbours fill a page, and are quicker to place
        connection.exec_driver_sql(statement, sorted(rows))


@cache
def _copy_into(name: str, columns: tuple[str, ...]) -> str:
    names = ", ".join(f'"{column}"' for column in columns)
    return f"COPY {name} ({names}) FROM STDIN (FORMAT BINARY)"


@cache
def _upsert_of_postgres(table: Table, columns: tuple[str, ...]) -> tuple[str, str, str]:
    """Makes a table of the connection's own, upserts from it, empties it."""
    keys = [column.name for column in table.primary_key]
    names = ", ".join(f'"{name}"' for name in columns)
    key = ", ".join(f'"{name}"' for name in keys)
    new = ", ".join(f'"{name}" = excluded."{name}"' for name in columns if name not in keys)
    own = f"new_{table.name}"
    on_conflict = f"ON CONFLICT ({key}) DO UPDATE SET {new}"
    return (
        f"CREATE TEMP TABLE IF NOT EXISTS {own} (LIKE {table.name}) ON COMMIT DELETE ROWS",
        f"INSERT INTO {table.name} ({names}) SELECT {names} FROM {own} {on_conflict}",
        f"TRUNCATE {own}",
    )


def _write_postgres(
    connection: Connection, table: Table, columns: tuple[str, ...], rows: Sequence[tuple[Any, ...]]
) -> None:
    driver = connection.connection.driver_connection
    assert driver is not None
    types = [_type_of(table.c[name].type) for name in columns]

    def copy_into(name: str) -> None:
        with cursor.copy(_copy_into(name, columns)) as copy:
            copy.set_types(types)
            for row in rows:
                copy.write_row(row)

    with driver.cursor() as cursor:
        try:
            with driver.transaction():  # a savepoint
                copy_into(table.name)
        except UniqueViolation:  # a replay: some of it is there
            make, upsert, empty = _upsert_of_postgres(table, columns)
            cursor.execute(make)
            copy_into(f"new_{table.name}")
            cursor.execute(upsert)
            cursor.execute(empty)


def _type_of(kind: object) -> str:
    return next(name for one, name in _POSTGRES.items() if isinstance(kind, one))
