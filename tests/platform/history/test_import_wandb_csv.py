"""CSV files of Weights & Biases: charts, histories and the table of runs."""

import csv
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import Result

from moescope.platform import catalogue
from moescope.platform.series import read_series
from moescope.platform.store import Store

Invoke = Callable[..., Result]


def sheet(file: Path, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    # the site quotes every cell
    with file.open("w", newline="") as lines:
        writer = csv.writer(lines, quoting=csv.QUOTE_ALL)
        writer.writerow(head)
        writer.writerows(rows)
    return str(file)


def chart(file: Path, metric: str, runs: dict[str, Callable[[int], Any]], steps: range) -> str:
    head = ["Step"]
    for run in runs:
        head += [f"{run} - {metric}", f"{run} - {metric}__MIN", f"{run} - {metric}__MAX"]
    rows = [
        [step, *(cell for f in runs.values() for cell in (f(step), f(step), f(step)))]
        for step in steps
    ]
    return sheet(file, head, rows)


def test_two_charts_of_two_runs_are_two_runs_with_two_curves(
    moescope: Invoke, own_store: Store, tmp_path: Path
) -> None:
    loss = chart(
        tmp_path / "loss.csv",
        "train/loss",
        {"swift-otter-1": lambda s: 1 / (s + 1), "a - b": lambda s: "" if s % 2 else 2.0},
        range(0, 100),
    )
    norm = chart(
        tmp_path / "norm.csv",
        "grad_norm",
        {"swift-otter-1": lambda s: "NaN" if s == 50 else "Infinity" if s == 60 else 0.5},
        range(10, 100, 10),
    )
    found = json.loads(moescope("import", "wandb-csv", loss, norm, "--json").stdout)
    assert [run["run"] for run in found] == ["swift-otter-1", "a - b"]
    assert found[0]["signals"] == {
        "train/loss": catalogue.LOSS_TOTAL,
        "grad_norm": catalogue.GRAD_NORM,
    }
    assert found[0]["left"] == {"__MIN and __MAX": "the band of a sampled curve"}
    series = read_series(own_store, found[0]["run_id"], catalogue.GRAD_NORM)
    assert series.steps.tolist() == list(range(10, 100, 10))
    assert math.isnan(series.values[4])
    assert series.values[5] == math.inf
    # an empty cell is no point
    gaps = read_series(own_store, found[1]["run_id"], catalogue.LOSS_TOTAL)
    assert gaps.steps.tolist() == list(range(0, 100, 2))
    # chart by chart it is the same, whatever the files are called
    (tmp_path / "norm.csv").rename(tmp_path / "norm (1).csv")
    again = moescope("import", "wandb-csv", str(tmp_path / "norm (1).csv"), "--json")
    assert [run["num_new"] for run in json.loads(again.stdout)] == [0]
    segments = own_store.segments(found[0]["run_id"])
    assert [(s.index, s.start_step) for s in segments] == [(0, 0)]
    assert len(own_store.runs()) == 2


def test_charts_that_overlap_are_one_curve(
    moescope: Invoke, own_store: Store, tmp_path: Path
) -> None:
    first = chart(tmp_path / "1.csv", "loss", {"one": lambda s: s}, range(0, 60))
    second = chart(tmp_path / "2.csv", "loss", {"one": lambda s: s}, range(40, 100))
    (found,) = json.loads(moescope("import", "wandb-csv", first, second, "--json").stdout)
    assert len(own_store.segments(found["run_id"])) == 1
    series = read_series(own_store, found["run_id"], catalogue.LOSS_TOTAL)
    assert series.values.tolist() == series.steps.tolist() == list(range(100))


def test_a_history_has_times_and_leaves_out_what_is_no_number(
    moescope: Invoke, own_store: Store, tmp_path: Path
) -> None:
    frame = pd.DataFrame(
        {
            "_step": range(50),
            "_runtime": [s * 2.0 for s in range(50)],
            "_timestamp": [1.76e9 + 2.0 * s for s in range(50)],
            "loss": [1.0 / (s + 1) for s in range(50)],
            "eval/loss": [0.5 if s % 10 == 0 else None for s in range(50)],
            "weights": ["{'_type': 'histogram', 'bins': [1, 2]}"] * 50,
        }
    )
    file = tmp_path / "history.csv"
    frame.to_csv(file)  # with the index that everybody forgets
    words = ("--name", "swift-otter-1", "--project", "clips")
    (found,) = json.loads(moescope("import", "wandb-csv", str(file), *words, "--json").stdout)
    assert found["signals"] == {"loss": catalogue.LOSS_TOTAL, "eval/loss": catalogue.PROBE_LOSS}
    assert found["left"] == {"weights": "text, or a histogram or picture"}
    run = own_store.find_run("swift-otter-1")
    assert (run.project, run.created_s, run.finished_s) == ("clips", 1.76e9, 1.76e9 + 98.0)
    probe = read_series(own_store, run.id, catalogue.PROBE_LOSS)
    assert probe.steps.tolist() == [0, 10, 20, 30, 40]
    assert probe.times_s.tolist() == [1.76e9 + 20.0 * i for i in range(5)]


def test_the_table_of_runs_tells_state_tags_and_configuration(
    moescope: Invoke, own_store: Store, tmp_path: Path
) -> None:
    loss = chart(tmp_path / "loss.csv", "loss", {"one": lambda s: s, "two": lambda s: s}, range(5))
    table = sheet(
        tmp_path / "runs.csv",
        ["Name", "State", "Notes", "User", "Tags", "Created", "Runtime", "Sweep", "lr", "model"],
        [
            [
                *("one", "crashed", "diverged", "ann", "moe, big", "2026-01-01T00:00:00.000Z", 9),
                *("", "0.0003", '{"width": 64}'),
            ],
            ["two", "running", "-", "ann", "", "2026-01-02T00:00:00.000Z", 9, "", "", "tiny"],
        ],
    )
    found = json.loads(moescope("import", "wandb-csv", loss, "--table", table, "--json").stdout)
    one, two = (own_store.find_run(run["run_id"]) for run in found)
    assert (one.status, one.note, one.tags) == ("crashed", "diverged", ("moe", "big"))
    assert one.created_s == 1_767_225_600.0
    assert one.config["imported"]["params"] == {"lr": 0.0003, "model": {"width": 64}}
    # it trains elsewhere: nobody beats for it here
    assert (two.status, two.note) == ("stopped", "")
    assert "still running" in " ".join(found[1]["notes"])


def test_one_run_of_many_is_asked_for(
    moescope: Invoke, refused: Callable[..., str], own_store: Store, tmp_path: Path
) -> None:
    loss = chart(tmp_path / "l.csv", "loss", {"one": lambda s: s, "two": lambda s: s}, range(5))
    moescope("import", "wandb-csv", loss, "--run", "two")
    assert [run.name for run in own_store.runs()] == ["two"]
    line = refused("import", "wandb-csv", loss, "--run", "tow")
    assert "did you mean two" in line
    assert "--run" in refused("import", "wandb-csv", loss, "--name", "mine")


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        pytest.param([], ["is empty"], id="empty"),
        pytest.param(["Wall Time", "a - loss"], ["x axis", "'Wall Time'", "--step"], id="x axis"),
        pytest.param(["Step"], ["no column of a metric"], id="no metric"),
    ],
)
def test_a_sheet_that_is_none_is_one_line(
    refused: Callable[..., str], tmp_path: Path, head: list[str], expected: list[str]
) -> None:
    file = tmp_path / "a.csv"
    file.write_text(",".join(head))
    line = refused("import", "wandb-csv", str(file))
    assert [part for part in expected if part not in line] == []


def test_a_file_that_is_not_there_is_one_line(refused: Callable[..., str], tmp_path: Path) -> None:
    assert "cannot be read" in refused("import", "wandb-csv", str(tmp_path / "none.csv"))
