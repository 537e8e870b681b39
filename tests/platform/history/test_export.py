"""What is exported is what the store holds: every point, its segment, what is NaN and what is not
there."""

import csv
import json
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from typer.testing import Result

from moescope.platform import catalogue
from moescope.platform.history.export_files import write_export
from moescope.platform.history.exporting import Wanted, prepared
from moescope.platform.records import Frame, Run, Segment
from moescope.platform.series import is_living, known_signals, read_series
from moescope.platform.store import Store

Invoke = Callable[..., Result]


def long_form(store: Store, run: Run) -> list[tuple[object, ...]]:
    """The rows that a file in long form should have, read signal by signal. Segments are read one
    by one: together, a vector that is longer in one of them is filled up in the other."""
    rows: list[tuple[object, ...]] = []
    segments = store.segments(run.id)
    for signal, segment in product(known_signals(store, run.id), segments):
        series = read_series(store, run.id, signal, segments=[segment.index])
        living = is_living(series, segments)
        for i in range(len(series.steps)):
            for where in np.ndindex(series.values.shape[1:]):
                index = (*where, None, None)[:2]
                at = (int(series.segments[i]), int(series.steps[i]), float(series.times_s[i]))
                rows.append(
                    (signal, *at, bool(living[i]), *index, float(series.values[(i, *where)]))
                )
    return rows


def test_parquet_holds_every_number_bit_for_bit(
    moescope: Invoke, odd_run: Run, own_store: Store, tmp_path: Path
) -> None:
    out = tmp_path / "run.parquet"
    moescope("export", odd_run.id, "--format", "parquet", "--out", str(out))
    table = pq.read_table(out)
    wanted = long_form(own_store, odd_run)
    names = ["signal", "segment", "step", "time_s", "is_living", "row", "column", "value"]
    assert table.column_names == names
    found = table.to_pydict()
    for at, name in enumerate(names[:-1]):
        assert found[name] == [row[at] for row in wanted]
    values = np.array([row[-1] for row in wanted], np.float32)
    got = table["value"].combine_chunks()
    assert got.null_count == 0  # a NaN is no missing value
    assert got.to_numpy().tobytes() == values.tobytes()
    head = json.loads(table.schema.metadata[b"moescope"])
    assert head["run"]["name"] == "swift/otter"
    assert head["is_thinned"] is False
    assert [segment["parent_step"] for segment in head["segments"]] == [None, 29]


def test_csv_holds_every_number_and_tells_nothing_from_not_a_number(
    moescope: Invoke, odd_run: Run, own_store: Store, tmp_path: Path
) -> None:
    out = tmp_path / "run.csv"
    moescope("export", odd_run.name, "--format", "csv", "--out", str(out))
    with out.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    wanted = long_form(own_store, odd_run)
    assert len(rows) == len(wanted)
    for row, want in zip(rows, wanted, strict=True):
        signal, segment, step, time_s, living, first, second, value = want
        assert (row["signal"], int(row["segment"]), int(row["step"])) == (signal, segment, step)
        assert float(row["time_s"]) == time_s
        assert row["is_living"] == ("true" if living else "false")
        assert (row["row"], row["column"]) == tuple(
            "" if index is None else str(index) for index in (first, second)
        )
        np.testing.assert_array_equal(np.float32(row["value"]), np.float32(value))
    assert {row["value"] for row in rows} >= {"NaN", "Infinity", "-Infinity"}
    frame = pd.read_csv(out)
    loss = frame[(frame["signal"] == catalogue.LOSS_TOTAL) & frame["is_living"]]
    assert loss["step"].tolist() == list(range(60))


def test_a_part_of_a_run_is_asked_for_by_pattern_steps_and_branch(
    moescope: Invoke, odd_run: Run, tmp_path: Path
) -> None:
    out = tmp_path / "part.csv"
    words = ("--signals", "loss/*,grad/norm", "--from", "31", "--to", "36", "--living")
    moescope("export", odd_run.id, "--format", "csv", "--out", str(out), *words)
    frame = pd.read_csv(out)
    assert set(frame["signal"]) == {catalogue.LOSS_TOTAL, catalogue.GRAD_NORM}
    loss = frame[frame["signal"] == catalogue.LOSS_TOTAL]
    assert loss["step"].tolist() == [31, 32, 33, 34, 35, 36]
    assert set(frame["segment"]) == {1}
    assert frame["is_living"].all()


