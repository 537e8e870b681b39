"""How values are spread over time: golden bins, and what of a run is read for it."""

from typing import Any

import numpy as np
import pytest

from moescope.dashboard.distributions import (
    NUM_BINS,
    Columns,
    distribution_over_time,
    edges_of,
    shares_of,
)
from moescope.dashboard.reads import RunReader
from moescope.dashboard.reads_of_distributions import columns_of
from moescope.dashboard.window import Window
from moescope.platform import catalogue
from moescope.platform.records import Frame, Run, Segment
from moescope.platform.store import Store


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def test_bins_are_even_between_the_lowest_and_the_highest_value() -> None:
    edges = edges_of([floats(0, 32), floats(float("nan"), 8)], is_log=False)
    assert edges.tolist() == pytest.approx(list(range(33)))
    powers = edges_of([floats(1, 2**NUM_BINS), floats(0, -1)], is_log=True)
    assert powers.tolist() == pytest.approx([2.0**i for i in range(33)])


def test_ends_that_mean_something_stay_where_they_are() -> None:
    edges = edges_of([floats(0.4)], is_log=False, ends=(0.0, 1.0))
    assert (edges[0], edges[-1]) == (0.0, 1.0)


@pytest.mark.parametrize("is_log", [False, True])
def test_a_value_that_never_changes_has_bins_around_it(is_log: bool) -> None:
    edges = edges_of([floats(2, 2)], is_log=is_log)
    assert edges[0] < 2 < edges[-1]
    assert shares_of([floats(2, 2)], edges).sum() == pytest.approx(1)


def test_a_column_adds_up_to_its_share_of_finite_values() -> None:
    shares = shares_of([floats(0, 1, 3, 3), floats(3, float("nan"))], np.array([0.0, 2.0, 4.0]))
    assert shares.tolist() == [[0.5, 0.0], [0.5, 0.5]]


def test_the_outermost_values_are_in_the_outermost_bins() -> None:
    values = [np.random.default_rng(0).lognormal(size=1000).astype(np.float32)]
    assert shares_of(values, edges_of(values, is_log=True)).sum() == pytest.approx(1)


def test_the_figure_has_the_median_as_a_line_and_empty_bins_blank() -> None:
    steps, segments = np.array([0.5, 2.5]), np.zeros(2, np.int32)
    columns = Columns(2, 2, segments, steps, [floats(1, 2, 4), floats(4, 4, 8)])
    figure = distribution_over_time(columns, Window(), unit="mse", is_log=True)
    heat, median = figure.data
    assert median.y == (2, 4)
    assert np.nansum(heat.z, axis=0).tolist() == pytest.approx([1, 1])
    assert np.isnan(heat.z).any()
    assert figure.layout.yaxis.type == "log"


def test_a_short_run_is_read_whole_and_only_what_counts(store: Store, spiked_run: Run) -> None:
    reader = RunReader(store, spiked_run.id)
    found = columns_of(store, reader, catalogue.LOSS_PER_SAMPLE, 0, None)
    assert found is not None
    assert found.num_read == found.width == 2
    every = np.concatenate([values.ravel() for values in found.values])
    assert every.size == 91 * 4  # steps of the living branch, four samples each
    assert every.max() == 1.0  # the spike of 5 is on the abandoned one


def test_a_range_is_kept_to(store: Store, spiked_run: Run) -> None:
    reader = RunReader(store, spiked_run.id)
    found = columns_of(store, reader, catalogue.LOSS_PER_SAMPLE, None, (10, 20))
    assert found is not None
    assert sum(values.size for values in found.values) == 11 * 2 * 4
    assert columns_of(store, reader, catalogue.LOSS_PER_SAMPLE, None, (1000, 2000)) is None
    assert columns_of(store, reader, catalogue.UPDATE_WEIGHT_RATIO, None, None) is None


def test_of_a_long_run_the_beginning_of_each_stretch_is_read(store: Store, make: Any) -> None:
    run = make.run("long")
    store.add_run(run)
    store.add_segment(Segment(run.id, 0, 0, "start", run.created_s))
    frames = [
        Frame(
            run.id, 0, step, float(step), {catalogue.LOSS_PER_SAMPLE: np.full((2, 1), step, "f4")}
        )
        for step in range(9000)
    ]
    for start in range(0, 9000, 1000):
        store.write_frames(frames[start : start + 1000])
    reader = RunReader(store, run.id)
    found = columns_of(store, reader, catalogue.LOSS_PER_SAMPLE, 0, None)
    assert found is not None
    assert (found.width, found.num_read, len(found.values)) == (256, 64, 36)
    assert found.values[1].ravel().tolist() == list(range(256, 320))
    assert found.steps[1] == 256 + 127.5
