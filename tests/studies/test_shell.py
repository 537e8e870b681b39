"""`moescope study plan` and `fit` as commands."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from moescope.cli import app
from moescope.platform import trials
from moescope.platform.records import Study, Trial
from moescope.platform.store import open_store
from moescope.trainer.data.make_clips import make_clips

Table = dict[str, np.ndarray]


@pytest.fixture
def csv(planted: Callable[..., Table], tmp_path: Path) -> Path:
    path = tmp_path / "runs.csv"
    pd.DataFrame(planted(60)).rename(columns={"params": "N"}).to_csv(path, index=False)
    return path


def test_a_law_is_told_with_its_doubts(csv: Path) -> None:
    options = ["--csv", str(csv), "--column", "params=N", "--bootstraps", "40", "--flops", "1e21"]
    told = CliRunner().invoke(app, ["study", "fit", *options])
    assert told.exit_code == 0
    for text in (
        "L = E0 + A / params^alpha",
        "E0",
        "60 runs lie 0.",
        "the best size is",
        "as good",
    ):
        assert text in told.stdout
    values = json.loads(CliRunner().invoke(app, ["study", "fit", *options, "--json"]).stdout)
    assert values["params"]["alpha"] == pytest.approx(0.347, abs=0.03)
    low, high = values["intervals"]["alpha"]
    assert low < values["params"]["alpha"] < high
    assert values["can_extrapolate"] is True
    assert values["optimum"]["params_interval"][0] < values["optimum"]["params"]


def test_forms_are_compared_by_what_they_foretell(csv: Path) -> None:
    options = ["--csv", str(csv), "--column", "params=N", "--bootstraps", "20", "--json"]
    forms = ["--form", "compute", "--form", "chinchilla"]
    told = json.loads(CliRunner().invoke(app, ["study", "fit", *options, *forms]).stdout)
    assert [law["form"] for law in told] == ["chinchilla", "compute"]
    assert told[0]["held_out_error"] < told[1]["held_out_error"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--csv", "/no/where.csv"], "cannot be read"),
        (["--column", "params=M"], "must be NAME=HEADER with a header of the file"),
        ([], "no column params"),
    ],
)
def test_a_file_that_does_not_fit_is_one_line(csv: Path, options: list[str], said: str) -> None:
    given = options if "--csv" in options else ["--csv", str(csv), *options]
    told = CliRunner().invoke(app, ["study", "fit", *given])
    assert told.exit_code == 2
    assert said in told.stderr
    assert len(told.stderr.strip().splitlines()) == 1


def test_a_plan_is_told_and_nothing_is_written(tmp_path: Path) -> None:
    before = set(tmp_path.rglob("*"))
    told = CliRunner().invoke(app, ["study", "plan", "positions"])
    assert told.exit_code == 0
    assert "15 trials" in told.stdout
    assert "hours not calibrated" in told.stdout
    assert set(tmp_path.rglob("*")) == before


def test_a_plan_over_its_limit_is_shown_and_refused(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(
        "name: s\nkind: seeds\nseeds: [0, 1]\nbudget: {tokens: [1e6]}\nlimit: {flops: 1e9}\n"
    )
    told = CliRunner().invoke(app, ["study", "plan", str(file)])
    assert "2 trials" in told.stdout
    assert told.exit_code == 2
    assert "is over its limit" in told.stderr


def test_hours_are_foretold_by_training_for_a_few_steps(tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    make_clips(clips, 20, seed=0)
    file = tmp_path / "study.yaml"
    file.write_text("name: s\nkind: seeds\nseeds: [0, 1]\nbudget: {tokens: [1e6]}\n")
    options = ["study", "plan", str(file), "--data", str(clips), "--json"]
    told = json.loads(CliRunner().invoke(app, options).stdout)
    (rate,) = told["flops_per_s"].values()
    assert 1e8 < rate < 1e15
    for trial in told["trials"]:
        assert trial["hours"] == pytest.approx(trial["flops"] / rate / 3600)


def test_without_a_calibration_a_limit_of_hours_is_not_taken_for_kept(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(
        "name: s\nkind: seeds\nseeds: [0, 1]\nbudget: {tokens: [1e6]}\nlimit: {hours: 1}\n"
    )
    options = ["study", "plan", str(file), "--data", str(tmp_path), "--no-calibration"]
    told = CliRunner().invoke(app, options)
    assert told.exit_code == 2
    assert "hours not calibrated" in told.stdout
    assert "limit.hours needs a calibration" in told.stderr


def test_a_trial_is_left_out_and_brought_back(tmp_path: Path) -> None:
    place = ["--home", str(tmp_path), "--store", f"sqlite:///{tmp_path / 'store.db'}"]
    with open_store(place[3]) as store:
        rows = [Trial("s", f"k{i}", i, f"lr={i}", {}, {}, {}) for i in range(2)]
        trials.ask(store, Study("s", {}, "running", 1.0), rows)
    told = CliRunner().invoke(app, ["study", "skip", "s", "lr=1", *place])
    assert told.stdout == "1 trials are left out\n"
    with open_store(place[3]) as store:
        assert [trial.label for trial in trials.trials(store, "s")] == ["lr=0"]
    told = CliRunner().invoke(app, ["study", "skip", "s", "k1", "--undo", *place])
    assert told.stdout == "1 trials are asked for again\n"
