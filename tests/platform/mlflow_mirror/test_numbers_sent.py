"""What MLflow is offered: never more than so many numbers a second, and all layers or none."""

import math
from collections import Counter
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moescope.platform.catalogue import (
    CPU_SHARE,
    EXPERT_LOAD,
    EXPERT_TOKENS,
    GPU_SHARE,
    GRAD_NORM,
    LEARNING_RATE,
    LOSS_SPIKE_SCORE,
    LOSS_TOTAL,
    PROBE_LOSS,
    TOKENS_PER_S,
)
from moescope.platform.mlflow_mirror.numbers_sent import (
    MAIN,
    NON_FINITE,
    NUMBERS_PER_S,
    PER_LAYER,
    NumbersSent,
)
from moescope.platform.records import Frame

NUM_LAYERS = 48


def frame(step: int, time_s: float, values: Mapping[str, object], segment: int = 0) -> Frame:
    arrays = {name: np.asarray(value, np.float32) for name, value in values.items()}
    return Frame("r", segment, step, time_s, arrays)


def a_full_step(step: int, time_s: float) -> list[Frame]:
    """All that a deep model has in a step, in frames of their own."""
    return [
        frame(step, time_s, {LOSS_TOTAL: 1.0, GRAD_NORM: 2.0, LEARNING_RATE: 1e-3}),
        frame(step, time_s, {LOSS_SPIKE_SCORE: 0.5, TOKENS_PER_S: 1e5}),
        frame(step, time_s, {CPU_SHARE: 0.5, "user/reward": 1.0}),
        frame(
            step,
            time_s,
            {
                **{name: np.arange(NUM_LAYERS) for name in PER_LAYER},
                EXPERT_LOAD: np.ones((NUM_LAYERS, 8)),
                EXPERT_TOKENS: np.ones((NUM_LAYERS, 8)),
            },
        ),
    ]


@pytest.mark.parametrize("step_s", [0.002, 0.05, 1.0, 30.0])
def test_a_deep_model_has_fewer_steps_and_not_fewer_layers(step_s: float) -> None:
    sent = NumbersSent()
    steps: dict[str, set[int]] = {}
    num_sent = 0
    num_steps = int(min(4000, 600 / step_s))
    for step in range(num_steps):
        for one in a_full_step(step, 1000.0 + step * step_s):
            for metric in sent.metrics(one):
                steps.setdefault(metric.key, set()).add(metric.step)
                num_sent += 1
    assert num_sent <= NUMBERS_PER_S * (num_steps * step_s + 3) + len(PER_LAYER) * NUM_LAYERS
    layers = {f"{name}/layer_{layer:02d}" for name in PER_LAYER for layer in range(NUM_LAYERS)}
    assert layers | set(MAIN) <= set(steps)
    assert not [key for key in steps if "expert" in key]
    # whoever is shown at a step is shown whole: no layer and no main scalar is ahead of another
    assert len({frozenset(steps[key]) for key in layers}) == 1
    assert len({frozenset(steps[key]) for key in MAIN}) == 1
    if step_s >= 30:
        assert len(steps[LOSS_TOTAL]) == num_steps == len(steps["activation/rms/layer_47"])
    else:
        # a quarter of the numbers is for the layers, so that 240 of them fit every ten seconds
        assert len(steps["activation/rms/layer_00"]) >= min(num_steps * step_s / 10, num_steps) - 1
        assert len(steps[LOSS_TOTAL]) >= min(num_steps, 8 * num_steps * step_s)


@given(
    st.lists(
        st.tuples(
            st.floats(0.001, 20.0), st.integers(1, 60), st.sampled_from(["main", "layers", "user"])
        ),
        min_size=1,
        max_size=120,
    )
)
def test_no_order_of_frames_gets_past_the_bound(steps: list[tuple[float, int, str]]) -> None:
    sent = NumbersSent()
    time_s, num_sent, largest = 1000.0, 0, 0
    for step, (wait_s, size, kind) in enumerate(steps):
        time_s += wait_s
        values: dict[str, object] = {
            "main": dict.fromkeys(MAIN, 1.0),
            "layers": {name: np.ones(size) for name in PER_LAYER},
            "user": {f"user/{i}": 1.0 for i in range(size)},
        }[kind]
        found = sent.metrics(frame(step, time_s, values))
        num_sent += len(found)
        largest = max(largest, len(found))
    # two seconds at once, and whoever is let in is let in whole
    assert num_sent <= NUMBERS_PER_S * (time_s - 1000.0 + 2) + 3 * largest


def test_rare_numbers_are_sent_at_the_expense_of_frequent_ones() -> None:
    def num_rates(probes: bool) -> int:
        sent, found = NumbersSent(), Counter[str]()
        for step in range(3000):
            values = {LEARNING_RATE: 1e-3} | ({PROBE_LOSS: 1.0} if probes else {})
            found.update(m.key for m in sent.metrics(frame(step, 1000.0 + step * 0.05, values)))
        assert found[PROBE_LOSS] == (3000 if probes else 0)
        return found[LEARNING_RATE]

    assert num_rates(probes=True) < num_rates(probes=False)


def test_a_clock_that_is_put_back_does_not_silence_the_mirror() -> None:
    sent = NumbersSent()
    for step in range(100):
        sent.metrics(frame(step, 10_000.0 + step, {LOSS_TOTAL: 1.0}))
    after = [len(sent.metrics(frame(100 + i, 5000.0 + i, {LOSS_TOTAL: 1.0}))) for i in range(50)]
    assert after == [1] * 50


def test_what_is_not_finite_is_counted_and_not_sent() -> None:
    rms = np.array([1.0, math.nan, math.inf], np.float32)
    found = NumbersSent().metrics(
        frame(7, 1000.0, {LOSS_TOTAL: math.nan, GRAD_NORM: 2.0, PER_LAYER[0]: rms})
    )
    assert {metric.key: metric.value for metric in found} == {
        GRAD_NORM: 2.0,
        "activation/rms/layer_00": 1.0,
        NON_FINITE: 3.0,
    }


def test_what_mlflow_has_a_name_for_is_called_so() -> None:
    found = NumbersSent().metrics(frame(0, 1000.0, {GPU_SHARE: 0.75, CPU_SHARE: 0.5}))
    assert {metric.key: metric.value for metric in found} == {
        "system/gpu_0_utilization_percentage": 75.0,
        # of this process: MLflow's own number is the machine's
        CPU_SHARE: 0.5,
    }
