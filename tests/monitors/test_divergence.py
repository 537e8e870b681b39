import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moescope.monitors.detectors.divergence import DivergenceScore


def test_the_score_is_the_least_of_the_last_over_the_median_of_the_first() -> None:
    score = DivergenceScore()
    assert [score.update(value) for value in (12.0, 10.0)] == [0.0, 0.0]
    assert score.update(44.0) == pytest.approx(10 / 12)  # the median of the first three is 12
    assert score.update(48.0) == pytest.approx(10 / 12)
    assert score.update(47.0) == pytest.approx(44 / 12)


def test_two_outliers_are_no_divergence() -> None:
    score = DivergenceScore()
    values = [10.0, 9.0, 8.0, 7.0, 90.0, 90.0, 7.0, 7.0]
    assert max(score.update(value) for value in values) < 1


def test_one_nan_of_a_start_is_passed_over() -> None:
    score = DivergenceScore()
    for value in (10.0, math.nan, 10.0, 10.0, 20.0, math.inf, 20.0):
        score.update(value)
    assert score.update(20.0) == pytest.approx(2.0)


def test_a_start_that_is_not_positive_is_no_measure() -> None:
    score = DivergenceScore()
    assert max(score.update(value) for value in (-1.0, -1.0, -1.0, 5.0, 5.0, 5.0)) == 0.0


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0.1, 9), max_size=12), st.integers(0, 12))
def test_a_divergence_score_split_in_two_says_the_same(values: list[float], at: int) -> None:
    whole, first, second = (DivergenceScore() for _ in range(3))
    expected = [whole.update(value) for value in values]
    found = [first.update(value) for value in values[:at]]
    second.load_state_dict(first.state_dict())
    assert found + [second.update(value) for value in values[at:]] == expected
