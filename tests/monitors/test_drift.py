import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moescope.monitors.detectors.drift import DriftScore


def noise(count: int, seed: int = 0) -> list[float]:
    return list(np.random.default_rng(seed).normal(0.0, 0.02, count))


def test_the_sum_grows_by_the_clipped_excess() -> None:
    drift = DriftScore(window=4, min_count=2, lag=1, slack=1.0, floor=1.0)
    # with a lag of 1 the values 0, 0 are old when the fourth comes; MAD 0, so the floor 1 is sigma
    for step in range(3):
        assert drift.update(step, 0.0) == 0.0
    assert drift.update(3, 2.5) == pytest.approx(1.5)  # 2.5 - 1
    assert drift.update(4, 50.0) == pytest.approx(3.5)  # clipped: 3 - 1
    assert drift.update(5, 0.0) == pytest.approx(2.5)  # 0 - 1
    assert drift.onset_step == 3


def test_one_spike_adds_at_most_two() -> None:
    drift = DriftScore()
    for step, value in enumerate(noise(300)):
        drift.update(step, value)
    before = drift.score
    assert drift.update(300, 1000.0) <= before + 2.0


def test_noise_alone_does_not_drift() -> None:
    drift = DriftScore()
    assert max(drift.update(step, value) for step, value in enumerate(noise(5000))) < 20


def test_a_falling_loss_does_not_drift() -> None:
    drift = DriftScore()
    values = [value - 0.005 * step for step, value in enumerate(noise(600))]
    assert max(drift.update(step, value) for step, value in enumerate(values)) < 5


def test_a_slow_rise_is_found_and_dated_to_its_beginning() -> None:
    drift = DriftScore()
    values = [value + 0.001 * max(0, step - 400) for step, value in enumerate(noise(700))]
    for step, value in enumerate(values):
        if drift.update(step, value) > 20:
            break
    # 0.1% a step against a noise of 2%: two sigmas after 40 steps
    assert 430 < step < 520
    assert drift.onset_step is not None
    assert 400 <= drift.onset_step <= step


def test_a_level_shift_is_accepted_in_the_end() -> None:
    drift = DriftScore()
    scores = [drift.update(s, v + (s >= 300)) for s, v in enumerate(noise(700))]
    assert max(scores) > 80
    assert max(scores[-200:]) < 5


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-3, 3), min_size=40, max_size=90), st.integers(0, 90))
def test_a_drift_score_split_in_two_says_the_same(values: list[float], at: int) -> None:
    whole, first, second = (DriftScore(window=16, min_count=8, lag=8) for _ in range(3))
    expected = [(whole.update(s, v), whole.onset_step) for s, v in enumerate(values)]
    found = [(first.update(s, v), first.onset_step) for s, v in enumerate(values[:at])]
    second.load_state_dict(first.state_dict())
    found += [(second.update(at + i, v), second.onset_step) for i, v in enumerate(values[at:])]
    assert found == expected
