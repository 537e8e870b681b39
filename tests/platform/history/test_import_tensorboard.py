"""Event files that others wrote: by torch in both ways, by hand, cut off, resumed."""

import importlib.util
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from torch.utils.tensorboard import SummaryWriter
from typer.testing import Result

from moescope.platform import catalogue
from moescope.platform.series import is_living, read_series
from moescope.platform.store import Store

Invoke = Callable[..., Result]


def brought(result: Result) -> dict[str, Any]:
    (found,) = json.loads(result.stdout)
    assert isinstance(found, dict)
    return found


def test_scalars_are_those_that_tensorboard_itself_reads(
    moescope: Invoke, own_store: Store, tmp_path: Path
) -> None:
    chance = np.random.default_rng(0)
    folder = tmp_path / "logs" / "swift"
    with SummaryWriter(str(folder)) as writer:
        for step in range(300):
            loss = {100: math.nan, 101: math.inf, 102: -math.inf}.get(step, chance.normal())
            writer.add_scalar("train/loss", loss, step)
            writer.add_scalar("lr", 1e-3 / (step + 1), step, new_style=True)
            if step % 50 == 0:
                writer.add_histogram("weights", chance.normal(size=100), step)
                writer.add_text("note", "hello", step)
    found = brought(moescope("import", "tensorboard", str(tmp_path / "logs"), "--json"))
    assert found["run"] == "swift"
    assert found["signals"] == {
        "train/loss": catalogue.LOSS_TOTAL,
        "lr": catalogue.LEARNING_RATE,
    }
    assert found["left"] == {"weights": "histogram", "note/text_summary": "text"}
    reference = EventAccumulator(str(folder), {"scalars": 0, "tensors": 0})
    reference.Reload()
    want = reference.Scalars("train/loss")
    series = read_series(own_store, found["run_id"], catalogue.LOSS_TOTAL)
    assert series.steps.tolist() == [event.step for event in want]
    assert series.times_s.tolist() == [
        # two scalars of a step share its time: that of the last one
        event.wall_time
        for event in reference.Tensors("lr")
    ]
    np.testing.assert_array_equal(
        series.values, np.array([event.value for event in want], np.float32)
    )
    rates = read_series(own_store, found["run_id"], catalogue.LEARNING_RATE).values
    np.testing.assert_array_equal(rates, np.float32([1e-3 / (step + 1) for step in range(300)]))
    again = brought(moescope("import", "tensorboard", str(tmp_path / "logs"), "--json"))
    assert again["num_new"] == 0


def write(folder: Path, rows: list[tuple[int, float, dict[str, float]]], suffix: str) -> None:
    """An event file written by TensorBoard's own writer: (step, time, values)."""
    writer = EventFileWriter(str(folder), filename_suffix=suffix)
    for step, time_s, values in rows:
        summary = Summary(
            value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        )
        writer.add_event(Event(wall_time=time_s, step=step, summary=summary))
    writer.close()


def test_a_resumed_training_has_a_segment_and_a_ghost(
    moescope: Invoke, own_store: Store, tmp_path: Path
) -> None:
    for number, (first, last) in enumerate(((0, 80), (50, 120))):
        rows = [(s, 1e9 + s + 200 * number, {"loss": float(number)}) for s in range(first, last)]
        write(tmp_path / "run", rows, f".{number}")
    # names of the same second are told apart by a number that counts up
    found = brought(moescope("import", "tensorboard", str(tmp_path / "run"), "--json"))
    segments = own_store.segments(found["run_id"])
    assert [(s.start_step, s.parent_step) for s in segments] == [(0, None), (50, 49)]
    series = read_series(own_store, found["run_id"], catalogue.LOSS_TOTAL)
    living = is_living(series, segments)
    assert series.steps[living].tolist() == list(range(120))
    assert series.values[living].tolist() == [0.0] * 50 + [1.0] * 70
    assert (own_store.find_run("run").created_s, own_store.find_run("run").finished_s) == (
        1e9,
        1e9 + 319,
    )


def test_each_folder_is_a_run_and_one_may_be_asked_for(
    moescope: Invoke, refused: Callable[..., str], own_store: Store, tmp_path: Path
) -> None:
    for name in ("a/train", "a/eval", "b"):
        write(tmp_path / "logs" / name, [(1, 1e9, {"loss": 1.0})], "")
    moescope("import", "tensorboard", str(tmp_path / "logs"), "--run", "a/*", "--project", "clips")
    assert sorted(run.name for run in own_store.runs()) == ["a/eval", "a/train"]
    assert {run.project for run in own_store.runs()} == {"clips"}
    line = refused("import", "tensorboard", str(tmp_path / "logs"), "--run", "a/trian")
    assert "did you mean a/train" in line


def test_hyperparameters_come_along_wherever_they_were_written(
    moescope: Invoke, own_store: Store, tmp_path: Path
) -> None:
    with SummaryWriter(str(tmp_path / "run")) as writer:
        writer.add_scalar("loss", 1.0, 0)
        writer.add_text("args", json.dumps({"learning_rate": 3e-4}))
    (tmp_path / "run" / "hparams.yaml").write_text("width: 64\nname: tiny\n")
    with SummaryWriter(str(tmp_path / "plugin")) as writer:
        writer.add_hparams({"lr": 0.1, "is_big": True}, {"best": 1.0}, run_name=".")
    moescope("import", "tensorboard", str(tmp_path / "run"), str(tmp_path / "plugin"))
    params = own_store.find_run("run").config["imported"]["params"]
    assert params == {"width": 64, "name": "tiny", "args": {"learning_rate": 3e-4}}
    params = own_store.find_run("plugin").config["imported"]["params"]
    assert params == {"lr": 0.1, "is_big": True}


def test_a_file_that_is_cut_off_gives_what_is_whole_and_says_so(
    moescope: Invoke, own_store: Store, tmp_path: Path
) -> None:
    write(tmp_path / "run", [(s, 1e9 + s, {"loss": 1.0}) for s in range(20)], "")
    (file,) = (tmp_path / "run").iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:-7])
    found = brought(moescope("import", "tensorboard", str(tmp_path / "run"), "--json"))
    assert (found["num_points"], len(found["notes"])) == (19, 1)
    assert "ends or is damaged after" in found["notes"][0]
    # what was still being written is there at the next import
    file.write_bytes(whole)
    found = brought(moescope("import", "tensorboard", str(tmp_path / "run"), "--json"))
    assert (found["num_points"], found["num_new"], found["notes"]) == (20, 1, [])
    file.write_bytes(whole[:200] + b"\x00\x01\x02" + whole[203:])
    found = brought(moescope("import", "tensorboard", str(tmp_path / "run"), "--json"))
    assert "ends or is damaged after" in found["notes"][0]


def test_without_tensorboard_one_line_says_how_to_get_it(
    refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "moescope.platform.history.tensorboard_source.find_spec",
        lambda name: None if name == "tensorboard" else find(name),
    )
    assert "moescope[tensorboard]" in refused("import", "tensorboard", str(tmp_path))


def test_a_folder_without_events_is_one_line(refused: Callable[..., str], tmp_path: Path) -> None:
    assert "no events.out.tfevents file" in refused("import", "tensorboard", str(tmp_path))
    assert "there is nothing in" in refused("import", "tensorboard", str(tmp_path / "none"))