def test_a_thinned_file_says_so_and_keeps_what_stands_out(
    moescope: Invoke, odd_run: Run, tmp_path: Path
) -> None:
    for format in ("csv", "parquet", "jsonl"):
        out = tmp_path / f"thin.{format}"
        words = ("--signals", catalogue.LOSS_TOTAL, "--thin", "20")
        result = moescope("export", odd_run.id, "--format", format, "--out", str(out), *words)
        assert "thinned to 20 points" in result.stdout
    frame = pd.read_csv(tmp_path / "thin.csv", keep_default_na=False)
    assert frame["is_thinned"].all()
    assert len(frame) <= 20
    # of a bucket the first and the last non-finite value are kept
    assert {"NaN", "-Infinity"} <= set(frame["value"])
    table = pq.read_table(tmp_path / "thin.parquet")
    assert all(table["is_thinned"].to_pylist())
    head = json.loads((tmp_path / "thin.jsonl").read_text().splitlines()[0])
    assert (head["is_thinned"], head["thinned_to"]) == (True, 20)


def test_every_line_of_json_is_strict_json(moescope: Invoke, odd_run: Run, tmp_path: Path) -> None:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    result = moescope("export", odd_run.id, "--format", "jsonl", "--out", "-")
    lines = [json.loads(line, parse_constant=refuse) for line in result.stdout.splitlines()]
    assert lines[0]["moescope_export"] == 1
    assert lines[-1] == {"moescope_export_end": len(lines) - 2}
    values = {(row["signal"], row["segment"], row["step"]): row["value"] for row in lines[1:-1]}
    assert values[catalogue.LOSS_TOTAL, 0, 7] == "NaN"
    assert values[catalogue.LOSS_TOTAL, 0, 9] == "-Infinity"
    assert values[catalogue.EXPERT_LOAD, 1, 30][0][1] == "NaN"


def test_a_long_run_is_written_stretch_by_stretch(own_store: Store, tmp_path: Path) -> None:
    run = Run("long", "long", "p", {}, "finished", "cpu", "0", 0.0, 0.0)
    own_store.add_run(run)
    own_store.add_segment(Segment(run.id, 0, 0, "start", 0.0))
    value = np.float32(1.5)
    own_store.write_frames(
        [Frame(run.id, 0, step, 1.0, {catalogue.LOSS_TOTAL: value}) for step in range(20_000)]
    )
    export = prepared(own_store, run, Wanted())
    lengths = [len(part.series.steps) for part in export.parts()]
    assert sum(lengths) == 20_000
    assert max(lengths) <= 8192
    written = write_export(export, "parquet", tmp_path / "long.parquet")
    assert written.num_points == 20_000
    assert pq.read_table(tmp_path / "long.parquet")["step"].to_pylist() == list(range(20_000))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        pytest.param(["nobody"], ["unknown run nobody"], id="unknown run"),
        pytest.param([RUN_ := "swift/otter", "--format", "xml"], ["--format is xml"], id="format"),
        pytest.param([RUN_, "--signals", "loss/totl"], ["loss/totl", "loss/total"], id="signal"),
        pytest.param(
            [RUN_, "--signals", "'; drop table runs; --"], ["has no signal"], id="no SQL in a name"
        ),
        pytest.param(
            [RUN_, "--from", "9", "--to", "3"], ["--from 9 is after --to 3"], id="reversed range"
        ),
        pytest.param([RUN_, "--out", "-"], ["parquet"], id="parquet on stdout"),
        pytest.param(
            [RUN_, "--out", "/does/not/exist/x.parquet"], ["cannot be written"], id="no folder"
        ),
        pytest.param([RUN_, "--store", "postgresql://ann:hush@127.0.0.1:9/d"], ["***"], id="away"),
    ],
)
def test_a_mistake_is_one_line(
    refused: Callable[..., str], odd_run: Run, words: list[str], expected: list[str]
) -> None:
    line = refused("export", *words)
    assert [part for part in expected if part not in line] == []
    assert "hush" not in line


def test_a_file_that_is_there_is_kept_unless_told_otherwise(
    moescope: Invoke,
    refused: Callable[..., str],
    odd_run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    moescope("export", odd_run.id, "--format", "csv")
    file = tmp_path / "swift_otter.csv"
    before = file.read_bytes()
    line = refused("export", odd_run.id, "--format", "csv", "--living")
    assert "--overwrite" in line
    assert file.read_bytes() == before
    moescope("export", odd_run.id, "--format", "csv", "--living", "--overwrite")
    assert len(file.read_bytes()) < len(before)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["swift_otter.csv"]
