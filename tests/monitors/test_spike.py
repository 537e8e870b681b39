import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moescope.monitors.detectors.spike import SpikeScore


def healthy(count: int, seed: int = 0) -> list[float]:
    return list(np.random.default_rng(seed).normal(0.0, 0.1, count))


def test_a_spike_does_not_enter_its_own_window() -> None:
    spike, control = SpikeScore(), SpikeScore()
    for value in healthy(100):
        spike.update(value)
        control.update(value)
    before = spike.score(0.3)
    for _ in range(50):
        z, is_accepted = spike.update(5.0)
        assert z > 4
        assert not is_accepted
    assert spike.score(0.3) == before == control.score(0.3)


def test_the_score_has_unit_spread_on_normal_noise() -> None:
    spike = SpikeScore()
    scores = [spike.update(value)[0] for value in healthy(2000)]
    # a level of memory 1/0.1 adds 0.1 / 1.9 = 5% to the variance, and so does the MAD's own error
    assert np.std(scores[200:]) == pytest.approx(1.0, abs=0.1)


def test_a_falling_value_is_no_spike_when_its_fall_ends() -> None:
    spike = SpikeScore()
    noise = healthy(400, seed=3)
    # falls by 3% a step to step 150, then stays
    values = [-0.03 * min(step, 150) + noise[step] for step in range(400)]
    assert max(spike.update(value)[0] for value in values) < 4


def test_a_level_that_shifted_for_good_is_learnt_anew() -> None:
    spike = SpikeScore(window=64)
    for value in healthy(100):
        spike.update(value)
    shifted = [spike.update(value + 10.0)[0] for value in healthy(200, seed=1)]
    assert min(shifted[:64]) > 4
    assert max(shifted[64:]) < 4


def test_nothing_is_a_spike_before_there_are_values_to_compare_with() -> None:
    spike = SpikeScore(min_count=48)
    for value in healthy(48):
        assert not spike.is_ready
        spike.update(value)
    assert spike.is_ready
    assert spike.score(5.0) > 4


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-3, 3), min_size=60, max_size=120), st.integers(0, 120))
def test_a_spike_score_split_in_two_says_the_same(values: list[float], at: int) -> None:
    whole, first, second = (SpikeScore(window=32, min_count=8) for _ in range(3))
    expected = [whole.update(value) for value in values]
    found = [first.update(value) for value in values[:at]]
    second.load_state_dict(first.state_dict())
    assert found + [second.update(value) for value in values[at:]] == expected
