"""A sound store is called sound; each thing that can be wrong with one is told, with what to do."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from moescope.cli import app
from moescope.platform.errors import MoescopeError
from moescope.platform.migrate import upgrade_store, versions
from moescope.platform.records import Event, Frame, Run, Segment
from moescope.platform.store import Store, open_store
from moescope.platform.store_check import Fault, check_store
from moescope.platform.upkeep import vacuum_store

RUN = Run("r1", "run", "p", {}, "finished", "cpu", "0", 0.0, 0.0)
LOSS, LOAD = "loss/total", "router/expert_load"


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A store of the test's own, which it may damage, with a run that has a bit of everything."""
    url = f"sqlite:///{tmp_path / 'store.db'}"
    if request.param == "postgres":
        url = request.getfixturevalue("postgres_url")
    with open_store(url) as opened:
        opened.add_run(RUN)
        opened.add_segment(Segment("r1", 0, 0, "start", 0.0))
        opened.add_event(Event("r1", 0, 1, 1.0, "note", "hello"))
        load = np.ones((2, 8), np.float32)
        values = {LOSS: np.float32(1), "grad/norm": np.float32(2), LOAD: load}
        opened.write_frames([Frame("r1", 0, step, 1.0, values) for step in range(10)])
        yield opened


def damage(store: Store, *statements: str) -> None:
    for statement in statements:
        store.database.write(lambda c, told=statement: c.exec_driver_sql(told))  # type: ignore[misc]


def faults(store: Store) -> tuple[Fault, ...]:
    found = check_store(store.url).faults
    assert all(fault.todo and "\n" not in fault.what + fault.todo for fault in found)
    return found


def only_fault(store: Store) -> str:
    (found,) = faults(store)
    return found.what


def test_a_sound_store_is_called_sound_with_what_it_holds(store: Store) -> None:
    report = check_store(store.url)
    assert report.faults == ()
    assert report.version == versions()[-1]
    assert report.rows["runs"] == 1
    assert report.rows["vector_rows"] == 20
    assert report.rows["alerts"] == 0
    assert report.num_bytes > 20 * 32
    assert (report.wal_bytes > 0) == store.database.is_embedded


def test_a_vector_that_is_cut_off_is_found(store: Store) -> None:
    damage(store, "UPDATE vector_rows SET data = substr(data, 1, 7) WHERE step = 3")
    assert only_fault(store) == "2 rows of vector_rows hold numbers that do not fit"


def test_scalars_that_do_not_fit_their_layout_are_found(store: Store) -> None:
    is_scalar = "length(data) > 0"
    damage(
        store, f"UPDATE scalar_rows SET data = substr(data, 1, 4) WHERE step = 3 AND {is_scalar}"
    )
    assert only_fault(store).endswith("rows of scalar_rows hold numbers that do not fit")


def test_rows_of_runs_and_names_that_are_gone_are_found(store: Store) -> None:
    damage(
        store,
        "UPDATE vector_rows SET run_number = 99 WHERE step = 3",
        "UPDATE spans SET signal_id = 99 WHERE signal_id = (SELECT max(id) FROM signals)",
    )
    said = {fault.what for fault in faults(store)}
    assert said == {
        "2 rows of vector_rows belong to a run that is gone",
        "1 rows of spans belong to a signal that is gone",
    }


def test_an_index_and_a_table_that_are_missing_are_found(store: Store) -> None:
    damage(store, "DROP INDEX events_of_run", "DROP TABLE incidents")
    said = {fault.what for fault in faults(store)}
    assert said == {
        "index events_of_run of table events is missing",
        "table incidents is missing",
    }


def test_a_column_that_is_missing_is_found(store: Store) -> None:
    damage(store, "ALTER TABLE alerts DROP COLUMN silenced_until_s")
    assert only_fault(store) == "table alerts lacks silenced_until_s"


def test_a_store_that_is_empty_or_newer_is_refused_on_one_line(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    with pytest.raises(MoescopeError, match="is empty: there is nothing to check"):
        check_store(url)
    upgrade_store(url)
    with closing(sqlite3.connect(tmp_path / "store.db")) as other, other:
        other.execute("UPDATE moescope_version SET version_num = '9999'")
    with pytest.raises(MoescopeError, match="is at version 9999, newer than this program"):
        check_store(url)


def with_other_pages(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        assert other.execute("PRAGMA journal_mode = DELETE").fetchone() == ("delete",)
        for statement in ("PRAGMA page_size = 4096", "PRAGMA auto_vacuum = NONE", "VACUUM"):
            other.execute(statement)


def test_a_file_that_was_set_up_otherwise_is_found_and_mended_by_a_full_vacuum(
    tmp_path: Path,
) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    with open_store(url) as store:
        store.add_run(RUN)
    with_other_pages(tmp_path / "store.db")
    found = check_store(url).faults
    assert [fault.what.split(":")[0] for fault in found] == [
        "its pages have 4096 bytes, expected 16384",
        "its journal mode is delete, expected wal",
        "it does not give back the disk of what is deleted",
    ]
    assert {fault.todo for fault in found} == {
        "run `moescope db vacuum --full` while nothing else uses the store"
    }
    vacuum_store(url, is_full=True)
    assert check_store(url).faults == ()
    with open_store(url) as store:
        assert store.runs() == [RUN]


def test_rows_that_foreign_keys_forbid_are_found(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    with open_store(url) as store:
        store.add_run(RUN)
        store.add_event(Event("r1", 0, 1, 1.0, "note", "hello"))
    with closing(sqlite3.connect(tmp_path / "store.db")) as other, other:
        other.execute("UPDATE events SET run_id = 'gone'")  # without PRAGMA foreign_keys
    (fault,) = check_store(url).faults
    assert fault.what == "1 rows of events point at something that is gone"


def test_a_damaged_page_is_found(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with open_store(f"sqlite:///{path}") as store:
        store.add_run(RUN)
        load = np.ones((4, 64), np.float32)
        store.write_frames([Frame("r1", 0, step, 1.0, {LOAD: load}) for step in range(500)])
        assert store.database.cut_wal()
        root = store.database.read(
            lambda c: c.exec_driver_sql(
                "SELECT rootpage FROM sqlite_master WHERE name = 'vector_rows'"
            ).scalar_one()
        )
    with path.open("r+b") as file:
        file.seek((root - 1) * 16384 + 8)
        file.write(b"\xff" * 64)
    result = CliRunner().invoke(app, ["db", "check", "--store", f"sqlite:///{path}"])
    assert result.exit_code in (1, 2)
    said = result.output
    assert "damaged" in said
    assert "restore a backup" in said
    assert "Traceback" not in said


def test_the_command_says_it_in_a_few_lines_and_by_its_exit_code(store: Store) -> None:
    run = CliRunner().invoke
    words = ["db", "check", "--store", store.url]
    good = run(app, words)
    assert good.exit_code == 0
    assert len(good.stdout.splitlines()) == 3
    assert "sound" in good.stdout
    assert "vector_rows 20" in good.stdout
    damage(store, "DROP INDEX events_of_run")
    bad = run(app, words)
    assert bad.exit_code == 1
    assert "fault: index events_of_run of table events is missing; restore" in bad.stdout
    told = json.loads(run(app, [*words, "--json"]).stdout)
    assert [fault["what"] for fault in told["faults"]] == [
        "index events_of_run of table events is missing"
    ]
    assert "secret" not in told["store"]
