"""One database behind a store address: connections, short transactions, patience with a busy one,
faults as one line.

SQLite: WAL, so readers and the one writer never wait for each other; a write begins with BEGIN
IMMEDIATE and so waits for its turn at the start, where waiting is safe. A busy database is asked
again until `patience_s` has passed. SQLite writes its WAL back by itself every 1,000 pages; where a
long read kept it from that until the file outgrew `WAL_BYTES`, whoever writes next does it.
"""

import os
import random
import re
import sqlite3
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event, exc, make_url, text

from .errors import MoescopeError

Answer = TypeVar("Answer")
PATIENCE_S = 20.0
WAL_BYTES = 64 * 2**20
"""Size of SQLite's write-ahead log from which on a writer cuts it between two transactions."""
_LOOK_AT_WAL_EVERY_S = 1.0
# waiting for readers holds all writers up, so it is given up at once and tried again
_CUT_WAITS_MS = 20
# of its own: side threads must not draw from the generator that a training draws from
_chance = random.Random()
_BUSY_SQLITE = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL}
# by itself PostgreSQL shows each statement the newest state, and what is moved between two tables
# meanwhile would be in neither; SQLite's transactions see one state anyway
_POSTGRES_LEVEL = {"read": "REPEATABLE READ", "maintain": "AUTOCOMMIT"}
# 40001 serialization failure, 40P01 deadlock, 55P03 lock not available
_BUSY_POSTGRES = {"40001", "40P01", "55P03"}
# 42501 no right, 3F000 no schema that the user may make tables in
_NO_RIGHT_POSTGRES = {"42501", "3F000"}


class StoreAway(MoescopeError):
    """The store cannot be used as it is: unreachable, locked, read-only, full, damaged. The call
    was right, nothing of it was half done, and it may succeed later.
    """


class UnknownRun(MoescopeError):
    """The record belongs to a run that is not in the store: never added, or deleted since.
    Trying again is of no use.
    """


def unknown_run(run_id: str) -> UnknownRun:
    return UnknownRun(f"run {run_id} is not in the store: it was deleted or never added")


