"""A store that is busy, locked, taken away and put back."""

import os
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path
from secrets import token_hex

import numpy as np
import psycopg
import pytest
from sqlalchemy import make_url, text

from moescope.platform.engines import Database, StoreAway, parsed_url, shown_url
from moescope.platform.errors import MoescopeError
from moescope.platform.records import Frame, Run
from moescope.platform.series import known_signals, read_series
from moescope.platform.store import open_store

RUN = Run("r1", "run", "p", {}, "running", "cpu", "0", 0.0, 0.0)
FRAME = Frame("r1", 0, 1, 0.0, {"loss/total": np.float32(1)})


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://ann:hush@h:notaport/d",
        "postgresql://ann:hush@hush:hush@h:notaport/d",
        "postgresql://ann:://hush@h:notaport/d",
        "postgresql//ann:hush@h/d",
        "ann:hush@h/d",
        "mysql://ann:hush@h/d",
        "postgresql://ann:hush@h",
        "postgresql://h:notaport/d?password=hush",
    ],
)
def test_a_wrong_address_is_told_without_its_password(address: str) -> None:
    with pytest.raises(MoescopeError) as error:
        parsed_url(address)
    assert "hush" not in str(error.value)
    assert "***" in str(error.value) or "h:notaport" not in address


def test_an_address_is_shown_without_its_password_wherever_that_stands() -> None:
    url = parsed_url("postgresql://ann:hush@h:1/d?sslmode=require&password=hush")
    assert shown_url(url) == "postgresql://ann:***@h:1/d?password=***&sslmode=require"
    for address in ("postgresql://ann@h/d", "sqlite:////folder/store.db"):
        assert shown_url(parsed_url(address)) == address


def test_a_writer_waits_for_another_one(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with open_store(f"sqlite:///{path}") as store:
        store.add_run(RUN)
        is_held, done = threading.Event(), threading.Event()

        def hold() -> None:
            with closing(sqlite3.connect(path, isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                is_held.set()
                time.sleep(0.3)
                assert not done.is_set()
                other.execute("COMMIT")

        holder = threading.Thread(target=hold)
        holder.start()
        is_held.wait()
        # readers are not held up at all
        assert store.runs() == [RUN]
        store.write_frames([FRAME])
        done.set()
        holder.join()
        assert known_signals(store, "r1") == ["loss/total"]


def test_patience_with_a_locked_store_has_an_end(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with open_store(f"sqlite:///{path}", patience_s=0.2) as store:
        store.add_run(RUN)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            start_s = time.monotonic()
            with pytest.raises(StoreAway, match=r"locked for 0\.2 s") as error:
                store.write_frames([FRAME])
            assert time.monotonic() - start_s < 5
            assert "\n" not in str(error.value)
            other.execute("ROLLBACK")
        store.write_frames([FRAME])
        assert known_signals(store, "r1") == ["loss/total"]


@pytest.mark.postgres
def test_patience_with_a_locked_table_has_an_end(postgres_url: str) -> None:
    with open_store(postgres_url, patience_s=0.2) as store:
        store.add_run(RUN)
        other = Database(postgres_url)

        def while_held(connection: object) -> None:
            connection.exec_driver_sql("LOCK TABLE runs IN ACCESS EXCLUSIVE MODE")  # type: ignore[attr-defined]
            with pytest.raises(StoreAway, match="lock timeout"):
                store.update_run("r1", note="x")

        other.write(while_held)
        other.close()
        store.update_run("r1", note="y")
        assert store.find_run("r1").note == "y"


@pytest.mark.postgres
def test_a_server_that_dropped_its_connections_is_asked_once_more(postgres_url: str) -> None:
    with open_store(postgres_url) as store:
        store.add_run(RUN)
        pid = store.database.read(lambda c: c.exec_driver_sql("SELECT pg_backend_pid()").scalar())
        other = Database(postgres_url)
        end_it = f"SELECT pg_terminate_backend({pid})"
        assert other.read(lambda c: c.exec_driver_sql(end_it).scalar())
        other.close()
        assert store.runs() == [RUN]
        store.write_frames([FRAME])


def test_a_store_that_was_taken_away_is_missed_at_once(tmp_path: Path) -> None:
    path, away = tmp_path / "store.db", tmp_path / "away.db"
    with open_store(f"sqlite:///{path}") as store:
        store.add_run(RUN)
        os.rename(path, away)
        for _ in range(2):
            # a connection would go on writing into the file that nobody finds any more
            with pytest.raises(StoreAway, match="is gone"):
                store.write_frames([FRAME])
        os.rename(away, path)
        store.write_frames([FRAME])
        assert len(read_series(store, "r1", "loss/total").steps) == 1


def test_a_store_that_was_replaced_is_known_by_its_own_names(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with open_store(f"sqlite:///{tmp_path / 'other.db'}") as other:
        other.add_run(RUN)
        # here the first name in each dictionary is another one
        other.write_frames([Frame("r1", 0, 0, 0.0, {"grad/norm": np.float32(5)})])
    with open_store(f"sqlite:///{path}") as store:
        store.add_run(RUN)
        store.write_frames([FRAME])
        for end in ("", "-wal", "-shm"):
            (tmp_path / f"store.db{end}").unlink(missing_ok=True)
        os.rename(tmp_path / "other.db", path)
        assert known_signals(store, "r1") == ["grad/norm"]
        store.write_frames([FRAME])
        assert read_series(store, "r1", "grad/norm").values.tolist() == [5.0]
        assert read_series(store, "r1", "loss/total").values.tolist() == [1.0]


def test_a_forked_process_opens_its_own_connections(tmp_path: Path) -> None:
    with open_store(f"sqlite:///{tmp_path / 'store.db'}") as store:
        store.add_run(RUN)
        child = os.fork()
        if child == 0:
            try:
                store.update_run("r1", note="from the child")
            finally:
                os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert store.find_run("r1").note == "from the child"


@pytest.mark.postgres
def test_a_database_that_was_made_without_a_language_keeps_every_letter(
    postgres_server: str,
) -> None:
    name = f"test_{token_hex(6)}"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        made = "ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
        connection.execute(f"CREATE DATABASE {name} {made}")
        try:
            url = make_url(postgres_server).set(database=name).render_as_string(False)
            with open_store(url) as store:
                store.add_run(Run("r1", "Größe", "p", {"é": "è"}, "running", "cpu", "0", 1.0, 1.0))
                found = store.find_run("Größe")
            assert (found.id, found.config) == ("r1", {"é": "è"})
        finally:
            connection.execute(f"DROP DATABASE {name}")


@pytest.mark.postgres
def test_what_a_crash_may_have_taken_is_written_again(postgres_url: str) -> None:
    """A server that closed the connections may have crashed, and lost what it had not brought to
    its disk: in the middle of writing that must not go unnoticed."""
    with open_store(postgres_url) as store:
        database = store.database
        store.add_run(RUN)
        num_lost = database.num_lost
        store.write_frames([FRAME])
        database.bring_to_disk(num_lost)
        assert database.names
        pid = database.read(lambda c: c.scalar(text("SELECT pg_backend_pid()")))
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
        database.read(lambda c: c.scalar(text("SELECT 1")))
        assert database.num_lost == num_lost + 1
        assert database.names == {}
        with pytest.raises(StoreAway, match="it is written again"):
            database.bring_to_disk(num_lost)
        store.write_frames([FRAME])
        database.bring_to_disk(database.num_lost)
        assert known_signals(store, "r1") == ["loss/total"]
