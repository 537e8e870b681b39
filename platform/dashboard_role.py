"""The dashboard's own role in PostgreSQL: it reads all, and writes only what `asks.py` owns.

`moescope db grant-dashboard ROLE` gives a role these rights, and `moescope up` does by itself where
MOESCOPE_DASHBOARD_STORE names another user than the store's. What the role may write is one list,
`ADDS`, `CHANGES` and `REMOVES` below; whatever else it was granted on moescope's tables before is
taken back.
"""

from sqlalchemy import Connection, Table, text

from . import tables
from .engines import Database, parsed_url, shown_url
from .errors import MoescopeError
from .migrate import checked_version, versions

ADDS = (tables.commands, tables.rule_versions, tables.deeds, tables.views)
"""Tables to which it adds rows: with the next two, all that `dashboard/asks.py` writes."""
CHANGES: dict[Table, tuple[str, ...]] = {
    tables.alerts: (
        *("state", "changed_by", "changed_s"),
        *("silenced_until_s", "delivered_s", "num_deliveries"),
    ),
    tables.studies: ("state",),
    tables.trials: ("state", "num_failures", "not_before_s", "result", "is_wanted"),
    tables.runs: ("note", "tags", "is_archived"),
    tables.deeds: ("outcome",),
    tables.views: ("query", "saved_by", "saved_s"),
}
"""{table: columns} of rows that it changes."""
REMOVES = (tables.views,)
"""Tables from which it removes rows; of what was measured, judged or done it removes none."""


def grant_dashboard(url: str, role: str) -> list[str]:
    """Gives a role the dashboard's rights and returns the statements. As the tables' owner.

    Raises MoescopeError where there is no such role, the user may not grant, or the role can write
    more than this by other means: as a superuser, as the owner, by a role that it is a member of.
    """
    database = _server(url)
    try:
        _refuse_another_version(database)
        return database.write(lambda c: _grant(c, role), is_durable=True)
    finally:
        database.close()


def grants_in_words(url: str, role: str) -> list[str]:
    """The statements that `grant_dashboard` would execute, for who looks after the server."""
    database = _server(url)
    try:
        _refuse_another_version(database)
        return database.read(lambda c: _statements(c, role))
    finally:
        database.close()


def role_of(store_url: str, dashboard_url: str) -> str:
    """The user of the dashboard's address, where it is a role of its own on the store's server;
    else an empty text."""
    if not dashboard_url:
        return ""
    store, dashboard = parsed_url(store_url), parsed_url(dashboard_url)
    if "sqlite" in (store.get_backend_name(), dashboard.get_backend_name()):
        return ""
    of_dashboard = dashboard.username or ""
    return "" if of_dashboard == (store.username or "") else of_dashboard


def _server(url: str) -> Database:
    parsed = parsed_url(url)
    if parsed.get_backend_name() == "sqlite":
        raise MoescopeError(
            f"store {shown_url(parsed)} is a file, which knows no roles: rights of its own are for "
            "a store in PostgreSQL"
        )
    return Database(url)


def _refuse_another_version(database: Database) -> None:
    found, newest = checked_version(database), versions()[-1]
    if found != newest:
        is_at = f"at version {found}" if found else "empty"
        raise MoescopeError(
            f"store {database.shown} is {is_at}, this program needs {newest}: "
            "run `moescope db upgrade`"
        )


def _grant(connection: Connection, role: str) -> list[str]:
    is_there = text("SELECT count(*) FROM pg_roles WHERE rolname = :role")
    if not connection.scalar(is_there, {"role": role}):
        raise MoescopeError(
            f"there is no role {role} on this server: make it with "
            f"CREATE ROLE {_quoted(connection, role)} LOGIN PASSWORD '...'"
        )
    statements = _statements(connection, role)
    for statement in statements:
        connection.exec_driver_sql(statement)
    if too_much := _too_much(connection, role):
        raise MoescopeError(
            f"role {role} could still {too_much}, as a superuser, the owner of the tables or a "
            "member of another role: name a role of its own"
        )
    return statements


def _statements(connection: Connection, role: str) -> list[str]:
    schema = str(connection.scalar(text("SELECT current_schema()")))
    whom = _quoted(connection, role)

    def named(*wanted: str) -> str:
        return ", ".join(f"{_quoted(connection, schema)}.{_quoted(connection, t)}" for t in wanted)

    every = named(*tables.metadata.tables, tables.VERSION_TABLE)
    found = [
        f"GRANT USAGE ON SCHEMA {_quoted(connection, schema)} TO {whom}",
        f"REVOKE ALL ON {every} FROM {whom}",
        f"GRANT SELECT ON {every} TO {whom}",
        f"GRANT INSERT ON {named(*(t.name for t in ADDS))} TO {whom}",
    ]
    removed = named(*(t.name for t in REMOVES))
    found.append(f"GRANT DELETE ON {removed} TO {whom}")
    for table, columns in CHANGES.items():
        changed = ", ".join(_quoted(connection, column) for column in columns)
        found.append(f"GRANT UPDATE ({changed}) ON {named(table.name)} TO {whom}")
    return found


def _too_much(connection: Connection, role: str) -> str:
    """The first right that the role has beyond the list, in words."""
    schema = str(connection.scalar(text("SELECT current_schema()")))
    given = {
        "INSERT": {table.name for table in ADDS},
        "DELETE": {table.name for table in REMOVES},
    }
    changed = {table.name: columns for table, columns in CHANGES.items()}
    columns = {t.name: list(t.columns.keys()) for t in tables.metadata.sorted_tables}
    for name in (*columns, tables.VERSION_TABLE):
        where = f"{_quoted(connection, schema)}.{_quoted(connection, name)}"
        asked = {"role": role, "where": where}
        for right in connection.scalars(text(_RIGHTS), asked):
            if name not in given.get(str(right), ()):
                return f"{str(right).lower()} rows of {name}"
        asked_too = {**asked, "columns": columns.get(name, [])}
        for column in connection.scalars(text(_COLUMNS), asked_too):
            if column not in changed.get(name, ()):
                return f"change {column} of {name}"
    return ""


_RIGHTS = """SELECT has_it FROM unnest(ARRAY['INSERT', 'UPDATE', 'DELETE', 'TRUNCATE']) AS has_it
WHERE has_table_privilege(:role, :where, has_it)"""
_COLUMNS = """SELECT changed FROM unnest(CAST(:columns AS text[])) AS changed
WHERE has_column_privilege(:role, :where, changed, 'UPDATE')"""


def _quoted(connection: Connection, name: str) -> str:
    return connection.dialect.identifier_preparer.quote_identifier(name)
