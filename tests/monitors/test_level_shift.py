import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moescope.monitors.detectors.level_shift import LevelShift


def small() -> LevelShift:
    return LevelShift(num_recent=4, window=8, min_count=2, lag=4, floor=1.0)


def noise(count: int, seed: int = 0) -> list[float]:
    return list(np.random.default_rng(seed).normal(0.0, 0.02, count))


def test_the_score_is_the_rise_of_a_median_in_sigmas_of_medians() -> None:
    shift = small()
    # six zeros: two are older than the lag of 4; their MAD is 0, so the floor 1 is sigma
    for _ in range(6):
        assert shift.update(0.0) == 0.0
    assert shift.is_ready
    assert shift.update(3.0) == 0.0  # median of 0, 0, 0, 3
    # median of 0, 0, 3, 3 is 1.5; sqrt(pi / 8) = 0.626657
    assert shift.update(3.0) == pytest.approx(2.393654)  # 1.5 / 0.626657
    assert shift.update(3.0) == pytest.approx(4.787307)  # 3 / 0.626657


def test_a_shift_of_half_a_sigma_is_seen_where_one_value_of_three_sigmas_is_not() -> None:
    shift = LevelShift(floor=1e-9)
    chance = np.random.default_rng(1)
    for value in chance.normal(0.0, 1.0, 400):
        shift.update(value)
    assert max(shift.update(x) for x in (3.0, *chance.normal(0.0, 1.0, 31))) < 4.5
    assert max(shift.update(x) for x in chance.normal(1.5, 1.0, 32)) > 4.5


def test_flagged_values_never_enter_their_own_baseline() -> None:
    shift = small()
    for value in [0.0] * 12 + [3.0] * 6 + [0.0] * 12:
        shift.update(value)
    state = shift.state_dict()
    # the two that came before the flag count as part of what was flagged
    assert 3.0 not in state["old"]["values"]
    assert 3.0 not in state["waiting"]


def test_one_nan_neither_blinds_nor_latches() -> None:
    shift, control = LevelShift(), LevelShift()
    values = noise(300)
    for value in values:
        shift.update(value)
        control.update(value)
    before = shift.score
    assert shift.update(math.nan) == before
    assert shift.update(math.inf) == before
    after = [shift.update(value + 0.05) for value in noise(40, seed=1)]
    assert after == [control.update(value + 0.05) for value in noise(40, seed=1)]
    assert max(after) > 4.5


def test_a_lasting_shift_is_learnt_anew() -> None:
    shift = LevelShift()
    scores = [shift.update(value + 0.5 * (i >= 300)) for i, value in enumerate(noise(900))]
    assert max(scores[:300]) < 4.5
    assert min(scores[330:420]) > 4.5
    # 17 steps until it is flagged, then 128 in a row; nothing is known until 48 + 64 have come
    assert max(scores[460:]) < 4.5
    assert shift.is_ready


def test_a_falling_value_is_no_shift() -> None:
    shift = LevelShift()
    falling = [value - 0.002 * i for i, value in enumerate(noise(1000))]
    assert max(shift.update(value) for value in falling) < 2


def test_nothing_has_shifted_before_there_is_a_baseline() -> None:
    shift = LevelShift()
    for value in [0.0] * 50 + [10.0] * 61:
        assert shift.update(value) == 0.0
        assert not shift.is_ready
    shift.update(10.0)
    assert shift.is_ready


def test_a_lag_that_lets_values_into_their_own_baseline_is_refused() -> None:
    with pytest.raises(ValueError, match=r"lag is 8.*at least 16"):
        LevelShift(num_recent=16, lag=8)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-3, 3) | st.just(math.nan), min_size=40, max_size=90), st.integers(0, 90))
def test_a_level_score_split_in_two_says_the_same(values: list[float], at: int) -> None:
    whole, first, second = (
        LevelShift(num_recent=4, window=8, min_count=4, lag=6, floor=0.1) for _ in range(3)
    )
    expected = [whole.update(value) for value in values]
    found = [first.update(value) for value in values[:at]]
    second.load_state_dict(first.state_dict())
    assert found + [second.update(value) for value in values[at:]] == expected


def test_a_saved_state_is_plain_but_for_its_window() -> None:
    shift = small()
    for value in [0.0] * 10 + [3.0] * 5:
        shift.update(value)
    state = shift.state_dict()
    assert state.pop("old")["values"].shape == (8,)
    assert json.loads(json.dumps(state)) == state
