"""Scores of vectors, alone and through the judge with the default rules."""

from typing import Any

import numpy as np
import pytest

from moescope.monitors.default_rules import DEFAULT_RULES
from moescope.monitors.judge import Judge
from moescope.monitors.rules import read_rules
from moescope.monitors.vector_scoring import CollapseScorer, EntryScorer
from moescope.platform import catalogue

LAYERS = 4


def of_default(*names: str) -> Judge:
    rules = [rule for rule in DEFAULT_RULES if rule.name in names]
    assert len(rules) == len(names)
    return Judge([rule.model_copy(update={"silenced_by": ()}) for rule in rules], "r")


def raised(judge: Judge, steps: list[dict[str, Any]]) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    for step, values in enumerate(steps):
        arrays = {name: np.asarray(value, np.float32) for name, value in values.items()}
        alerts = judge.step(step, 0, float(step), arrays).alerts
        found += [(alert.rule, step) for alert in alerts]
    return found


def varied(level: float, num: int, spread: float = 0.05) -> list[np.ndarray]:
    chance = np.random.default_rng(0)
    return [level * np.exp(spread * chance.standard_normal(LAYERS)) for _ in range(num)]


def test_the_worst_entry_counts_and_is_named() -> None:
    scorer = EntryScorer(catalogue.ACTIVATION_MODALITY_RMS, "above", {})
    value = np.array([[1.0, 2.0], [np.nan, 7.0], [3.0, -np.inf]])
    score = scorer.update(0, {catalogue.ACTIVATION_MODALITY_RMS: value})["above"]
    assert score.value == 7.0
    assert score.evidence == {"measured": 7.0, "layer": 1, "modality": "audio"}


def test_what_is_infinite_is_above_any_limit_and_no_change_of_anything() -> None:
    signal = catalogue.ATTENTION_LOGIT_BOUND
    row = np.array([1.0, np.inf, 2.0, np.nan])
    score = EntryScorer(signal, "above", {}).update(0, {signal: row})["above"]
    assert 1e38 < score.value < np.inf
    assert score.evidence["layer"] == 1
    rise = EntryScorer(signal, "rise", {"min_count": 4, "window": 8})
    for _ in range(6):
        rise.update(0, {signal: np.ones(4)})
    # as many as would make it learn anew
    for _ in range(20):
        assert rise.update(0, {signal: row})["rise"].value < 20
    assert rise.update(0, {signal: np.array([1.0, 9.0, 1.0, 1.0])})["rise"].value > 20


def test_what_was_not_measured_or_is_nowhere_finite_gives_no_score() -> None:
    scorer = EntryScorer(catalogue.FLIP_RATE, "above", {})
    assert scorer.update(0, {}) == {}
    assert scorer.update(0, {catalogue.FLIP_RATE: np.array([np.nan, np.nan])}) == {}
    assert scorer.update(0, {catalogue.FLIP_RATE: np.zeros(0)}) == {}


@pytest.mark.parametrize(
    ("rule", "signal", "level", "factor"),
    [
        ("activation_rise", catalogue.ACTIVATION_ABSMAX, 9.0, 7.0),
        ("activation_outliers", catalogue.ACTIVATION_KURTOSIS, 5.0, 6.0),
        ("update_ratio_rise", catalogue.UPDATE_WEIGHT_RATIO, 2e-3, 6.0),
    ],
)
def test_a_layer_that_leaves_its_own_past_is_told_within_its_delay(
    rule: str, signal: str, level: float, factor: float
) -> None:
    healthy = [{signal: row} for row in varied(level, 60)]
    grown = [{signal: row * np.array([1, 1, factor, 1])} for row in varied(level, 10)]
    judge = of_default(rule)
    [(name, step)] = raised(judge, healthy + grown)
    # sampled every ten steps, so that a sample is ten steps of the delay
    limit = next(r.delay_p99_steps for r in DEFAULT_RULES if r.name == rule)
    assert name == rule
    assert 0 <= step - 60 <= limit / 10


def test_layers_of_very_different_levels_are_judged_each_by_its_own() -> None:
    signal = catalogue.ACTIVATION_ABSMAX
    levels = np.array([1.0, 30.0, 1000.0, 5.0])
    healthy = [{signal: levels * row} for row in varied(1.0, 300)]
    assert raised(of_default("activation_rise"), healthy) == []


