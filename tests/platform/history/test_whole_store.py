"""The whole store as a folder: all of it is there, and a half one never takes the whole one's
name.
"""

import csv
import json
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from moescope.cli import app
from moescope.platform.commands import ask
from moescope.platform.errors import MoescopeError
from moescope.platform.history.whole_store import export_store, record_tables
from moescope.platform.records import Alert, Checkpoint, Event, Frame, Run, Segment
from moescope.platform.store import Store

LOSS, LOAD = "loss/total", "router/expert_load"
RUN = Run("r1", "first", "p", {"lr": 0.1}, "finished", "cpu", "0", 1.0, 2.0, 2.0, tags=("a", "b"))


@pytest.fixture
def full(store: Store) -> Store:
    store.add_run(RUN)
    store.add_run(replace(RUN, id="r2", name="second/2", status="running", note="line\nbreak"))
    for run in ("r1", "r2"):
        store.add_segment(Segment(run, 0, 0, "start", 1.0))
        values = {LOSS: np.float32("nan"), LOAD: np.ones((2, 4), np.float32)}
        store.write_frames([Frame(run, 0, step, 1.0, values) for step in range(20)])
    store.add_event(Event("r1", 0, 3, 1.0, "note", "a, b", {"at": [1, 2]}))
    store.put_alert(Alert("a1", "r1", 0, "s", "critical", 1, 2, float("nan"), 1.0, "up", 1.0, "a1"))
    store.put_checkpoint(Checkpoint("r1", 0, 5, "/c", 1, 10, 1.0))
    ask(store, "r2", "rollback", {"to_step": 3}, "ann", 5.0)
    return store


@pytest.mark.parametrize("format", ["parquet", "csv", "jsonl"])
def test_every_run_and_every_record_is_there(full: Store, tmp_path: Path, format: str) -> None:
    done = export_store(full, tmp_path / "out", format)  # type: ignore[arg-type]
    assert (done.num_runs, done.num_kept, done.num_points) == (2, 0, 80)
    names = {table.name for table in record_tables()}
    assert {"runs", "segments", "events", "alerts", "checkpoints", "commands"} <= names
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "history",
        *(f"{name}.{format}" for name in names),
    }
    history = {path.name for path in (tmp_path / "out" / "history").iterdir()}
    assert history == {f"r1.{format}", f"r2.{format}"}
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_tables_of_parquet_keep_their_types_and_nan(full: Store, tmp_path: Path) -> None:
    export_store(full, tmp_path / "out", "parquet")
    (alert,) = pq.read_table(tmp_path / "out" / "alerts.parquet").to_pylist()
    assert (alert["id"], alert["onset_step"], alert["threshold"]) == ("a1", 1, 1.0)
    assert np.isnan(alert["value"])
    assert alert["changed_s"] is None
    runs = pq.read_table(tmp_path / "out" / "runs.parquet").to_pylist()
    assert [(run["id"], run["is_archived"]) for run in runs] == [("r1", False), ("r2", False)]
    assert json.loads(runs[0]["config"]) == {"lr": 0.1}
    rows = pq.read_table(tmp_path / "out" / "history" / "r1.parquet")
    assert rows.num_rows == 20 + 20 * 8


def test_tables_of_csv_and_json_lines_say_the_same(full: Store, tmp_path: Path) -> None:
    export_store(full, tmp_path / "c", "csv")
    export_store(full, tmp_path / "j", "jsonl")
    with (tmp_path / "c" / "runs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    lines = [json.loads(line) for line in (tmp_path / "j" / "runs.jsonl").read_text().splitlines()]
    assert [row["note"] for row in rows] == [line["note"] for line in lines] == ["", "line\nbreak"]
    assert json.loads(rows[0]["tags"]) == lines[0]["tags"] == ["a", "b"]
    (command,) = (tmp_path / "j" / "commands.jsonl").read_text().splitlines()
    assert json.loads(command)["args"] == {"to_step": 3}


def test_an_export_that_was_cut_off_goes_on_and_keeps_what_was_whole(
    full: Store, tmp_path: Path, no_file_above: Callable[[int], AbstractContextManager[None]]
) -> None:
    # a table that comes after the histories has no room
    full.update_run("r2", note="x" * 200_000)
    with no_file_above(100_000), pytest.raises(MoescopeError, match="cannot be written") as error:
        export_store(full, tmp_path / "out", "jsonl")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()
    part = tmp_path / ".out.jsonl.part"
    before = (part / "history" / "r1.jsonl").stat().st_mtime_ns
    (part / "history" / "gone.jsonl").write_text("of a run that was deleted since")
    full.write_frames([Frame("r2", 0, 20, 1.0, {LOSS: np.float32(1)})])
    done = export_store(full, tmp_path / "out", "jsonl")
    # r2 is running, so that it is written anew
    assert (done.num_runs, done.num_kept, done.num_points) == (2, 1, 41)
    assert (tmp_path / "out" / "history" / "r1.jsonl").stat().st_mtime_ns == before
    assert sorted(p.name for p in (tmp_path / "out" / "history").iterdir()) == [
        "r1.jsonl",
        "r2.jsonl",
    ]
    assert not part.exists()


def test_a_run_that_went_on_after_it_was_exported_is_exported_again(
    full: Store, tmp_path: Path
) -> None:
    part = tmp_path / ".out.csv.part" / "history"
    part.mkdir(parents=True)
    (part / "r1.csv").write_text("as it was")
    os.utime(part / "r1.csv", (1.5, 1.5))
    assert export_store(full, tmp_path / "out", "csv").num_kept == 0
    assert len((tmp_path / "out" / "history" / "r1.csv").read_text().splitlines()) == 1 + 20 * 9


def test_a_folder_that_is_there_is_never_written_into(full: Store, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(MoescopeError, match="is there already: choose another name"):
        export_store(full, tmp_path / "out", "csv")
    with pytest.raises(MoescopeError, match="cannot be written"):
        export_store(full, Path("/proc/no/such"), "csv")


def test_the_command_says_what_it_wrote(full: Store, tmp_path: Path) -> None:
    words = ["db", "export", str(tmp_path / "out"), "--store", full.url]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0
    assert "2 runs, 80 points" in result.stdout
    wrong = CliRunner().invoke(app, [*words, "--format", "parket"])
    assert wrong.exit_code == 2
    assert "did you mean parquet" in wrong.output
