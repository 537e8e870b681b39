"""The rules for one loss, as a foreign trainer would have them judged."""

import math
from typing import Any

import numpy as np
import pytest

from moescope.monitors.judge import Judge, Judgement
from moescope.monitors.plain_rules import PLAIN_RULES
from moescope.monitors.rules import read_rules
from moescope.platform import catalogue
from moescope.platform.errors import MoescopeError

STEPS = 700


def losses(seed: int = 0) -> list[float]:
    """A falling loss with noise of 2.5%, as one rank records it."""
    chance = np.random.default_rng(seed)
    steps = np.arange(STEPS)
    return list((3.2 + 7.0 * np.exp(-steps / 80)) * np.exp(chance.normal(0.0, 0.025, STEPS)))


def judged(values: list[float], judge: Judge | None = None, start: int = 0) -> list[Judgement]:
    judge = judge or Judge(PLAIN_RULES, "run")
    return [
        judge.step(start + i, 0, 0.0, {catalogue.LOSS_TOTAL: np.asarray(value)})
        for i, value in enumerate(values)
    ]


def alerts(values: list[float]) -> list[tuple[int, str]]:
    return [(found.step, a.rule) for found in judged(values) for a in found.alerts]


def test_a_healthy_loss_raises_no_alert() -> None:
    assert alerts(losses()) == []


def test_a_point_outlier_is_a_note_and_never_an_alert() -> None:
    values = losses()
    values[500] *= 3
    found = judged(values)
    assert [a for one in found for a in one.alerts] == []
    assert [(one.step, note.details["rule"]) for one in found for note in one.notes] == [
        (500, "odd_batch")
    ]


@pytest.mark.parametrize(
    ("factors", "rule", "within"),
    [
        pytest.param([1.17, 1.0, 1.06, 2.3, 1.6, 1.5], "loss_spike", 5, id="spike"),
        pytest.param([1.22, 1.1, 1.1, 1.09, 1.05], "loss_burst", 4, id="small-spike"),
        pytest.param([1.05] * 100, "loss_level", 40, id="level"),
        pytest.param([1.0015**i for i in range(200)], "", 80, id="drift"),
        pytest.param([math.nan], "non_finite_loss", 0, id="nan"),
    ],
)
def test_what_lasts_is_found(factors: list[float], rule: str, within: int) -> None:
    values = losses(seed=4)
    for i, factor in enumerate(factors):
        values[450 + i] *= factor
    found = alerts(values)
    assert found, "nothing was found"
    assert 450 <= found[0][0] <= 450 + within
    assert rule in {name for _, name in found} | {""}


def test_a_divergence_in_the_warm_up_is_found_without_a_baseline() -> None:
    assert alerts([12.4, 12.4, 44.2, 48.1, 47.5, 46.6]) == [(4, "loss_divergence")]


def test_a_judge_of_these_rules_split_in_two_says_the_same() -> None:
    values = losses(seed=2)
    for i in range(60):
        values[400 + i] *= 1.2
    whole = judged(values)
    for at in (20, 402, 470):
        first, second = Judge(PLAIN_RULES, "run"), Judge(PLAIN_RULES, "run")
        found = judged(values[:at], first)
        second.load_state_dict(first.state_dict())
        assert found + judged(values[at:], second, at) == whole


def test_new_data_gives_every_detector_a_new_baseline() -> None:
    judge = Judge(PLAIN_RULES, "run")
    judged(losses(), judge)
    judge.announce("data_change", STEPS)
    higher = [2 * value for value in losses(seed=1)[400:]]
    assert [a for found in judged(higher, judge, STEPS) for a in found.alerts] == []


def test_the_table_can_be_written_and_read() -> None:
    assert read_rules([rule.model_dump() for rule in PLAIN_RULES]) == PLAIN_RULES


def test_a_detector_of_scalars_is_refused_for_losses_of_samples() -> None:
    row: dict[str, Any] = PLAIN_RULES[4].model_dump() | {"signal": catalogue.LOSS_PER_SAMPLE}
    with pytest.raises(MoescopeError, match="burst judges scalars"):
        read_rules([row])


def test_a_lag_within_the_newest_values_is_refused_in_a_rule() -> None:
    level = next(rule for rule in PLAIN_RULES if rule.detector == "level_shift")
    with pytest.raises(MoescopeError, match=r"lag is 16.*at least 32") as caught:
        read_rules([level.model_dump() | {"parameters": {"lag": 16}}])
    assert "loss_level" in str(caught.value)
