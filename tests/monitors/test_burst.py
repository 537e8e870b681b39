import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moescope.monitors.detectors.burst import BurstScore


def taught(**options: float) -> BurstScore:
    """A burst score that knows a level of 0 with the floor 1 as its sigma."""
    burst = BurstScore(window=64, min_count=8, floor=1.0, level_rate=0.0, **options)
    for _ in range(64):
        burst.update(0.0)
    return burst


def test_the_sum_grows_by_the_clipped_excess_over_the_slack() -> None:
    burst = taught()
    assert burst.update(2.5) == pytest.approx(0.5)  # 2.5 - 2
    assert burst.update(50.0) == pytest.approx(1.5)  # clipped: 3 - 2
    assert burst.update(2.75) == pytest.approx(2.25)  # 2.75 - 2
    assert burst.update(0.0) == pytest.approx(0.25)  # 0 - 2
    assert burst.update(0.0) == 0.0


def test_two_outliers_in_a_row_are_no_burst() -> None:
    burst = taught()
    assert [burst.update(1e9), burst.update(1e9), burst.update(0.0)] == [1.0, 2.0, 0.0]


def test_a_burst_ends_soon_after_its_last_high_value() -> None:
    burst = taught(ceiling=6.0)
    assert max(burst.update(9.0) for _ in range(30)) == 6.0
    assert [burst.update(0.0) for _ in range(3)] == [4.0, 2.0, 0.0]


def test_the_aftermath_of_a_small_spike_is_a_burst() -> None:
    burst, chance = BurstScore(window=256, level_rate=0.03), np.random.default_rng(0)
    assert max(burst.update(value) for value in chance.normal(0.0, 1.0, 2000)) < 2
    found = [burst.update(value) for value in (7.0, 3.4, 2.7, 1.6)]
    assert max(found) == pytest.approx(2.6, abs=0.4)  # 1 + 1 + 0.7 - 0.4, give or take the noise


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-3, 9), min_size=40, max_size=90), st.integers(0, 90))
def test_a_burst_score_split_in_two_says_the_same(values: list[float], at: int) -> None:
    whole, first, second = (BurstScore(window=16, min_count=8, floor=0.1) for _ in range(3))
    expected = [whole.update(value) for value in values]
    found = [first.update(value) for value in values[:at]]
    second.load_state_dict(first.state_dict())
    assert found + [second.update(value) for value in values[at:]] == expected
