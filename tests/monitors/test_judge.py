"""What the judge finds in the signals of a run, and within how many steps."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from moescope.monitors.default_rules import DEFAULT_RULES
from moescope.monitors.judge import Judge, Judgement
from moescope.platform import catalogue

Values = dict[str, Any]


SPOILED = (2.0, 2.0)


def judge() -> Judge:
    return Judge(DEFAULT_RULES, "run")


def run(
    judge: Judge, stream: Any, steps: range, change: Callable[[int, Values], Values] | None = None
) -> list[Judgement]:
    return [
        judge.step(step, 0, 1e9 + step, change(step, values) if change else values)
        for step in steps
        if (values := stream.step(step))
    ]


def alerts(found: list[Judgement]) -> list[tuple[str, int, int]]:
    return [(a.rule, a.onset_step, a.fired_step) for j in found for a in j.alerts]


@pytest.mark.parametrize("fall_steps", [20.0, 60.0, 200.0])
@pytest.mark.parametrize("num_samples", [4, 8])
def test_a_healthy_run_is_silent_from_its_first_step(
    loss_stream: Callable, fall_steps: float, num_samples: int
) -> None:
    found = run(judge(), loss_stream(7, num_samples, fall_steps), range(600))
    assert alerts(found) == []
    assert all(j.is_healthy for j in found)


@pytest.mark.parametrize(
    "factors",
    [(2.0, 2.0), (4.0, 4.0), (2.5, 1.0), (1.0, 2.5)],
    ids=["both", "far", "video", "audio"],
)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_spoiled_batches_are_a_spike_within_five_steps(
    loss_stream: Callable, factors: tuple[float, float], seed: int
) -> None:
    stream, j = loss_stream(seed), judge()
    found = run(j, stream, range(300))
    found += [j.step(s, 0, 0.0, stream.step(s, factors)) for s in range(300, 306)]
    spikes = [alert for judgement in found for alert in judgement.alerts]
    assert [alert.rule for alert in spikes] == ["loss_spike"]
    alert = spikes[0]
    assert 300 <= alert.onset_step <= 301
    assert 302 <= alert.fired_step <= 304
    assert alert.severity == "critical"
    assert alert.evidence["onset_batch"] == alert.onset_step + 1000
    assert f"since step {alert.onset_step}" in alert.message
    assert not found[-1].is_healthy
    assert found[-1].conditions[0].is_raised


def test_one_odd_batch_is_a_note_and_no_alert(loss_stream: Callable) -> None:
    stream, j = loss_stream(3), judge()
    run(j, stream, range(300))
    judgement = j.step(300, 0, 0.0, stream.step(300, (5.0, 5.0)))
    assert judgement.alerts == ()
    assert judgement.is_healthy
    assert [note.kind for note in judgement.notes] == ["note"]
    assert judgement.scores[catalogue.LOSS_SPIKE_SCORE] > 5
    assert alerts(run(j, stream, range(301, 400))) == []


def test_a_spike_that_heals_is_resolved_and_the_run_healthy_again(loss_stream: Callable) -> None:
    stream, j = loss_stream(4), judge()
    run(j, stream, range(300))
    for step in range(300, 304):
        j.step(step, 0, 0.0, stream.step(step, SPOILED))
    found = run(j, stream, range(304, 330))
    healed = [(judgement.step, a.rule, a.state) for judgement in found for a in judgement.healed]
    # of nine scores five must be low, and then five in a row
    assert healed == [(309, "loss_spike", "resolved")]
    assert not found[0].conditions[0].is_raised
    assert found[-1].is_healthy
    assert alerts(found) == []


def test_a_run_that_comes_out_of_a_long_spike_is_not_said_to_drift(loss_stream: Callable) -> None:
    stream, j = loss_stream(14), judge()
    run(j, stream, range(300))
    found = [j.step(s, 0, 0.0, stream.step(s, (5.0, 5.0))) for s in range(300, 330)]
    found += run(j, stream, range(330, 400))
    assert [rule for rule, _, _ in alerts(found)] == ["loss_spike"]


def test_a_slow_rise_is_a_drift_and_dated_to_its_beginning(loss_stream: Callable) -> None:
    stream, j = loss_stream(5), judge()
    run(j, stream, range(500))
    for step in range(500, 800):
        rise = 1.004 ** (step - 500)
        judgement = j.step(step, 0, 0.0, stream.step(step, (rise, rise)))
        if judgement.alerts:
            break
    assert judgement.alerts[0].rule == "loss_drift"
    assert judgement.alerts[0].severity == "warning"
    assert 480 <= judgement.alerts[0].onset_step < step
    assert not judgement.is_healthy


@pytest.mark.parametrize("signal", [catalogue.LOSS_TOTAL, catalogue.GRAD_NORM])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_no_number_fires_at_once(
    loss_stream: Callable, signal: str, value: float
) -> None:
    stream, j = loss_stream(0), judge()
    run(j, stream, range(10))
    judgement = j.step(10, 0, 0.0, stream.step(10) | {signal: np.float32(value)})
    # the guard held it back: said at once, but no reason to go back
    assert [(a.severity, a.onset_step) for a in judgement.alerts] == [("warning", 10)]
    assert [c.action for c in judgement.conditions] == ["observe"]


def test_gradients_that_stay_non_finite_roll_back_at_once(loss_stream: Callable) -> None:
    stream, j = loss_stream(0), judge()
    run(j, stream, range(10))
    nan = {catalogue.GRAD_NORM: np.float32(np.nan)}
    found = [j.step(s, 0, 0.0, stream.step(s) | nan) for s in range(10, 14)]
    critical = [a for judgement in found for a in judgement.alerts if a.severity == "critical"]
    assert [(a.rule, a.onset_step, a.fired_step) for a in critical] == [
        ("non_finite_lasting", 10, 13)
    ]
    assert found[-1].conditions[0].is_immediate


def test_one_nan_blinds_nothing(loss_stream: Callable) -> None:
    stream, j = loss_stream(6), judge()

    def spoil(step: int, values: Values) -> Values:
        if step != 250:
            return values
        values[catalogue.LOSS_PER_SAMPLE][0, 3] = np.nan
        return values | {catalogue.LOSS_TOTAL: np.nan, catalogue.GRAD_NORM: np.nan}

    found = run(j, stream, range(300), spoil)
    assert alerts(found) == [("non_finite_loss", 250, 250)]  # its gradient is the same incident
    assert all(np.isfinite(v).all() for judgement in found for v in judgement.scores.values())
    found = [j.step(s, 0, 0.0, stream.step(s, SPOILED)) for s in range(300, 306)]
    assert [rule for rule, _, _ in alerts(found)] == ["loss_spike"]


def test_a_gradient_far_above_its_level_warns(loss_stream: Callable) -> None:
    stream, j = loss_stream(0), judge()
    run(j, stream, range(200))
    found = run(j, stream, range(200, 206), lambda s, v: v | {catalogue.GRAD_NORM: np.float32(40)})
    assert [a.rule for judgement in found for a in judgement.alerts] == ["gradient_spike"]
    assert found[-1].is_healthy  # a warning; the loss speaks for the state
    # ln 40 = 3.7 at a spread of 0.3: about twelve sigmas
    assert float(found[0].scores[catalogue.GRAD_NORM_SCORE]) == pytest.approx(12, abs=3)


def test_a_dead_expert_is_found_after_its_window_and_named(loss_stream: Callable) -> None:
    stream, j = loss_stream(0), judge()

    def count(step: int, values: Values) -> Values:
        tokens_LE = np.full((2, 4), 100.0, np.float32)
        if step >= 20:
            tokens_LE[1, 2] = 0
        return values | {catalogue.EXPERT_TOKENS: tokens_LE}

    found = run(j, stream, range(100), count)
    assert alerts(found) == [("dead_experts", 20, 69)]  # fifty steps without a token
    alert = found[69].alerts[0]
    assert alert.evidence["layer_expert"] == [[1, 2]]
    assert found[69].scores[catalogue.DEAD_EXPERTS].tolist() == [0, 1]


def test_a_monopoly_needs_a_hundred_steps_and_early_training_is_forgiven(
    loss_stream: Callable,
) -> None:
    def lopsided_until(end: int) -> list[tuple[str, int, int]]:
        row = np.array([[470.0, 500, 10, 5, 4, 4, 4, 3]], np.float32)
        even = np.full((1, 8), 125.0, np.float32)
        return alerts(
            run(
                judge(),
                loss_stream(0),
                range(190),
                lambda s, v: v | {catalogue.EXPERT_TOKENS: row if s < end else even},
            )
        )

    # round(1000 / 500) = 2 leaders with 970 of 1000
    assert [rule for rule, _, _ in lopsided_until(190)] == ["expert_monopoly"]
    assert lopsided_until(40) == []
