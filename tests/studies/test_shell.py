"""`moescope study fit` from a file."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from moescope.cli import app

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
