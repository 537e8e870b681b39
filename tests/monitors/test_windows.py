import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moescope.monitors.windows import AcceptedWindow, Persistence, median

finite = st.floats(-1e6, 1e6)


@given(st.lists(finite, min_size=1, max_size=50))
def test_the_median_is_numpys_median(values: list[float]) -> None:
    assert median(np.array(values)) == pytest.approx(float(np.median(values)), abs=1e-9)


def test_the_score_is_the_distance_from_the_median_in_mads() -> None:
    window = AcceptedWindow(size=8, min_count=5, floor=0.01)
    for value in (1.0, 2.0, 3.0, 4.0, 5.0):
        window.push(value)
    # median 3, |x - 3| = 2 1 0 1 2, MAD 1: (9 - 3) / (1.4826 * 1)
    assert window.score(9.0) == pytest.approx(6 / 1.4826)


def test_a_window_says_nothing_below_its_least_count() -> None:
    window = AcceptedWindow(size=8, min_count=5, floor=0.01)
    for value in range(4):
        window.push(float(value))
    assert window.score(100.0) is None
    assert not window.is_ready


def test_equal_values_are_scored_by_the_floor() -> None:
    window = AcceptedWindow(size=4, min_count=2, floor=0.5)
    window.push(1.0)
    window.push(1.0)
    assert window.score(2.0) == pytest.approx(2.0)  # (2 - 1) / 0.5


def test_the_oldest_value_leaves_a_full_window() -> None:
    window = AcceptedWindow(size=3, min_count=1, floor=1.0)
    for value in (100.0, 1.0, 1.0, 1.0):
        window.push(value)
    assert window.score(1.0) == 0.0
    assert window.count == 3


def scores(persistence: Persistence, values: list[float]) -> list[tuple[int, int]]:
    """(step of the alarm, its onset) for each alarm."""
    found = [(step, persistence.update(step, value)) for step, value in enumerate(values)]
    return [(step, onset) for step, onset in found if onset is not None]


def lasting() -> Persistence:
    return Persistence(threshold=4.0, patience=3, of_last=5, calm_steps=3, raised=2.5)


def test_two_of_five_are_not_yet_lasting() -> None:
    assert scores(lasting(), [0, 9, 0, 0, 0, 9, 0, 9, 0, 0, 0]) == []


def test_three_of_five_fire_with_the_first_of_them_as_onset() -> None:
    assert scores(lasting(), [0, 0, 9, 0, 9, 9, 9]) == [(5, 2)]


def test_the_onset_reaches_back_over_scores_that_were_already_raised() -> None:
    # 2.6 and 3 are above `raised`, so the stretch began with them, two steps before the first
    # excess
    assert scores(lasting(), [0, 2.6, 3, 5, 6, 7]) == [(5, 1)]


def test_a_stretch_ends_after_calm_scores_and_may_begin_again() -> None:
    values = [9.0, 9, 9, 9, 0, 0, 9, 0, 0, 0, 9, 9, 9]
    # calm at 7, 8, 9 ends it; the second one needs three of its own
    assert scores(lasting(), values) == [(2, 0), (12, 10)]


@given(st.lists(st.floats(0, 8), max_size=60), st.integers(0, 60))
def test_a_persistence_split_in_two_finds_the_same(values: list[float], at: int) -> None:
    whole, first, second = lasting(), lasting(), lasting()
    expected = [whole.update(step, value) for step, value in enumerate(values)]
    found = [first.update(step, value) for step, value in enumerate(values[:at])]
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    found += [second.update(at + i, value) for i, value in enumerate(values[at:])]
    assert found == expected
