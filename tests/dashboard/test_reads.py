"""The reader: series at the cost of what is new, lamps, and no store made by looking."""

from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moescope.dashboard import kept_bands
from moescope.dashboard.charts import per_layer_figure, scalar_figure
from moescope.dashboard.reads import (
    SHOWN_OF_A_RUN,
    RunReader,
    lamp,
    open_for_reading,
    run_now,
)
from moescope.dashboard.window import Window
from moescope.platform import catalogue
from moescope.platform.records import Frame, Run, Segment
from moescope.platform.series import is_living, read_series
from moescope.platform.store import Store
from moescope.platform.summaries import summaries
from moescope.platform.watchman import SILENT_AFTER_S

_NUMBERS = count()
"""Of runs, so that each example of hypothesis has its own."""


def test_a_second_look_reads_only_what_is_new(
    store: Store, spiked_run: Run, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = RunReader(store, spiked_run.id).branches(catalogue.LOSS_TOTAL, Window())
    assert first is not None
    assert len(first.living.steps) + len(first.ghosts.steps) == 64 + 41
    asked: list[Any] = []
    read = kept_bands.bands_of

    def spy(store: Store, source: Any, pieces: Any, *rest: Any) -> Any:
        asked.extend(pieces)
        return read(store, source, pieces, *rest)

    monkeypatch.setattr(kept_bands, "bands_of", spy)
    again = RunReader(store, spiked_run.id).branches(catalogue.LOSS_TOTAL, Window())
    assert again is not None
    assert asked == []
    store.write_frames([make.frame(spiked_run.id, 1, 91, 0.8)])
    second = RunReader(store, spiked_run.id).branches(catalogue.LOSS_TOTAL, Window())
    assert second is not None
    # the last bucket might have been open, so it is read once more
    assert asked == [(1, 90, 91)]
    assert second.living.steps[-1] == 91
    np.testing.assert_array_equal(second.living.mean[:-1], first.living.mean)


def test_a_range_that_only_an_abandoned_branch_has_can_be_drawn(
    store: Store, spiked_run: Run, make: Any
) -> None:
    """So it is at the first look after a rollback, before the new branch has measured anything."""
    store.write_frames([make.frame(spiked_run.id, 0, step, 5.0) for step in range(64, 120)])
    reader = RunReader(store, spiked_run.id)
    window = Window((100, 110))
    for signal in (catalogue.LOSS_TOTAL, catalogue.ACTIVATION_RMS):
        found = reader.branches(signal, window)
        assert found is not None
        assert not len(found.living.steps)
        assert found.living.low.shape[1] == found.ghosts.low.shape[1]
    loss = reader.branches(catalogue.LOSS_TOTAL, window)
    assert loss is not None
    figure = scalar_figure(loss, window, name="loss", unit="mse", marks=reader.marks(window))
    assert "abandoned branch" in [trace.name for trace in figure.data]
    layers = reader.branches(catalogue.ACTIVATION_RMS, window)
    assert layers is not None
    assert per_layer_figure(layers, window, layer="block", unit="1").data


def test_a_new_segment_is_read_from_its_first_step(
    store: Store, spiked_run: Run, make: Any
) -> None:
    RunReader(store, spiked_run.id).branches(catalogue.LOSS_TOTAL, Window())
    store.write_frames([make.frame(spiked_run.id, 1, 91, 0.8)])
    store.add_segment(Segment(spiked_run.id, 2, 70, "rollback", 0.0, 1, 69))
    store.write_frames([make.frame(spiked_run.id, 2, 70, 0.7)])
    reader = RunReader(store, spiked_run.id)
    both = reader.branches(catalogue.LOSS_TOTAL, Window())
    assert both is not None
    np.testing.assert_array_equal(both.living.steps, np.arange(71))
    assert both.living.segments[-1] == 2
    assert (both.ghosts.segments[-1], both.ghosts.steps[-1]) == (1, 91)
    assert reader.newest_step() == 70


@given(data=st.data())
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
def test_looks_at_a_growing_run_add_up_to_one_look(
    store: Store, make: Any, data: st.DataObject
) -> None:
    """Whatever was looked at before, and whenever: the same buckets come as to a first look."""
    run = make.run(f"grows-{next(_NUMBERS)}")
    store.add_run(run)
    store.add_segment(Segment(run.id, 0, 0, "start", 0.0))
    segment, step = 0, 0
    for _ in range(data.draw(st.integers(1, 6))):
        num = data.draw(st.integers(1, 40))
        store.write_frames(
            [make.frame(run.id, segment, step + i, 1.0 + (step + i) % 7) for i in range(num)]
        )
        step += num
        if data.draw(st.booleans()):
            back = data.draw(st.integers(0, step - 1))
            segment += 1
            parent = back - 1 if back else None
            store.add_segment(Segment(run.id, segment, back, "rollback", 0.0, segment - 1, parent))
            store.write_frames([make.frame(run.id, segment, back, 2.0)])
            step = back + 1
        first = data.draw(st.integers(0, step))
        asked = data.draw(st.sampled_from([None, (first, first + 50)]))
        RunReader(store, run.id).branches(catalogue.LOSS_TOTAL, Window(asked), most=8)
    reader = RunReader(store, run.id)
    for asked in (None, (step // 2, step + 5)):
        found = reader.branches(catalogue.LOSS_TOTAL, Window(asked), most=8)
        series = read_series(store, run.id, catalogue.LOSS_TOTAL)
        is_there = is_living(series, reader.segments)
        if asked is not None:
            is_there &= (series.steps >= asked[0]) & (series.steps <= asked[1])
        assert found is not None
        assert found.living.num_points.sum() == is_there.sum()
        assert found.living.high.max() == series.values[is_there].max()
        assert found.living.low.min() == series.values[is_there].min()


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
    assert reader.branches(catalogue.GPU_SHARE, Window()) is None


def test_one_layer_of_the_expert_load_is_read_alone(store: Store, spiked_run: Run) -> None:
    load = RunReader(store, spiked_run.id).branches(catalogue.EXPERT_LOAD, Window(), row=2)
    assert load is not None
    assert len(load.living.steps) + len(load.ghosts.steps) == 7 + 5
    assert load.living.mean.shape[1] == 8


def test_rows_of_a_matrix_come_side_by_side(store: Store, spiked_run: Run) -> None:
    reader = RunReader(store, spiked_run.id)
    whole = reader.branches(catalogue.EXPERT_LOAD, Window())
    rows = [reader.branches(catalogue.EXPERT_LOAD, Window(), row=row) for row in range(3)]
    assert whole is not None
    np.testing.assert_array_equal(
        whole.living.mean, np.hstack([row.living.mean for row in rows if row is not None])
    )


def test_the_load_at_a_step_is_the_living_one_at_or_before_it(
    store: Store, spiked_run: Run
) -> None:
    reader = RunReader(store, spiked_run.id)
    assert [reader.expert_load_at(step)[0] for step in (None, 49, 63, 500)] == [90, 40, 60, 90]  # type: ignore[index]
    newest = reader.expert_load_at(None)
    # step 60 was trained twice; the branch that counts is the second
    again = reader.expert_load_at(60)
    assert newest is not None
    assert again is not None
    second = read_series(store, spiked_run.id, catalogue.EXPERT_LOAD, row=0, segments=[1])
    np.testing.assert_array_equal(again[1][0], second.values[second.steps == 60][0])


def test_held_steps_are_marked(store: Store, spiked_run: Run) -> None:
    assert RunReader(store, spiked_run.id).marks(Window()).held == [(0, 62)]


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


def test_an_axis_of_time_is_offered_where_the_moments_are_known(store: Store, make: Any) -> None:
    run = make.run()
    store.add_run(run)
    store.add_segment(Segment(run.id, 0, 0, "start", run.created_s))
    store.write_frames([Frame(run.id, 0, 0, 1.0, {catalogue.GRAD_NORM: np.float32(1)})])
    assert RunReader(store, run.id).axes() == ["step"]
    store.write_frames([Frame(run.id, 0, 1, 2.0, {catalogue.LOSS_TOTAL: np.float32(1)})])
    assert RunReader(store, run.id).axes() == ["step", "wall time"]
