import numpy as np
import pytest

from moescope.monitors.detectors.non_finite import non_finite_score


def test_the_score_is_the_share_of_values_that_are_not_numbers() -> None:
    assert non_finite_score(np.array([1.0, np.nan, np.inf, -np.inf])) == pytest.approx(0.75)


def test_numbers_and_empty_arrays_have_score_zero() -> None:
    assert non_finite_score(np.array(3.0)) == 0.0
    assert non_finite_score(np.zeros((0, 4))) == 0.0
