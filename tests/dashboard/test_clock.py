"""A chart may run over steps, tokens, FLOPs or time, and the way back is the same."""

from dataclasses import replace

import numpy as np
import pytest

from moescope.dashboard.clock import STEPS, counting, telling_time
from moescope.platform.catalogue import LOSS_TOTAL, STEP_TOKENS
from moescope.platform.records import Bands, Segment, Series

SEGMENTS = [Segment("r", 0, 0, "start", 0.0), Segment("r", 1, 6, "rollback", 0.0, 0, 5)]


def _tokens(segments: list[int], steps: list[int], each: list[float], width: int = 1) -> Bands:
    values = np.array(each, np.float32)[:, None]
    return Bands(
        STEP_TOKENS,
        width,
        np.array(segments, np.int32),
        np.array(steps, np.int64),
        np.full(len(steps), width),
        values,
        values,
        values,
        np.full((len(steps), 1), width),
    )


def test_steps_are_their_own_measure() -> None:
    assert STEPS.x_of(3, 17) == 17
    assert STEPS.step_at(16.6) == 17


def test_tokens_add_up_and_a_rollback_takes_back_what_was_given_up() -> None:
    # ten steps of 100 tokens; from step 6 on again, with 50 each
    segments, steps = [0] * 10 + [1] * 4, [*range(10), *range(6, 10)]
    clock = counting("tokens", _tokens(segments, steps, [100] * 10 + [50] * 4), SEGMENTS)
    assert clock.x_of(0, 9) == 1000
    # 600 up to step 5, then 50 each
    assert [clock.x_of(1, step) for step in (6, 9)] == [650, 800]
    assert clock.step_at(750) == 8
    assert clock.step_at(300) == 2


def test_buckets_of_many_steps_give_the_same_sum() -> None:
    clock = counting("tokens", _tokens([0, 0], [0, 8], [10, 30], width=8), SEGMENTS[:1])
    assert clock.x_of(0, 7) == 80
    assert clock.x_of(0, 15) == 80 + 240
    assert clock.x_of(0, 3) == pytest.approx(40)


def test_a_bucket_that_a_branch_left_in_its_middle_comes_in_two_parts() -> None:
    # 100 tokens a step: steps 0 to 5 count, 6 to 9 were given up, 6 to 10 came again
    whole = _tokens([0, 0, 0, 1, 1], [0, 0, 8, 0, 8], [100] * 5, width=8)
    number = np.array([6, 2, 2, 2, 3])
    clock = counting(
        "tokens", replace(whole, num_points=number, num_finite=number[:, None]), SEGMENTS
    )
    assert [clock.x_of(0, step) for step in (5, 7, 9)] == [600, 800, 1000]
    assert [clock.x_of(1, step) for step in (6, 7, 10)] == [700, 800, 1100]
    assert clock.living is not None
    assert clock.living[1][-1] == 1100


def test_a_clock_that_was_set_back_does_not_turn_the_axis_round() -> None:
    times = Series(
        LOSS_TOTAL,
        np.zeros(4, np.int32),
        np.arange(4),
        np.array([10.0, 11.0, 9.0, 12.0]),
        np.zeros(4, np.float32),
    )
    clock = telling_time(times, SEGMENTS[:1])
    assert [clock.x_of(0, step) for step in range(4)] == [10_000, 11_000, 11_000, 12_000]
    assert clock.step_at(12_000) == 3


def test_a_segment_without_the_measure_has_no_place() -> None:
    clock = counting("tokens", _tokens([0], [0], [5]), SEGMENTS)
    assert np.isnan(clock.x_of(1, 6))