class Database:
    """Any thread may call `read` and `write`; each call is a transaction of its own, repeated while
    the database is busy.

    `work` may therefore run more than once and must have no effect but on the connection it is
    given.
    """

    def __init__(self, url: str, patience_s: float = PATIENCE_S) -> None:
        self.url = parsed_url(url)
        self.is_embedded = self.url.get_backend_name() == "sqlite"
        self.file = Path(self.url.database or "") if self.is_embedded else None
        self.shown = shown_url(self.url)
        self.names: dict[tuple[str, str], int] = {}
        """{(table, name): id} as far as known here; ids are never reused, so it is only emptied
        with the database.
        """
        self.layouts: dict[int, list[str]] = {}
        """{layout id: names of its scalars}, likewise."""
        self.num_lost = 0
        """How often a server closed the connections. It may have crashed, and then what was written
        without is_durable just before is gone: see `bring_to_disk`.
        """
        self._patience_s = patience_s
        self._engine = _engine(self.url, patience_s)
        self.times_s: dict[str, deque[float]] = {
            purpose: deque(maxlen=4096) for purpose in ("read", "write", "durable", "maintain")
        }
        """{purpose: how long the newest transactions were open}, the waiting for their turn left
        out."""
        self._next_look_s = 0.0
        self._lock = Lock()
        self._process = os.getpid()
        self._inode: tuple[int, int] | None = None

    def read(self, work: Callable[[Connection], Answer]) -> Answer:
        """All questions of `work` are answered from one state of the store."""
        return self._attempt(work, "read")

    def write(self, work: Callable[[Connection], Answer], *, is_durable: bool = False) -> Answer:
        """Durable: on disk when it returns, also if the machine loses power a moment later."""
        answer = self._attempt(work, "durable" if is_durable else "write")
        if self.file is not None and time.monotonic() >= self._next_look_s:
            self._next_look_s = time.monotonic() + _LOOK_AT_WAL_EVERY_S
            if self.wal_bytes() > WAL_BYTES:
                with suppress(MoescopeError):  # the answer counts; the next writer cuts it
                    self.cut_wal()
        return answer

    def maintain(self, work: Callable[[Connection], Answer]) -> Answer:
        """For what works outside of a transaction only, such as VACUUM: each statement is one."""
        return self._attempt(work, "maintain")

    def wal_bytes(self) -> int:
        """Size of SQLite's write-ahead log; 0 where there is none."""
        if self.file is None:
            return 0
        try:
            return os.stat(f"{self.file}-wal").st_size
        except OSError:
            return 0

    def cut_wal(self) -> bool:
        """Writes SQLite's write-ahead log back and cuts it to nothing; False where a reader keeps
        it from that for now. Others go on writing but for the last moment.
        """

        def work(connection: Connection) -> bool:
            # the bulk of it without the writer's lock, so that the cut has little left to do
            connection.exec_driver_sql("PRAGMA wal_checkpoint(PASSIVE)").all()
            was = connection.exec_driver_sql("PRAGMA busy_timeout").scalar_one()
            connection.exec_driver_sql(f"PRAGMA busy_timeout = {_CUT_WAITS_MS}")
            try:
                cut = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()
            finally:
                connection.exec_driver_sql(f"PRAGMA busy_timeout = {was}")
            return not cut[0]

        return self.file is not None and self.maintain(work)

    def bring_to_disk(self, num_lost: int) -> None:
        """Makes durable what was written since `num_lost` was looked at. An embedded store's own
        machine keeps it (or loses power, and then the journal's end is lost too).

        Raises StoreAway where a server may have lost some of it: then all must be written again.
        """
        if self.is_embedded:
            return
        # a commit that waits for the disk brings all that was committed before it
        message = text("SELECT pg_logical_emit_message(true, 'moescope', '')")
        self.write(lambda c: c.execute(message), is_durable=True)
        if self.num_lost != num_lost:
            raise StoreAway(f"store {self.shown} broke off in the middle: it is written again")

    def give_back_disk(self) -> None:
        """Hands the pages of deleted rows back to the file system, in bites that hold nobody up."""
        if not self.is_embedded:
            return

        def bite(connection: Connection) -> int:
            driver = connection.connection.driver_connection
            assert driver is not None
            driver.execute("PRAGMA incremental_vacuum(256)").fetchall()  # a page per fetched row
            return int(connection.exec_driver_sql("PRAGMA freelist_count").scalar_one())

        left = self.write(bite)
        while left > 0 and (now_left := self.write(bite)) < left:
            left = now_left

    def close(self) -> None:
        self._engine.dispose()

    def _attempt(self, work: Callable[[Connection], Answer], purpose: str) -> Answer:
        give_up_s = time.monotonic() + self._patience_s
        pause_s = 0.005
        is_reconnected = False
        while True:
            try:
                self._mind_the_file()
                with self._engine.connect() as plain:
                    connection = plain.execution_options(moescope_purpose=purpose)
                    if purpose in _POSTGRES_LEVEL and not self.is_embedded:
                        connection = connection.execution_options(
                            isolation_level=_POSTGRES_LEVEL[purpose]
                        )
                    with connection.begin():
                        begun_s = time.monotonic()
                        answer = work(connection)
                    self.times_s[purpose].append(time.monotonic() - begun_s)
                    return answer
            except exc.IntegrityError:
                raise
            except exc.DBAPIError as error:
                # a server that restarted closed every pooled connection: once more with a new one
                is_lost = error.connection_invalidated and not is_reconnected
                if error.connection_invalidated:
                    self.num_lost += 1
                    # a crash may have taken those that were the last to be added
                    self.names.clear()
                    self.layouts.clear()
                is_reconnected = is_reconnected or is_lost
                if _sqlite_code(error) == sqlite3.SQLITE_READONLY:
                    # a connection that was opened read-only stays so after the file is mended
                    self._engine.dispose()
                if not (is_lost or _is_busy(error)) or time.monotonic() > give_up_s:
                    raise self._advice(error) from None
            except exc.TimeoutError:
                raise StoreAway(f"store {self.shown} has no free connection: try again") from None
            time.sleep(pause_s * (0.5 + _chance.random()))
            pause_s = min(2 * pause_s, 0.1)

    def _mind_the_file(self) -> None:
        """A connection goes on writing into a deleted file; those rows would be lost in silence."""
        if os.getpid() != self._process:  # forked: the parent keeps its connections
            self._engine.dispose(close=False)
            self._process = os.getpid()
        if self.file is None:
            return
        try:
            status = os.stat(self.file)
            inode = (status.st_dev, status.st_ino)
        except OSError as error:
            if self._inode is None:
                return  # not created yet; connecting says what is wrong with the path
            raise StoreAway(
                f"store {self.shown} is gone ({error.strerror}): put the file back"
            ) from None
        with self._lock:
            if self._inode not in (None, inode):
                self._engine.dispose()
                self.names.clear()
                self.layouts.clear()
            self._inode = inode

    def _advice(self, error: exc.DBAPIError) -> MoescopeError:
        why = " ".join(str(error.orig).split()) or type(error.orig).__name__
        if isinstance(error, exc.DataError):
            return MoescopeError(f"store {self.shown} cannot hold a value ({why})")
        if not self.is_embedded:
            if getattr(error.orig, "sqlstate", None) in _NO_RIGHT_POSTGRES:
                return StoreAway(
                    f"store {self.shown} refuses this user ({why}): "
                    "give it the right to use its tables, or name another user"
                )
            is_refused = "authentication failed" in why or "no password supplied" in why
            advice = (
                "are the user and the password right?"
                if is_refused
                else "is the server up and the address right?"
            )
            return StoreAway(f"store {self.shown} cannot be used ({why}): {advice}")
        code = _sqlite_code(error)
        if code == sqlite3.SQLITE_NOTADB:
            return StoreAway(f"store {self.shown} is not a SQLite database: choose another file")
        if code == sqlite3.SQLITE_CORRUPT:
            return StoreAway(
                f"store {self.shown} is damaged ({why}): restore a backup or choose another file"
            )
        if _is_busy(error):
            return StoreAway(
                f"store {self.shown} has been locked for {self._patience_s:g} s: "
                "end the process that holds it or choose another store"
            )
        if code == sqlite3.SQLITE_READONLY:
            return StoreAway(
                f"store {self.shown} cannot be written ({why}): "
                "give this user the right to write it and its folder, or choose another store"
            )
        if code == sqlite3.SQLITE_CANTOPEN:
            return StoreAway(
                f"store {self.shown} cannot be opened: its folder must exist and be writable"
            )
        if code == sqlite3.SQLITE_FULL:
            return StoreAway(f"store {self.shown} cannot grow ({why}): free some disk")
        return StoreAway(f"store {self.shown} cannot be used ({why})")


