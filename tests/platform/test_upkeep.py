"""What was deleted is given back to the file system, while others go on writing."""

import json
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select
from typer.testing import CliRunner

from moescope.cli import app
from moescope.platform import tables
from moescope.platform.engines import WAL_BYTES
from moescope.platform.errors import MoescopeError
from moescope.platform.records import Frame, Run
from moescope.platform.series import read_series
from moescope.platform.store import Store, open_store
from moescope.platform.store_check import check_store
from moescope.platform.upkeep import vacuum_store

LOSS, LOAD = "loss/total", "router/expert_load"


def a_run(name: str) -> Run:
    return Run(name, name, "p", {}, "running", "cpu", "0", 0.0, 0.0)


def frames(run: str, first: int, last: int) -> list[Frame]:
    load = np.random.default_rng(0).random((12, 48), np.float32)
    values = {LOSS: np.float32(1), LOAD: load}
    return [Frame(run, 0, step, 1.0, values) for step in range(first, last)]


def delete_samples(store: Store) -> None:
    """As a compaction or retention would: rows go, and nobody gives their pages back."""
    number = select(tables.runs.c.number).where(tables.runs.c.id == "old").scalar_subquery()
    for table in (tables.vector_rows, tables.scalar_rows):
        statement = table.delete().where(table.c.run_number == number)
        assert store.database.write(lambda c, told=statement: c.execute(told).rowcount) > 1000  # type: ignore[misc]


@pytest.mark.parametrize("is_full", [False, True], ids=["in bites", "whole"])
def test_free_pages_are_given_back_while_somebody_writes(store: Store, is_full: bool) -> None:
    store.add_run(a_run("old"))
    store.add_run(a_run("new"))
    store.write_frames(frames("old", 0, 1500))
    delete_samples(store)
    stop, faults = threading.Event(), []

    def write() -> None:
        step = 0
        while not stop.is_set():
            try:
                store.write_frames(frames("new", step, step + 1))
            except MoescopeError as error:
                faults.append(error)
                return
            step += 1
            stop.wait(0.05)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        done = vacuum_store(store.url, is_full=is_full)
    finally:
        stop.set()
        writer.join()
    assert faults == []
    steps = read_series(store, "new", LOSS).steps
    np.testing.assert_array_equal(steps, np.arange(len(steps)))
    assert check_store(store.url).faults == ()
    after = done.bytes_after
    if not store.database.is_embedded:
        # a plain VACUUM leaves free pages in the middle of a file for rows to come
        after = min(after, vacuum_store(store.url, is_full=True).bytes_after)
    assert after < 0.6 * done.bytes_before


def test_samples_of_a_run_that_is_gone_are_deleted(store: Store) -> None:
    store.add_run(a_run("lost"))
    store.add_run(a_run("kept"))
    store.write_frames([*frames("lost", 0, 200), *frames("kept", 0, 10)])
    gone = tables.runs.delete().where(tables.runs.c.id == "lost")
    store.database.write(lambda c: c.execute(gone))
    assert {fault.todo for fault in check_store(store.url).faults} == {
        "run `moescope db vacuum`, which deletes them"
    }
    vacuum_store(store.url)
    assert check_store(store.url).faults == ()
    assert len(read_series(store, "kept", LOSS).steps) == 10


def test_the_command_says_the_bytes_before_and_after(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    with open_store(url) as store:
        store.add_run(a_run("old"))
        store.write_frames(frames("old", 0, 600))
        delete_samples(store)
    result = CliRunner().invoke(app, ["db", "vacuum", "--store", url, "--json"])
    assert result.exit_code == 0
    told = json.loads(result.stdout)
    files = sum(path.stat().st_size for path in tmp_path.glob("store.db*"))
    assert told["bytes_after"] == files < told["bytes_before"]
    text = CliRunner().invoke(app, ["db", "vacuum", "--store", url]).stdout
    assert "MiB before" in text


def test_an_empty_store_has_nothing_to_give_back(tmp_path: Path) -> None:
    with pytest.raises(MoescopeError, match="is empty: there is nothing to give back"):
        vacuum_store(f"sqlite:///{tmp_path / 'none.db'}")


def test_pages_cannot_change_while_somebody_uses_the_store(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with open_store(f"sqlite:///{path}", patience_s=0.2) as store:
        store.add_run(a_run("r1"))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode = DELETE")
        for statement in ("PRAGMA page_size = 4096", "VACUUM", "PRAGMA journal_mode = WAL"):
            other.execute(statement)
        other.execute("BEGIN")
        other.execute("SELECT * FROM runs").fetchall()
        with pytest.raises(MoescopeError, match="locked for") as error:
            vacuum_store(f"sqlite:///{path}", is_full=True, patience_s=0.2)
        assert "\n" not in str(error.value)


def test_a_log_that_a_long_read_let_grow_is_cut_by_the_next_writer(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with open_store(f"sqlite:///{path}") as store:
        store.add_run(a_run("r1"))
        with closing(sqlite3.connect(path, isolation_level=None)) as page:
            page.execute("BEGIN")
            page.execute("SELECT count(*) FROM runs").fetchall()
            step = 0
            while store.database.wal_bytes() <= WAL_BYTES:
                store.write_frames(frames("r1", step, step + 60))
                step += 60
            assert not store.database.cut_wal()
        wait_for_a_look = threading.Event()
        wait_for_a_look.wait(1.1)
        store.write_frames(frames("r1", step, step + 1))
        assert store.database.wal_bytes() < 2**20
        assert len(read_series(store, "r1", LOSS).steps) == step + 1
