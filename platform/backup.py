"""Copies a store to a file while others go on writing to it."""

import os
import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

from sqlalchemy import text

from . import tables
from .engines import Database
from .errors import MoescopeError
from .migrate import checked_version


def backup_store(url: str, to: Path) -> None:
    """Writes one consistent state of the store to a new file: a SQLite file, or pg_dump's archive
    for `pg_restore`.

    Raises MoescopeError where the file exists or cannot be written, the store is away, or pg_dump
    is not here.
    """
    if to.exists():
        raise MoescopeError(f"backup {to} exists already: choose another name")
    if not to.absolute().parent.is_dir():
        raise MoescopeError(f"backup {to}: its folder does not exist")
    part = to.with_name(f".{to.name}.part-{os.getpid()}")
    database = Database(url)
    try:
        if not checked_version(database):
            raise MoescopeError(f"store {database.shown} is empty: there is nothing to back up")
        if database.is_embedded:
            _copy_file(database, part)
        else:
            _dump(database, part)
        # never over a file that appeared meanwhile
        os.link(part, to)
    except (OSError, sqlite3.Error) as error:
        raise MoescopeError(f"backup {to} cannot be written ({error})") from None
    finally:
        database.close()
        part.unlink(missing_ok=True)


def _copy_file(database: Database, part: Path) -> None:
    # all pages in one go are one snapshot; in bites, every write meanwhile would start it anew
    assert database.file is not None
    with closing(sqlite3.connect(database.file)) as source, closing(sqlite3.connect(part)) as copy:
        source.backup(copy)
        (verdict,) = copy.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise MoescopeError(f"store {database.shown} is damaged ({verdict})")


def _dump(database: Database, part: Path) -> None:
    if shutil.which("pg_dump") is None:
        raise MoescopeError(
            f"store {database.shown} needs pg_dump for a backup: "
            "install PostgreSQL's client programs"
        )
    schema = database.read(lambda c: c.scalar(text("SELECT current_schema()")))
    names = [*tables.metadata.tables, tables.VERSION_TABLE]
    command = ["pg_dump", "--format=custom", "--no-owner", f"--file={part}"]
    command += [f'--table="{schema}"."{name}"' for name in names]
    url = database.url
    # in the environment, since every user of the machine can read a command line
    given = {
        "PGHOST": url.host,
        "PGPORT": url.port,
        "PGUSER": url.username,
        "PGPASSWORD": url.password,
        "PGDATABASE": url.database,
        "PGOPTIONS": url.query.get("options"),
        "PGSSLMODE": url.query.get("sslmode"),
        "PGSSLROOTCERT": url.query.get("sslrootcert"),
    }
    environment = {**os.environ, **{key: str(value) for key, value in given.items() if value}}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        why = " ".join(done.stderr.split())
        raise MoescopeError(f"store {database.shown} cannot be backed up ({why})")