def parsed_url(text: str) -> URL:
    """Reads a store address. Raises MoescopeError for anything but sqlite:///FILE and
    postgresql://...
    """
    expected = "expected sqlite:///FILE or postgresql://USER@HOST/DATABASE"
    try:
        url = make_url(text)
    except (exc.ArgumentError, ValueError):
        shown = masked(text)
        raise MoescopeError(f"store address {shown!r} cannot be read: {expected}") from None
    shown = shown_url(url)
    if url.drivername == "sqlite":
        if not url.database or url.database == ":memory:" or url.host or url.query:
            raise MoescopeError(f"store address {shown} names no plain file: {expected}")
        return url
    if url.drivername in ("postgresql", "postgres", "postgresql+psycopg"):
        if not url.database:
            raise MoescopeError(f"store address {shown} names no database: {expected}")
        if "@" in (url.host or ""):
            # else the rest of the password would be told as the host that nobody finds
            raise MoescopeError(
                f"store address {shown} has an @ in the password: write it as %40 there"
            )
        return url.set(drivername="postgresql+psycopg")
    raise MoescopeError(f"store address {shown} has an unknown scheme: {expected}")


def shown_url(url: URL) -> str:
    """The address as a person wrote it, without the password."""
    return masked(url.render_as_string(hide_password=True).replace("+psycopg:", ":", 1))


def masked(address: str) -> str:
    """The address without its password, also where it is none that could be taken apart."""
    # up to the last @: a password that was not escaped may hold any character
    address = re.sub(r"(//[^:@/]*:|^[^:@/]*:(?!//)).*@", r"\1***@", address, flags=re.DOTALL)
    return re.sub(r"(password=)[^&\s]*", r"\1***", address, flags=re.IGNORECASE)


def _engine(url: URL, patience_s: float) -> Engine:
    busy_s = max(0.001, min(2.0, patience_s))
    if url.get_backend_name() == "sqlite":
        connect_args: dict[str, Any] = {"timeout": busy_s, "isolation_level": None}
        engine = create_engine(url, connect_args=connect_args, pool_size=4, max_overflow=60)
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    connect_args = {
        "connect_timeout": 5,
        "application_name": "moescope",
        # a database made where no language was set knows no letters (SQL_ASCII), and its text would
        # come back as bytes
        "client_encoding": "utf8",
        # a server that vanished without a word is noticed in about 25 s, not in hours
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 25_000,
    }
    engine = create_engine(url, connect_args=connect_args, pool_size=4, max_overflow=60)

    def set_up_postgres(connection: Any, _record: Any) -> None:
        connection.execute(f"SET lock_timeout = {int(1000 * busy_s)}")
        connection.commit()

    event.listen(engine, "connect", set_up_postgres)
    event.listen(engine, "begin", _begin_postgres)
    return engine


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA cache_size = -16000")
    connection.execute("PRAGMA journal_size_limit = 67108864")


def _begin_sqlite(connection: Connection) -> None:
    purpose = connection.get_execution_options().get("moescope_purpose", "read")
    if purpose == "maintain":
        return
    if purpose != "read":
        # synchronous cannot change inside a transaction
        connection.exec_driver_sql(
            f"PRAGMA synchronous = {'FULL' if purpose == 'durable' else 'NORMAL'}"
        )
    connection.exec_driver_sql("BEGIN" if purpose == "read" else "BEGIN IMMEDIATE")


def _begin_postgres(connection: Connection) -> None:
    if connection.get_execution_options().get("moescope_purpose") == "write":
        connection.exec_driver_sql("SET LOCAL synchronous_commit = off")


def _sqlite_code(error: exc.DBAPIError) -> int:
    code = getattr(error.orig, "sqlite_errorcode", 0)
    return int(code) & 0xFF  # the low byte is the primary code


def _is_busy(error: exc.DBAPIError) -> bool:
    state = getattr(error.orig, "sqlstate", None)
    return _sqlite_code(error) in _BUSY_SQLITE or state in _BUSY_POSTGRES
