"""Brings a store to the shape this program knows: an empty one always, an older one if it is
embedded or was asked for.

Upgrades run one at a time, under a lock: a file beside an embedded store, an advisory lock in
PostgreSQL. Each is one transaction, so a store is never left between two versions. The history is a
line: the files of `migrations/versions` begin with their version and sort in their order.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, inspect, text

from . import tables
from .engines import PATIENCE_S, Database, StoreAway
from .errors import MoescopeError
from .network_store import refuse_network_store

MIGRATIONS = Path(__file__).parent / "migrations"
# any constant: moescope's upgrades of one PostgreSQL server wait for each other
_POSTGRES_LOCK = 0x6D6F6573
PAGE_BYTES = 16384
"""Of a page of an embedded store. A row above a quarter of a page spills over in a WITHOUT ROWID
table, and 4 KiB pages would bloat every layer of more than about 245 experts (facts: tracking.md
5.1).
"""
AUTO_VACUUM = 2
"""Incremental: what is deleted is given back when somebody asks for it."""


def upgrade_store(url: str) -> tuple[str, str]:
    """Upgrades a store (`moescope db upgrade`); returns (version before, version now), "" being an
    empty store.

    Raises MoescopeError where the store is newer than this program, something else's, or cannot be
    written.
    """
    database = Database(url)
    try:
        if database.file is not None:
            refuse_network_store(database.file)
        return prepare(database, may_upgrade=True)
    finally:
        database.close()


def prepare(
    database: Database,
    *,
    may_upgrade: bool = False,
    may_make: bool = True,
    migrations: Path = MIGRATIONS,
) -> tuple[str, str]:
    """Makes a store ready for this program; returns (version before, version now).

    may_make: whether this process may make tables, or only use those that are there.
    """
    newest = versions(migrations)[-1]
    found = checked_version(database, migrations)
    if found == newest:
        # told now rather than at the first write
        database.write(lambda connection: None)
        return newest, newest
    if not found and not may_make:
        grant = "" if database.is_embedded else ", or `moescope db grant-dashboard` for this user"
        raise MoescopeError(
            f"store {database.shown} shows no tables: run `moescope db upgrade`{grant}"
        )
    if found and not (may_upgrade or (may_make and database.is_embedded)):
        raise MoescopeError(
            f"store {database.shown} is at version {found}, this program needs {newest}: "
            "run `moescope db upgrade`"
        )
    if database.file is not None:
        with _file_lock(database.file.with_name(database.file.name + ".lock")):
            if not database.file.exists() or database.file.stat().st_size == 0:
                _create_file(database)
            return _upgrade(database, migrations)
    return _upgrade(database, migrations)


def versions(migrations: Path = MIGRATIONS) -> list[str]:
    """All versions that this program knows, oldest first."""
    return sorted(path.name.split("_")[0] for path in (migrations / "versions").glob("[0-9]*.py"))


def checked_version(database: Database, migrations: Path = MIGRATIONS) -> str:
    """The version of the store, "" where it is empty. Refuses what is newer or not moescope's."""
    # unlike Path.exists, False where a folder above is closed to us
    if database.file is not None and not os.path.exists(database.file):
        return ""
    return database.read(lambda connection: _version(connection, database, migrations))


def _version(connection: Connection, database: Database, migrations: Path) -> str:
    there = set(inspect(connection).get_table_names())
    if tables.VERSION_TABLE not in there:
        # a shared server may hold other tables, a file of our own may not
        foreign = there if database.is_embedded else there & set(tables.metadata.tables)
        if foreign:
            raise MoescopeError(
                f"store {database.shown} holds the tables of something else "
                f"({', '.join(sorted(foreign)[:3])}): choose another file, database or schema"
            )
        return ""
    found = connection.scalar(text(f"SELECT version_num FROM {tables.VERSION_TABLE}"))
    known = versions(migrations)
    if found is not None and found not in known:
        raise MoescopeError(
            f"store {database.shown} is at version {found}, newer than this program, "
            f"which knows {known[-1]}: update moescope or choose another store"
        )
    return str(found or "")


def _upgrade(database: Database, migrations: Path) -> tuple[str, str]:
    def work(connection: Connection) -> tuple[str, str]:
        if not database.is_embedded:
            connection.execute(text(f"SELECT pg_advisory_xact_lock({_POSTGRES_LOCK})"))
        # another process may have been faster
        before = _version(connection, database, migrations)
        newest = versions(migrations)[-1]
        if before != newest:
            _run_alembic(connection, migrations)
        return before, newest

    return database.write(work, is_durable=True)


def _run_alembic(connection: Connection, migrations: Path) -> None:
    # here, since importing alembic takes longer than opening a store that is up to date
    from alembic import command
    from alembic.config import Config

    config = Config()
    # alembic expands percent signs of its options
    config.set_main_option("script_location", str(migrations).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    config.attributes["version_table"] = tables.VERSION_TABLE
    command.upgrade(config, "head")


def _create_file(database: Database) -> None:
    def work(connection: Connection) -> None:
        set_up_file(connection)
        connection.exec_driver_sql("PRAGMA journal_mode = WAL")

    database.maintain(work)


def set_up_file(connection: Connection) -> None:
    """Sets what a file can only be given before its first page, or by a VACUUM without a
    write-ahead log. Outside of a transaction.
    """
    connection.exec_driver_sql(f"PRAGMA page_size = {PAGE_BYTES}")
    connection.exec_driver_sql(f"PRAGMA auto_vacuum = {AUTO_VACUUM}")


def set_up_of(connection: Connection) -> dict[str, object]:
    """How an embedded store was set up: page_size, journal_mode, auto_vacuum."""
    names = ("page_size", "journal_mode", "auto_vacuum")
    return {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in names}


@contextmanager
def _file_lock(path: Path, patience_s: float = PATIENCE_S) -> Iterator[None]:
    give_up_s = time.monotonic() + patience_s
    try:
        file = path.open("a")
    except OSError as error:
        raise StoreAway(
            f"store {path.with_suffix('')} cannot be created ({error.strerror}): "
            "its folder must exist and be writable"
        ) from None
    with file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > give_up_s:
                    raise StoreAway(
                        f"store {path.with_suffix('')} is being upgraded by another process: "
                        "try again later"
                    ) from None
                time.sleep(0.05)
        yield
