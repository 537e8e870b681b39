"""Public rules against a second derivation that keeps the whole history, and worked examples."""

import math
import statistics

import numpy as np
import pytest

from moescope.monitors.scores.public_rules import (
    PUBLIC_RULES,
    DoubleRule,
    FifthRule,
    LossRule,
    SigmaRule,
    TenfoldRule,
    TripleRule,
)

NAN = math.nan


def rough(count: int, seed: int, scale: float = 1.0) -> list[float]:
    """Losses with jumps of every size, so that each rule flags some of them."""
    chance = np.random.default_rng(seed)
    values = 3.0 + 0.1 * chance.standard_normal(count)
    jumps = chance.random(count) < 0.03
    return list(scale * np.where(jumps, values * chance.uniform(1.0, 5.0, count), values))


def flags(rule: LossRule, values: list[float]) -> list[int]:
    return [i for i, value in enumerate(values) if rule.update(value, NAN)]


@pytest.mark.parametrize("seed", range(3))
def test_the_sigma_rule_is_the_textbook_one(seed: int) -> None:
    values, expected = rough(600, seed), []
    for i, value in enumerate(values):
        before = values[max(0, i - 128) : i]
        if len(before) >= 64:
            mean, spread = statistics.fmean(before), statistics.stdev(before)
            expected += [i] if value - mean > 6 * spread else []
    assert expected
    assert flags(SigmaRule(), values) == expected


def test_one_nan_blinds_the_sigma_rule_for_a_window() -> None:
    values = rough(100, 0) + [NAN] + [3.0] * 200
    assert [i for i in flags(SigmaRule(), values) if i >= 100] == list(range(100, 229))


@pytest.mark.parametrize("seed", range(3))
def test_the_triple_rule_is_the_textbook_one(seed: int) -> None:
    values, expected = rough(600, seed), []
    kept: list[float] = []
    for i, value in enumerate(values):
        last_ten = kept[-10:]
        # above the mean by twice the mean is three times the mean
        if last_ten and value > last_ten[-1] and value >= 3 * sum(last_ten) / len(last_ten):
            expected.append(i)
        else:
            kept.append(value)
    assert expected
    assert flags(TripleRule(), values) == expected


def test_the_triple_rule_flags_what_is_not_finite_and_does_not_learn_it() -> None:
    assert flags(TripleRule(), [NAN, 1.0, math.inf, 2.9, 1.0, 8.0]) == [0, 2, 5]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_the_double_rule_is_the_textbook_one(seed: int, scale: float) -> None:
    values = rough(700, seed, scale)
    # a stretch at more than twice the mean, and a level above what was ever seen
    values[250:262] = [2.5 * scale * 3.0] * 12
    values[450:600] = [16.0 * scale] * 150
    size, expected, in_a_row = 100, [], 0
    cap = min(10.0, max(values[:size]))
    for i, value in enumerate(values):
        is_double = i >= size and value >= 2 * statistics.fmean(values[i - size : i])
        in_a_row = in_a_row + 1 if is_double else 0
        window = values[i - size + 1 : i + 1]
        is_high = i >= 2 * size and sum(x > cap for x in window) >= size / 2
        expected += [i] if in_a_row > 4 or is_high else []
    # at four times the scale everything is above the cap, from the end of the second window on
    assert expected[0] == (254 if scale == 1 else 200)
    assert flags(DoubleRule(700), values) == expected


def test_the_double_rules_window_is_a_twentieth_of_the_run() -> None:
    # 5% of 4000 steps are 200: nothing is double before, and the fifth in a row fires
    assert flags(DoubleRule(4000), [1.0] * 199 + [9.0] + [3.0] * 5) == [204]
    assert flags(DoubleRule(4000), [1.0] * 150 + [3.0] * 20) == []


def test_the_tenfold_rule_knows_the_first_hundred_only() -> None:
    values = [2.0] * 99 + [3.0] + [5.0, 29.9, 30.0, -31.0, 29.9, NAN, math.inf]
    assert flags(TenfoldRule(), values) == [102, 103, 105, 106]


def test_the_fifth_rule_ratchets_to_a_minimum_and_latches() -> None:
    # 2.5 is 25% above 2.0; once 1.0 is accepted, 2.0 never is again
    assert flags(FifthRule(), [2.0, 2.39, 2.0, 2.5, 2.0, 1.0, 2.0, 2.0]) == [3, 6, 7]


@pytest.mark.parametrize("system", PUBLIC_RULES)
def test_a_fork_goes_on_alike_and_leaves_the_original(system: str) -> None:
    values = rough(500, seed=7)
    whole = flags(PUBLIC_RULES[system](500), values)
    rule = PUBLIC_RULES[system](500)
    for value in values[:200]:
        rule.update(value, NAN)
    other = rule.fork()
    for _ in range(50):
        other.update(100.0, NAN)
    assert [200 + i for i in flags(rule, values[200:])] == [i for i in whole if i >= 200]


@pytest.mark.parametrize("name", sorted(PUBLIC_RULES))
@pytest.mark.parametrize("odd", [0.0, 1e308, -1e308])
def test_losses_at_the_ends_of_numbers_break_no_rule(name: str, odd: float) -> None:
    usual = [float(value) for value in rough(300, 0)]
    values = [odd] * 300 + usual + [odd, -odd] * 150 + [odd] * 300
    assert set(flags(PUBLIC_RULES[name](2000), values)) <= set(range(len(values)))
    assert flags(PUBLIC_RULES[name](2000), usual + [1e100] * 8)[-1] >= len(usual)


def test_any_rise_from_zero_is_a_fifth_or_more() -> None:
    assert flags(FifthRule(), [0.0, 0.0, 1e-9, -1.0]) == [2]
