"""What moved before the loss, and up to which learning rate a size stays healthy."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from moescope.platform.records import Segment, Series
from moescope.studies.report.frontier import edges, frontier, growth_onset, verdict_words
from moescope.studies.report.stories import until_rollback
from moescope.studies.report.table import trial_table


def alternating(num: int, by: float = 0.1) -> np.ndarray:
    """1 +- by, in turn: its median of 5 is 1 +- by, its steps are 2 by."""
    return np.asarray(1.0 + by * (-1.0) ** np.arange(num))


def test_a_planted_step_is_found_where_it_begins() -> None:
    values = alternating(60)
    values[40:] += 2.0
    assert growth_onset(values) == 40


def test_the_bound_is_six_mads_above_the_least_median() -> None:
    chance = np.random.default_rng(0)
    quiet = chance.normal(10.0, 0.02, 400)
    steps = np.diff(quiet[:200])
    mad = np.median(np.abs(steps - np.median(steps))) / 2**0.5
    windows = np.lib.stride_tricks.sliding_window_view(quiet[:300], 5)
    level = np.median(windows, axis=1).min()
    # 5% of the level is more than 6 MAD here: the larger of the two counts
    assert 6 * mad < 0.05 * level
    for rise, is_found in ((0.049, False), (0.055, True)):
        values = quiet.copy()
        values[300:] = level * (1 + rise)
        assert (growth_onset(values) == 300) is is_found


def test_slow_growth_is_found_though_it_carries_its_past_along() -> None:
    chance = np.random.default_rng(1)
    values = np.concatenate([np.full(100, 1.0), 1.0 + 0.004 * np.arange(200)])
    found = growth_onset(values + chance.normal(0, 0.005, 300))
    assert found is not None
    # 5% above 1 is passed 12.5 steps after the growth began
    assert 108 <= found <= 118


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(2.0 * np.exp(-np.arange(200) / 30.0), id="falling"),
        pytest.param(alternating(200), id="noisy"),
        pytest.param(np.zeros(50), id="nothing"),
        pytest.param(np.concatenate([np.ones(5), np.full(6, 9.0)]), id="too short"),
    ],
)
def test_what_does_not_grow_has_no_onset(values: np.ndarray) -> None:
    assert growth_onset(values) is None


def test_a_spike_that_comes_back_is_no_growth() -> None:
    values = alternating(100)
    values[50:60] += 5.0
    assert growth_onset(values) is None


def test_normal_noise_seldom_counts_as_growth() -> None:
    chance = np.random.default_rng(2)
    found = [growth_onset(chance.normal(1.0, 0.1, 300)) for _ in range(200)]
    assert sum(one is not None for one in found) <= 2


def test_a_run_that_is_halted_soon_after_still_grew() -> None:
    values = np.append(alternating(40), [5.0, 9.0, np.inf])
    assert growth_onset(values) == 40


def test_a_rise_below_the_floor_is_none() -> None:
    values = np.append(np.zeros(40), np.full(20, 5e-4))
    assert growth_onset(values, floor=1e-3) is None
    assert growth_onset(values) == 40


def test_only_what_came_before_the_first_rollback_is_looked_at() -> None:
    segment = np.array([0, 0, 0, 1, 1, 2, 2], np.int32)
    step = np.array([0, 1, 2, 2, 3, 1, 2])
    values = np.array(
        [[1.0, 0.0], [2.0, 0.0], [9.0, 0.0], [3.0, 4.0], [np.nan, 5.0], [0.0, 0.0], [0.0, 0.0]],
        np.float32,
    )
    series = Series("router/max_violation", segment, step, np.zeros(7), values)
    segments = [
        Segment("r", 0, 0, "start", 0.0),
        Segment("r", 1, 2, "resume", 0.0),
        Segment("r", 2, 1, "rollback", 0.0),
    ]
    steps, largest = until_rollback(series, segments)
    # step 2 was repeated by a resume: the newer one counts; of layers the largest
    assert steps.tolist() == [0, 1, 2, 3]
    assert largest.tolist() == [1.0, 2.0, 4.0, 5.0]


def test_verdicts_are_told_in_the_words_of_the_study() -> None:
    assert verdict_words("unstable", "done", 0) == "diverged"
    assert verdict_words("rolled back", "done", 1) == "rolled back once"
    assert verdict_words("rolled back", "done", 3) == "rolled back 3 times"
    assert verdict_words("", "waiting", 0) == "waiting"


def test_the_frontier_is_the_highest_healthy_rate_of_each_size(
    synthetic: Callable[..., Any],
) -> None:
    found = edges(trial_table(synthetic("sensitivity").rows))
    told = [(e.highest_healthy, e.lowest_not_healthy, e.lowest_diverged) for e in found]
    # planted: best 6e-3, 4e-3, 2e-3; above twice that healed, above four times worse
    assert told == [(1e-2, 3e-2, 3e-2), (3e-3, 1e-2, 3e-2), (3e-3, 1e-2, 1e-2)]


def test_lead_is_counted_back_from_the_loss(synthetic: Callable[..., Any]) -> None:
    frame = trial_table(synthetic("seeds").rows)
    key = frame["key"][2]
    grew = {"loss": 60, "gradient norm": 55, "deadlock (MaxVio)": 40, "clamped share": 70}
    trial = frontier(frame, {key: grew}).trials[2]
    assert trial.loss_grew_at == 60
    assert list(trial.before_loss.items()) == [("deadlock (MaxVio)", 20), ("gradient norm", 5)]
