"""The mean of a group of runs and how far they lie apart, in numbers to check by hand."""

import numpy as np
import pytest

from moescope.dashboard.spread import spread_of


def line(*points: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    x, y = zip(*points, strict=True)
    return np.array(x, float), np.array(y, float)


def test_three_lines_have_mean_extremes_and_standard_error() -> None:
    found = spread_of([line((0, 1), (10, 1)), line((0, 2), (10, 4)), line((0, 3), (10, 7))])
    assert found is not None
    assert (found.num, found.x.tolist()) == (3, [0, 10])
    assert found.mean.tolist() == [2, 4]
    assert (found.low.tolist(), found.high.tolist()) == ([1, 1], [3, 7])
    # 1, 2, 3 have a standard deviation of 1; 1, 4, 7 of 3; over the root of 3
    assert found.error.tolist() == pytest.approx([0.57735027, 1.73205081])


def test_it_reaches_from_the_last_beginning_to_the_first_end() -> None:
    found = spread_of([line((0, 0), (4, 4), (8, 8)), line((2, 2), (6, 6))])
    assert found is not None
    assert (found.x[0], found.x[-1]) == (2, 6)
    assert found.mean.tolist() == pytest.approx(found.x.tolist())  # both are y = x


def test_lines_that_share_no_place_have_none() -> None:
    assert spread_of([line((0, 0), (1, 1)), line((2, 2), (3, 3))]) is None
    assert spread_of([line((0, float("nan")))]) is None
    assert spread_of([]) is None


def test_one_run_is_its_own_mean_without_an_error() -> None:
    found = spread_of([line((0, 1), (1, 2))])
    assert found is not None
    assert found.num == 1
    assert found.mean.tolist() == [1, 2]
    assert found.error.tolist() == [0, 0]


def test_what_is_not_finite_is_passed_over() -> None:
    found = spread_of([line((0, 0), (1, float("nan")), (2, 2)), line((0, 0), (2, 2))])
    assert found is not None
    assert found.mean.tolist() == pytest.approx(found.x.tolist())


def test_on_a_logarithmic_axis_places_lie_evenly_in_the_logarithm() -> None:
    found = spread_of([line((1, 1), (10, 1), (100, 1)), line((1, 3), (10, 3), (100, 3))], True)
    assert found is not None
    assert found.x.tolist() == pytest.approx([1, 10, 100])
