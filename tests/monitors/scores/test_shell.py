"""`moescope score-detectors` as a command."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from moescope.cli import app
from moescope.monitors.scores.public_rules import PUBLIC_RULES
from moescope.monitors.scores.shapes import SHAPES


@pytest.fixture
def spikes(tmp_path: Path) -> Path:
    path = tmp_path / "spikes" / "recorded.csv"
    path.parent.mkdir()
    path.write_text("event,step,loss,outcome\nx,10,2.0,lost\nx,11,4.0,lost\nx,14,5.0,lost\n")
    return path


def test_all_rules_are_scored_on_the_same_curves(
    write_curve: Callable[..., Path], spikes: Path, tmp_path: Path
) -> None:
    for i in range(2):
        write_curve(f"2026-01-0{i + 1}_mine_{i}.csv", 1010, seed=i)
    options = [str(tmp_path), "--spikes", str(spikes), "--places", "3", "--seed", "5", "--json"]
    told = CliRunner().invoke(app, ["score-detectors", *options])
    assert told.exit_code == 0, told.output
    report = json.loads(told.stdout)
    assert report["groups"] == report["orders"] == ["mine"]
    rules = ["moescope", *PUBLIC_RULES]
    assert [row["rule"] for row in report["false_events"]] == rules
    assert {row["num_steps"] for row in report["false_events"]} == {1020}
    assert len(report["detections"]) == len(rules) * len(SHAPES)
    assert {row["num_places"] for row in report["detections"]} == {3}
    ours = {r["shape"]: r for r in report["detections"] if r["rule"] == "moescope"}
    assert ours["BLOOM spike x1"]["share"] == ours["one NaN"]["share"] == 1.0
    assert ours["nothing, for 40 steps"]["share"] == ours["one batch x3"]["share"] == 0.0
    assert [r["event"] for r in report["recorded"]] == ["x"] * len(rules)
    assert report["roc"]


def test_the_tables_say_what_was_judged(write_curve: Callable[..., Path]) -> None:
    path = write_curve("run.csv", 700)
    told = CliRunner().invoke(app, ["score-detectors", str(path), "--places", "1"])
    assert told.exit_code == 0, told.output
    for text in ("1 healthy curves (held-out)", "after 500 steps", "moescope", "FlagScale"):
        assert text in told.stdout
    # too short to plant anything in
    assert "BLOOM" not in told.stdout
    assert "Nothing was planted: no curve has more than" in told.stdout


@pytest.mark.parametrize("odd", [0.0, 1e308, -1e308])
def test_losses_at_the_ends_of_numbers_are_scored(
    write_curve: Callable[..., Path], odd: float
) -> None:
    path = write_curve("run.csv", 1010)
    header, *rows = path.read_text().splitlines()
    rows[620:632] = [f"{i},{odd}," for i in range(620, 632)]
    # as a spreadsheet saves it
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8-sig")
    options = [str(path), "--places", "2", "--seed", "1", "--json"]
    told = CliRunner().invoke(app, ["score-detectors", *options])
    assert told.exit_code == 0, told.output
    assert json.loads(told.stdout)["detections"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        pytest.param(["gone.csv"], "gone.csv cannot be read", id="no-such-file"),
        pytest.param(["empty.csv"], "is empty", id="empty"),
        pytest.param(["."], "was given before", id="twice"),
        pytest.param(["good.csv", "--spikes", "gone.csv"], "cannot be read", id="no-such-spikes"),
        pytest.param(["good.csv", "--part", "tuning"], "--part held-out", id="no-curve-of-part"),
        pytest.param(["good.csv", "--part", "best"], "--part", id="unknown-part"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    write_curve: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    expected: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_curve("good.csv", 20)
    if words == ["empty.csv"]:
        Path("empty.csv").touch()
    given = [*words, "good.csv"] if words == ["."] else words
    told = CliRunner().invoke(app, ["score-detectors", *given])
    assert told.exit_code == 2
    assert expected in told.stderr
    assert len(told.stderr.splitlines()) == 1


def test_the_scores_load_no_torch() -> None:
    code = "import sys, moescope.monitors.scores.report as _; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
