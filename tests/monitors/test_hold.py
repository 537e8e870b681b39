"""A level that stays high does not explain itself away, however near to the limit it lies."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moescope.monitors.default_rules import DEFAULT_RULES
from moescope.monitors.detectors.hold import Hold
from moescope.monitors.detectors.spike import SpikeScore
from moescope.monitors.judge import Judge
from moescope.monitors.plain_rules import PLAIN_RULES
from moescope.platform import catalogue
from moescope.platform.alert_kinds import is_explained_away


def test_it_begins_with_three_of_five_and_ends_when_the_median_of_nine_is_low() -> None:
    hold = Hold(4.0)
    assert [hold.update(z) for z in (5, 0, 5, 0)] == [False] * 4
    assert hold.update(5)
    # 5 0 5 0 5 2 2 2 2: median 2. Then 0 5 0 5 2 2 2 2 0: 2; and so on until five of nine are low
    assert [hold.update(z) for z in (2, 2, 2, 2, 0, 0, 0, 0, 0)] == [True] * 8 + [False]


@pytest.mark.parametrize("sigmas", [4.0, 5.0, 6.0])
@pytest.mark.parametrize("seed", range(3))
def test_a_lasting_change_ends_as_a_new_baseline_and_not_as_healed(
    sigmas: float, seed: int
) -> None:
    # one loss with 2% noise, as a trainer with no more than that has it
    values = np.exp(0.02 * np.random.default_rng(seed).standard_normal(700))
    values[300:] *= np.exp(0.02 * sigmas)
    spike = next(rule for rule in PLAIN_RULES if rule.name == "loss_spike")
    judge = Judge([spike.model_copy(update={"silenced_by": ()})], "r")
    found = [
        judge.step(step, 0, float(step), {catalogue.LOSS_TOTAL: np.array(value)})
        for step, value in enumerate(values)
    ]
    [alert] = {alert.id for one in found for alert in one.alerts}
    [ended] = [alert for one in found for alert in one.healed]
    assert ended.id == alert
    assert is_explained_away(ended)
    assert ended.changed_s is not None
    # as many steps as the window is long
    assert ended.changed_s >= 300 + 256


def test_what_a_rule_flags_is_not_learnt() -> None:
    # a rule at 3 sigmas: a value at 3.5 is below what is usually rejected
    spike = next(rule for rule in DEFAULT_RULES if rule.name == "gradient_spike")
    low = spike.model_copy(
        update={"threshold": 3.0, "patience": 1, "of_last": 1, "silenced_by": ()}
    )
    judges = [Judge([low], "r"), Judge([low], "r")]
    chance = np.random.default_rng(0)
    for step in range(200):
        value = np.array(np.exp(0.1 * chance.standard_normal()))
        for judge in judges:
            judge.step(step, 0, 0.0, {catalogue.GRAD_NORM: value})
    flagged = judges[0].step(200, 0, 0.0, {catalogue.GRAD_NORM: np.array(np.exp(0.36))})
    assert [alert.rule for alert in flagged.alerts] == ["gradient_spike"]
    windows = [windows_of(judge) for judge in judges]
    np.testing.assert_array_equal(*windows)


def windows_of(judge: Judge) -> np.ndarray:
    [scorer] = judge.state_dict()["scorers"].values()
    return np.asarray(scorer["window"]["values"])


def test_a_short_spike_teaches_nothing_and_the_level_goes_on_afterwards() -> None:
    spike = SpikeScore()
    chance = np.random.default_rng(1)
    for _ in range(200):
        spike.update(0.1 * chance.standard_normal())
    before = spike.state_dict()["window"]["values"].copy()
    for z in (6, 3, 6, 3, 6, 3, 3):
        spike.update(0.1 * z)
    assert spike.hold.is_on
    changed = (spike.state_dict()["window"]["values"] != before).sum()
    # the two threes before the third six came
    assert changed == 2
    for _ in range(20):
        spike.update(0.0)
    assert not spike.hold.is_on


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-2, 9), min_size=5, max_size=60), st.integers(0, 60))
def test_a_hold_split_in_two_says_the_same(scores: list[float], at: int) -> None:
    whole, first, second = Hold(4.0), Hold(4.0), Hold(4.0)
    expected = [whole.update(z) for z in scores]
    found = [first.update(z) for z in scores[:at]]
    second.load_state_dict(first.state_dict())
    assert found + [second.update(z) for z in scores[at:]] == expected