def test_a_router_collapses_when_both_entropies_fall_and_not_when_one_does() -> None:
    load, token = catalogue.LOAD_ENTROPY_NATS, catalogue.ROUTER_ENTROPY_NATS
    usual = [{load: row, token: row} for row in varied(1.8, 30, 0.02)]
    low = np.array([1.8, 1.8, 0.1, 1.8])
    of_load = [{load: low, token: row} for row in varied(1.8, 10, 0.02)]
    of_both = [{load: low, token: low} for _ in range(10)]
    assert raised(of_default("router_collapse"), usual + of_load) == []
    [(rule, step)] = raised(of_default("router_collapse"), usual + of_both)
    assert rule == "router_collapse"
    assert step - 30 <= 3
    scorer = CollapseScorer()
    for values in usual:
        scorer.update(0, values)
    score = scorer.update(0, of_both[0])["collapse"]
    assert score.value == pytest.approx(1 - 0.1 / 1.8, abs=0.02)
    assert score.evidence["layer"] == 2


def test_absolute_rules_speak_of_what_is_bad_at_any_past() -> None:
    cases = {
        "experts_alike": (catalogue.EXPERT_OUTPUT_COSINE, 0.5, 0.995),
        "routing_flips": (catalogue.FLIP_RATE, 0.03, 0.2),
        "lost_updates": (catalogue.UPDATE_LOST_SHARE, 0.0, 0.6),
        "attention_logits": (catalogue.ATTENTION_LOGIT_BOUND, 20.0, 300.0),
    }
    for rule, (signal, usual, bad) in cases.items():
        row = np.full(LAYERS, usual)
        worse = row.copy()
        worse[3] = bad
        steps = [{signal: row}] * 20 + [{signal: worse}] * 6
        assert [name for name, _ in raised(of_default(rule), steps)] == [rule]


def test_steps_that_stay_three_times_as_long_are_told_and_single_slow_ones_are_not() -> None:
    chance = np.random.default_rng(0)
    signal = catalogue.STEP_TIME_S
    usual = [{signal: 0.2 * np.exp(0.1 * chance.standard_normal())} for _ in range(400)]
    now_and_then = [v if step % 20 else {signal: 3.0} for step, v in enumerate(usual)]
    assert raised(of_default("slow_steps"), now_and_then) == []
    slow = [{signal: 0.6}] * 80
    [(rule, step)] = raised(of_default("slow_steps"), usual + slow)
    assert rule == "slow_steps"
    assert 39 <= step - 400 <= 60


def test_a_rule_may_look_at_some_layers_only() -> None:
    row: dict[str, Any] = {
        "name": "late_layers",
        "signal": catalogue.ACTIVATION_ABSMAX,
        "detector": "above",
        "scope": {"layer": [2, 3]},
        "threshold": 10.0,
        "severity": "warning",
        "delay_p99_steps": 10,
        "message": "late layers are large",
    }
    judge = Judge(read_rules([row]), "r")
    assert raised(judge, [{catalogue.ACTIVATION_ABSMAX: [99.0, 99.0, 1.0, 1.0]}]) == []
    values = {catalogue.ACTIVATION_ABSMAX: np.array([1.0, 1.0, 1.0, 11.0], np.float32)}
    [alert] = judge.step(1, 0, 0.0, values).alerts
    # counted from the first layer of all, not of those that are looked at
    assert alert.evidence["layer"] == 3
    assert "(layer 3)" in alert.message
    assert alert.evidence["unit"] == "1"


def test_a_judge_of_vectors_that_is_restored_goes_on_as_before() -> None:
    names = ("activation_rise", "router_collapse", "slow_steps", "layer_deadlock")
    chance = np.random.default_rng(1)

    def values() -> dict[str, np.ndarray]:
        return {
            catalogue.ACTIVATION_ABSMAX: np.exp(0.1 * chance.standard_normal(LAYERS)),
            catalogue.LOAD_ENTROPY_NATS: 1.8 + 0.01 * chance.standard_normal(LAYERS),
            catalogue.ROUTER_ENTROPY_NATS: 1.9 + 0.01 * chance.standard_normal(LAYERS),
            catalogue.STEP_TIME_S: np.exp(0.1 * chance.standard_normal()),
            catalogue.EXPERT_TOKENS: chance.integers(1, 9, (LAYERS, 4)).astype(np.float32),
        }

    steps = [values() for _ in range(150)]
    whole, first, second = (of_default(*names) for _ in range(3))
    for step in range(80):
        whole.step(step, 0, 0.0, steps[step])
        first.step(step, 0, 0.0, steps[step])
    second.load_state_dict(first.state_dict())
    for step in range(80, 150):
        bad = {catalogue.ACTIVATION_ABSMAX: steps[step][catalogue.ACTIVATION_ABSMAX] * 9}
        seen = {**steps[step], **(bad if step > 120 else {})}
        want, got = (judge.step(step, 0, 0.0, seen) for judge in (whole, second))
        assert [a.message for a in want.alerts] == [a.message for a in got.alerts]
    assert want.conditions[0].rule == "activation_rise"
