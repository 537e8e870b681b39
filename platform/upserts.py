"""INSERT ... ON CONFLICT, which SQLite and PostgreSQL share: writing the same record twice
changes nothing.
"""

from dataclasses import fields
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Table, case
from sqlalchemy.dialects import postgresql, sqlite

Insert = postgresql.Insert | sqlite.Insert


def insert_into(dialect: str, table: Table) -> Insert:
    return sqlite.insert(table) if dialect == "sqlite" else postgresql.insert(table)


@cache
def replace(dialect: str, table: Table, columns: tuple[str, ...]) -> Insert:
    """Inserts rows of these columns; where the primary key is taken, the row's other columns
    take the new values.
    """
    statement = insert_into(dialect, table)
    key = [column.name for column in table.primary_key]
    new = {name: statement.excluded[name] for name in columns if name not in key}
    return statement.on_conflict_do_update(index_elements=key, set_=new)


@cache
def for_sqlite(statement: Insert, columns: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """The statement as SQLite's driver takes it, and which column each of its places is for."""
    compiled = statement.compile(dialect=sqlite.dialect(), column_keys=list(columns))
    assert compiled.positiontup is not None
    return str(compiled), tuple(compiled.positiontup)


def larger(a: ColumnElement[Any], b: ColumnElement[Any]) -> ColumnElement[Any]:
    return case((a > b, a), else_=b)


def smaller(a: ColumnElement[Any], b: ColumnElement[Any]) -> ColumnElement[Any]:
    return case((a < b, a), else_=b)


def columns_of(record: Any) -> dict[str, Any]:
    """The fields of a record; the store's columns have the same names."""
    return {field.name: getattr(record, field.name) for field in fields(record)}
