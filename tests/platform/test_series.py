"""Reading samples: range first, thinning second, branches last."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from moescope.platform import series as series_module
from moescope.platform import stretches
from moescope.platform.compacted import reading
from moescope.platform.compacted.compaction import compact
from moescope.platform.errors import MoescopeError
from moescope.platform.matrices import read_matrix
from moescope.platform.packing import LARGEST_STEP
from moescope.platform.records import Frame, Run, Segment, Series
from moescope.platform.series import is_living, read_parts, read_series
from moescope.platform.store import Store, open_store
from moescope.platform.thinning import thinned, thinned_from

RUN = Run("r", "run", "p", {}, "running", "cpu", "0", 0.0, 0.0)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(f"sqlite:///{tmp_path / 'store.db'}") as opened:
        opened.add_run(RUN)
        yield opened


def of_points(points: list[tuple[int, int, float]]) -> Series:
    segments, steps, values = zip(*points, strict=True)
    return Series(
        "loss/total",
        np.array(segments, np.int32),
        np.array(steps, np.int64),
        np.array(steps, np.float64),
        np.array(values, np.float32),
    )


def whole(series: Series) -> list[bytes]:
    return [a.tobytes() for a in (series.segments, series.steps, series.times_s, series.values)]


def matrix(step: int, rows: int = 3, numbers: int = 4) -> NDArray[np.float32]:
    return np.arange(rows * numbers, dtype=np.float32).reshape(rows, numbers) + 100 * step


points = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 500), st.floats(width=32)),
    min_size=1,
    max_size=300,
    unique_by=lambda point: point[:2],
).map(sorted)


@settings(deadline=None, derandomize=True)
@given(points, st.integers(20, 200))
def test_a_thinned_series_keeps_first_last_lowest_highest_and_non_finite(
    given_points: list[tuple[int, int, float]], max_points: int
) -> None:
    full = of_points(given_points)
    kept = thinned(full, max_points)
    assert len(kept.steps) <= max_points
    identities = set(zip(full.segments, full.steps, full.values.view(np.int32), strict=True))
    assert identities >= set(
        zip(kept.segments, kept.steps, kept.values.view(np.int32), strict=True)
    )
    for segment in np.unique(full.segments):
        here, there = full.segments == segment, kept.segments == segment
        assert full.steps[here][0] == kept.steps[there][0]
        assert full.steps[here][-1] == kept.steps[there][-1]
    finite = full.values[np.isfinite(full.values)]
    finite_kept = kept.values[np.isfinite(kept.values)]
    if len(finite):
        assert (finite.min(), finite.max()) == (finite_kept.min(), finite_kept.max())
    odd, odd_kept = (s.steps[~np.isfinite(s.values)] for s in (full, kept))
    assert set(odd[:1]) | set(odd[-1:]) <= set(odd_kept)


@settings(deadline=None, derandomize=True)
@given(points, st.integers(20, 60), st.data())
def test_thinning_in_stages_keeps_what_thinning_at_once_keeps(
    given_points: list[tuple[int, int, float]], max_points: int, data: st.DataObject
) -> None:
    part, width = None, 1
    start = 0
    while start < len(given_points):
        end = data.draw(st.integers(start + 1, len(given_points)))
        new = of_points(given_points[start:end])
        whole_so_far = stretches.joined("loss/total", [part, new] if part else [new], 0)
        part, width = thinned_from(whole_so_far, 2 * max_points, width)
        start = end
    assert part is not None
    in_stages = thinned_from(part, max_points, width)[0]
    assert whole(in_stages) == whole(thinned(of_points(given_points), max_points))


def test_a_closed_bucket_stays_as_it_was_while_the_run_grows() -> None:
    values = np.random.default_rng(0).normal(size=4000)
    before = thinned(of_points([(0, i, values[i]) for i in range(3000)]), 1000)
    after = thinned(of_points([(0, i, values[i]) for i in range(3050)]), 1000)
    # the last bucket of both is open, and both keep their own last point
    closed = before.steps[:-3]
    assert closed.tolist() == after.steps[: len(closed)].tolist()


def test_one_step_spike_is_kept_at_every_zoom(store: Store) -> None:
    values = np.random.default_rng(0).normal(size=3000).astype(np.float32)
    values[1234] = 50.0
    store.write_frames([Frame("r", 0, i, 0.0, {"loss/total": values[i]}) for i in range(3000)])
    for first, last, most in [(0, 2999, 50), (0, 2999, 500), (1200, 1300, 40), (1234, 1234, 10)]:
        found = read_series(
            store, "r", "loss/total", from_step=first, to_step=last, max_points=most
        )
        assert len(found.steps) <= most
        assert found.values.max() == 50.0


def test_the_range_is_cut_before_the_series_is_thinned(store: Store) -> None:
    frames = [
        Frame("r", segment, i, 0.0, {"loss/total": np.float32(i)})
        for segment, steps in ((0, range(100)), (1, range(60, 120)))
        for i in steps
    ]
    store.write_frames(frames)
    found = read_series(store, "r", "loss/total", from_step=90, to_step=110, max_points=1000)
    assert found.steps.tolist() == [*range(90, 100), *range(90, 111)]
    only = read_series(store, "r", "loss/total", from_step=90, to_step=110, segments=[1])
    assert only.steps.tolist() == list(range(90, 111))
    assert len(read_series(store, "r", "loss/total", from_step=500).steps) == 0


def test_long_series_read_in_parts_are_as_if_read_at_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(1)
    frames = [
        Frame(
            "r",
            step // 400,
            step,
            step / 2,
            {
                "loss/total": rng.normal(size=()).astype(np.float32),
                "router/max_violation": rng.random(3, dtype=np.float32),
                **({"router/expert_load": rng.random((3, 4), np.float32)} if step % 7 == 0 else {}),
            },
        )
        for step in range(1000)
    ]
    store.write_frames(frames)
    cases = [
        ("loss/total", None, None),
        ("loss/total", None, 60),
        ("router/max_violation", None, 60),
        ("router/expert_load", None, None),
        ("router/expert_load", 2, 40),
    ]

    def read() -> list[list[bytes]]:
        return [whole(read_series(store, "r", s, row=r, max_points=m)) for s, r, m in cases]

    at_once = read()
    monkeypatch.setattr(reading, "STEPS_AT_ONCE", 64)
    monkeypatch.setattr(series_module, "_NUMBERS_AT_ONCE", 100)
    assert read() == at_once


def test_a_matrix_comes_row_by_row_or_whole_with_its_times(store: Store) -> None:
    frames = [Frame("r", 0, i, 7.0 * i, {"router/expert_load": matrix(i)}) for i in range(5)]
    # other signals of the group, at other steps, must not disturb it
    frames += [
        Frame("r", 0, i, 7.0 * i, {"router/max_violation": np.ones(3, "f4")}) for i in (5, 9)
    ]
    store.write_frames(frames)
    full = read_series(store, "r", "router/expert_load")
    assert full.values.tolist() == [matrix(i).tolist() for i in range(5)]
    assert full.times_s.tolist() == [0.0, 7.0, 14.0, 21.0, 28.0]
    one = read_series(store, "r", "router/expert_load", row=1)
    assert one.values.tolist() == [matrix(i)[1].tolist() for i in range(5)]
    with pytest.raises(MoescopeError, match="row 3 of router/expert_load: expected 0 to 2"):
        read_series(store, "r", "router/expert_load", row=3)
    with pytest.raises(MoescopeError, match="only a signal of two dimensions has rows"):
        read_series(store, "r", "router/max_violation", row=0)


def test_a_shape_that_changes_leaves_nan_where_nothing_was_measured(store: Store) -> None:
    shapes = [(2, 4), (3, 2), (1, 4)]
    for segment, shape in enumerate(shapes):
        value = np.ones(shape, np.float32)
        store.write_frames([Frame("r", segment, 0, 0.0, {"router/expert_load": value})])
    found = read_series(store, "r", "router/expert_load")
    assert found.values.shape == (3, 3, 4)
    for point, (rows, numbers) in zip(found.values, shapes, strict=True):
        assert (point[:rows, :numbers] == 1).all()
        assert np.isnan(point).sum() == 12 - rows * numbers


def test_a_signal_that_was_not_measured_is_empty_and_a_wrong_one_an_error(store: Store) -> None:
    assert read_series(store, "r", "loss/total").values.shape == (0,)
    assert read_series(store, "r", "router/expert_load").values.shape == (0, 0, 0)
    assert read_series(store, "r", "router/expert_load", row=3).values.shape == (0, 0)
    assert read_series(store, "r", "user/mine", max_points=10).values.shape == (0,)
    with pytest.raises(MoescopeError, match="unknown signal loss/totl"):
        read_series(store, "r", "loss/totl")


@pytest.mark.parametrize("signal", ["loss/total", "grad/norm"])
def test_a_range_the_wrong_way_round_is_refused(store: Store, signal: str) -> None:
    store.write_frames([Frame("r", 0, 7, 1.0, {"loss/total": np.float32(1)})])
    for ask in (
        lambda: read_series(store, "r", signal, from_step=10, to_step=5),
        lambda: list(read_parts(store, "r", signal, from_step=10, to_step=5)),
        lambda: read_matrix(store, "r", signal, max_buckets=9, from_step=10, to_step=5),
    ):
        with pytest.raises(MoescopeError, match="from_step 10 is after to_step 5: give the first"):
            ask()
    assert len(read_series(store, "r", "loss/total", from_step=7, to_step=7).steps) == 1


def test_only_a_matrix_is_asked_for_a_row(store: Store) -> None:
    store.write_frames([Frame("r", 0, 7, 1.0, {"loss/total": np.float32(1)})])
    for ask in (
        lambda: read_series(store, "r", "loss/total", row=0),
        lambda: read_matrix(store, "r", "loss/total", max_buckets=9, row=0),
    ):
        with pytest.raises(MoescopeError, match="only a signal of two dimensions has rows"):
            ask()


def test_steps_may_lie_far_apart_and_before_the_start(store: Store) -> None:
    """As in a history that counts tokens, or whose first numbers are from before the training."""
    steps = [-1030, -5, 3, 10**12, 10**12 + 5]
    far = Frame("r", 0, LARGEST_STEP + 1, 0.0, {"loss/total": np.float32(0)})
    with pytest.raises(MoescopeError, match="too far from 0"):
        store.write_frames([far])
    store.write_frames(
        [Frame("r", 0, step, 0.0, {"loss/total": np.float32(i)}) for i, step in enumerate(steps)]
    )
    for _ in range(2):
        assert read_series(store, "r", "loss/total").steps.tolist() == steps
        thinned_few = read_series(store, "r", "loss/total", max_points=2)
        assert (thinned_few.steps[0], thinned_few.steps[-1]) == (steps[0], steps[-1])
        bands = read_matrix(store, "r", "loss/total", max_buckets=10)
        assert (bands.low.min(), bands.high.max(), bands.num_points.sum()) == (0, 4, 5)
        compact(store, replace(RUN, status="finished"))


def segment(index: int, start: int, parent: int | None = None, until: int | None = None) -> Segment:
    return Segment("r", index, start, "rollback" if index else "start", 0.0, parent, until)


@pytest.mark.parametrize(
    ("segments", "ghosts"),
    [
        pytest.param([segment(0, 0)], [], id="one segment lives whole"),
        pytest.param(
            [segment(0, 0), segment(1, 3, 0, 2)], [(0, 3), (0, 4), (0, 5)], id="after a rollback"
        ),
        pytest.param([segment(0, 0), segment(1, 6, 0, 5)], [], id="after a resume nothing is lost"),
        pytest.param(
            [segment(0, 0), segment(1, 4, 0, 3), segment(2, 2, 0, 1)],
            [(0, 2), (0, 3), (0, 4), (0, 5), (1, 4), (1, 5)],
            id="back behind a segment: all of it is abandoned",
        ),
        pytest.param(
            [segment(0, 0), segment(1, 4, 0, 3), segment(2, 2, 1, 1)],
            [(0, 2), (0, 3), (0, 4), (0, 5), (1, 4), (1, 5)],
            id="the same, told as a child of the segment that it left",
        ),
        pytest.param([], [], id="nothing is known of segments"),
    ],
)
def test_points_of_an_abandoned_branch_are_ghosts(
    segments: list[Segment], ghosts: list[tuple[int, int]]
) -> None:
    known = {s.index: s.start_step for s in segments}
    series = of_points([(s, i, 0.0) for s in range(3) for i in range(known.get(s, 0), 6)])
    alive = is_living(series, segments)
    found = [
        (int(s), int(step))
        for s, step, is_alive in zip(series.segments, series.steps, alive, strict=True)
        if not is_alive and s in known
    ]
    assert found == ghosts
    # training went on in segments that the reader has not heard of yet
    assert alive[~np.isin(series.segments, sorted(known))].all()
