"""The reader: series at the cost of what is new, lamps, and no store made by looking."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moescope.dashboard import reads
from moescope.dashboard.reads import (
    SHOWN_OF_A_RUN,
    RunReader,
    lamp,
    open_for_reading,
    run_now,
    sample_clips,
)
from moescope.platform import catalogue
from moescope.platform.records import Run, Segment
from moescope.platform.store import Store
from moescope.platform.summaries import summaries
from moescope.platform.watchman import SILENT_AFTER_S


def test_a_second_look_reads_only_what_is_new(
    store: Store, spiked_run: Run, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = RunReader(store, spiked_run.id).series(catalogue.LOSS_TOTAL)
    assert first is not None
    assert first.steps.size == 64 + 41
    store.write_frames([make.frame(spiked_run.id, 1, 91, 0.8)])
    asked: list[Any] = []
    read = reads.read_since

    def spy(*args: Any, **kwargs: Any) -> Any:
        series = read(*args, **kwargs)
        asked.append(series.steps.size)
        return series

    monkeypatch.setattr(reads, "read_since", spy)
    second = RunReader(store, spiked_run.id).series(catalogue.LOSS_TOTAL)
    assert second is not None
    assert asked == [1]
    assert second.steps[-1] == 91
    np.testing.assert_array_equal(second.values[:-1], first.values)


def test_a_new_segment_is_read_from_its_first_step(
    store: Store, spiked_run: Run, make: Any
) -> None:
    RunReader(store, spiked_run.id).series(catalogue.LOSS_TOTAL)
    store.write_frames([make.frame(spiked_run.id, 1, 91, 0.8)])
    store.add_segment(Segment(spiked_run.id, 2, 70, "rollback", 0.0, 1, 69))
    store.write_frames([make.frame(spiked_run.id, 2, 70, 0.7)])
    reader = RunReader(store, spiked_run.id)
    series = reader.series(catalogue.LOSS_TOTAL)
    both = reader.branches(catalogue.LOSS_TOTAL)
    assert series is not None
    assert both is not None
    assert (series.segments[-2:].tolist(), series.steps[-2:].tolist()) == ([1, 2], [91, 70])
    np.testing.assert_array_equal(both.living.steps, np.arange(71))
    assert reader.newest_step() == 70


def test_two_stores_with_the_same_run_are_not_mixed_up(
    store: Store, spiked_run: Run, make: Any, tmp_path: Path
) -> None:
    from moescope.platform.store import open_store

    other = open_store(f"sqlite:///{tmp_path / 'other.db'}")
    other.add_run(spiked_run)
    other.add_segment(Segment(spiked_run.id, 0, 0, "start", 0.0))
    other.write_frames([make.frame(spiked_run.id, 0, 0, 3.0)])
    assert RunReader(store, spiked_run.id).newest_step() == 90
    assert RunReader(other, spiked_run.id).newest_step() == 0
    other.close()


def test_a_signal_that_was_not_measured_is_none(store: Store, spiked_run: Run) -> None:
    reader = RunReader(store, spiked_run.id)
    assert reader.series(catalogue.GPU_SHARE) is None
    assert reader.branches(catalogue.GPU_SHARE) is None


def test_one_layer_of_the_expert_load_is_read_alone(store: Store, spiked_run: Run) -> None:
    load = RunReader(store, spiked_run.id).series(catalogue.EXPERT_LOAD, row=2)
    assert load is not None
    assert load.values.shape == (7 + 5, 8)


def test_the_load_at_a_step_is_the_living_one_at_or_before_it(
    store: Store, spiked_run: Run
) -> None:
    reader = RunReader(store, spiked_run.id)
    assert [reader.expert_load_at(step)[0] for step in (None, 49, 63, 500)] == [90, 40, 60, 90]  # type: ignore[index]
    newest = reader.expert_load_at(None)
    # step 60 was trained twice; the branch that counts is the second
    again = reader.expert_load_at(60)
    ghost = reader.series(catalogue.EXPERT_LOAD, row=0)
    assert newest is not None
    assert again is not None
    assert ghost is not None
    is_second = (ghost.segments == 1) & (ghost.steps == 60)
    np.testing.assert_array_equal(again[1][0], ghost.values[is_second][0])


def test_held_steps_are_marked(store: Store, spiked_run: Run) -> None:
    assert RunReader(store, spiked_run.id).marks().held_steps == [62]


@pytest.mark.parametrize(
    ("changes", "severities", "word"),
    [
        ({}, [], "healthy"),
        ({}, ["info"], "healthy"),
        ({}, ["warning", "info"], "warning"),
        ({}, ["warning", "critical"], "critical"),
        ({"heartbeat_s": 100.0 - SILENT_AFTER_S - 1}, ["critical"], "silent"),
        ({"heartbeat_s": 100.0 - SILENT_AFTER_S}, [], "healthy"),
        ({"status": "crashed"}, ["critical"], "crashed"),
        ({"status": "finished", "heartbeat_s": 0.0}, [], "finished"),
    ],
)
def test_the_lamp_says_the_worst(
    make: Any, changes: dict[str, Any], severities: list[str], word: str
) -> None:
    run = make.run(**({"heartbeat_s": 100.0} | changes))
    alerts = [make.alert(run.id, severity=severity) for severity in severities]
    assert lamp(run, alerts, 100.0) == word


def test_time_left_is_said_only_of_a_run_that_runs(store: Store, spiked_run: Run) -> None:
    summary = summaries(store, SHOWN_OF_A_RUN)[spiked_run.id]
    now = run_now(spiked_run, summary, [], spiked_run.heartbeat_s + 4)
    assert now.heartbeat_age_s == pytest.approx(4)
    # steps 91 to 599 at 0.2 s
    assert now.time_left_s == pytest.approx(509 * 0.2, rel=1e-3)
    store.update_run(spiked_run.id, status="finished")
    ended = run_now(store.find_run(spiked_run.id), summary, [], spiked_run.heartbeat_s)
    assert ended.time_left_s is None
    assert run_now(spiked_run, summary, [], spiked_run.heartbeat_s + 3600).time_left_s is None


def test_looking_for_a_store_makes_none(tmp_path: Path) -> None:
    assert open_for_reading(f"sqlite:///{tmp_path / 'no.db'}") is None
    assert list(tmp_path.glob("no.db*")) == []


def test_the_newest_clips_come_first_and_a_missing_folder_is_none(
    make: Any, tmp_path: Path
) -> None:
    import os

    (tmp_path / "samples").mkdir()
    for age_s, name in enumerate(("c.mp4", "b.mp4", "a.mp4", "notes.txt")):
        path = tmp_path / "samples" / name
        path.touch()
        os.utime(path, (1000 - age_s, 1000 - age_s))
    clips = sample_clips(make.run(folder=str(tmp_path)), most=2)
    assert [clip.name for clip in clips] == ["c.mp4", "b.mp4"]
    assert sample_clips(make.run(folder=str(tmp_path / "gone"))) == []
    assert sample_clips(make.run()) == []
