"""Thinning for the eye: no spike is lost, and pictures stand still."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from moescope.dashboard.buckets import bucket_width, bucketed, column_means


def _steps(num: int) -> np.ndarray:
    return np.arange(num, dtype=np.int64)


def test_a_spike_of_one_step_survives_every_width() -> None:
    values = np.ones(100_000, np.float32)
    values[77_777] = 9.0
    for most in (10, 100, 400, 5000):
        assert bucketed(_steps(100_000), values, most).high.max() == 9.0


def test_few_points_are_drawn_as_they_are() -> None:
    line = bucketed(_steps(400), np.arange(400, dtype=np.float32), 400)
    assert line.width == 1
    np.testing.assert_array_equal(line.middle, np.arange(400))


def test_the_line_is_the_lower_median_of_each_bucket() -> None:
    # width 4 covers 8 steps with 2 buckets: sorted (1 2 3 9) and (4 4 5 6), second of four
    values = np.array([3, 9, 1, 2, 4, 6, 4, 5], np.float32)
    line = bucketed(_steps(8), values, 2)
    assert line.width == 4
    np.testing.assert_array_equal(line.steps, [1.5, 5.5])
    np.testing.assert_array_equal(line.low, [1, 4])
    np.testing.assert_array_equal(line.middle, [2, 4])
    np.testing.assert_array_equal(line.high, [9, 6])


def test_a_closed_bucket_does_not_change_while_the_run_grows() -> None:
    values = np.random.default_rng(0).normal(size=3000).astype(np.float32)
    early, late = bucketed(_steps(2500), values[:2500]), bucketed(_steps(3000), values)
    assert early.width == late.width == 8
    num_closed = 2500 // 8
    np.testing.assert_array_equal(early.middle[:num_closed], late.middle[:num_closed])
    np.testing.assert_array_equal(early.high[:num_closed], late.high[:num_closed])


def test_non_finite_values_are_named_and_spoil_no_bucket() -> None:
    values = np.array([1, np.nan, 2, np.inf, 3], np.float32)
    line = bucketed(_steps(5), values, 2)
    np.testing.assert_array_equal(line.non_finite_steps, [1, 3])
    assert np.isfinite(line.middle).all()


def test_a_series_without_a_finite_value_is_an_empty_line() -> None:
    line = bucketed(_steps(2), np.full(2, np.nan, np.float32))
    assert line.steps.size == 0
    np.testing.assert_array_equal(line.non_finite_steps, [0, 1])


@given(
    values=arrays(np.float32, st.integers(1, 300), elements=st.floats(-1e6, 1e6, width=32)),
    first=st.integers(0, 10_000),
    most=st.integers(1, 50),
)
def test_thinning_keeps_minimum_and_maximum(values: np.ndarray, first: int, most: int) -> None:
    line = bucketed(first + _steps(values.size), values, most)
    assert line.low.min() == values.min()
    assert line.high.max() == values.max()
    assert (line.low <= line.middle).all()
    assert (line.middle <= line.high).all()
    assert line.steps.size <= most + 1


def test_the_width_is_a_power_of_two_that_suffices() -> None:
    assert [bucket_width(0, n - 1, 400) for n in (1, 400, 401, 800, 801)] == [1, 1, 2, 2, 4]


def test_columns_of_a_heat_map_are_means_over_aligned_steps() -> None:
    rows = np.array([[1, np.nan], [3, 4], [5, 6]], np.float32)
    steps, means = column_means(np.array([0, 10, 20], np.int64), rows, 2)
    # 21 steps in two columns: width 16 holds steps 0 and 10, then 20
    np.testing.assert_array_equal(steps, [0, 16])
    np.testing.assert_array_equal(means, [[2, 4], [5, 6]])
