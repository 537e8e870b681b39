"""Counting: events, places, detections, and the intervals around them."""

import copy
import math
from collections.abc import Callable
from typing import Self

import numpy as np
import pytest

from moescope.monitors.plain_rules import PLAIN_RULES
from moescope.monitors.scores.curves import Curve
from moescope.monitors.scores.intervals import poisson_upper, wilson
from moescope.monitors.scores.our_rules import JudgedRules, own_rule, scaled
from moescope.monitors.scores.roc import FACTORS, operating_points
from moescope.monitors.scores.score import (
    SETTLED_STEPS,
    WARM_UP_STEPS,
    Places,
    choose_places,
    detection,
    num_events,
    score_rule,
)
from moescope.monitors.scores.shapes import (
    SHAPES,
    SMALL_SPIKE,
    Shape,
    bloom_spike,
    drift,
    height_of_peak,
)
from moescope.monitors.scores.tuning import highest_score

MakeCurve = Callable[..., Curve]


class AboveFour:
    """Flags a loss above 4, and counts what it was shown."""

    def __init__(self) -> None:
        self.num_seen = 0

    def update(self, loss: float, grad_norm: float) -> bool:
        self.num_seen += 1
        return loss > 4

    def fork(self) -> Self:
        return copy.copy(self)


def test_the_bound_of_a_rate_is_the_poisson_one() -> None:
    assert poisson_upper(0) == pytest.approx(2.9957, abs=1e-4)  # -ln 0.05
    # e^-m (1 + m) = 0.05
    m = poisson_upper(1)
    assert m == pytest.approx(4.7439, abs=1e-4)
    assert math.exp(-m) * (1 + m) == pytest.approx(0.05)


def test_the_interval_of_a_share_is_wilsons() -> None:
    # n = 10, p = 0.8, z^2 = 3.8415: (0.99207 +- 0.31349) / 1.38415
    assert wilson(8, 10) == pytest.approx((0.49016, 0.94332), abs=1e-5)
    assert wilson(0, 20)[0] == 0.0
    assert wilson(20, 20)[1] == 1.0


def test_alarms_that_lie_close_together_are_one_event() -> None:
    assert num_events([]) == 0
    assert num_events([600]) == 1
    assert num_events([600, 650, 700]) == 1  # each 50 after the one before
    assert num_events([600, 651]) == 2


def test_false_events_are_counted_after_the_warm_up_only(make_curve: MakeCurve) -> None:
    loss = np.full(1000, 3.0)
    loss[[10, 499, 700, 720, 900]] = 5.0
    curves = [make_curve(loss, "a"), make_curve(np.full(800, 3.0), "b")]
    false, found = score_rule("r", lambda n: AboveFour(), curves, (), Places({}, {}))
    assert (false.num_events, false.num_steps) == (2, 500 + 300)
    assert (false.num_curves_hit, false.num_curves) == (1, 2)
    # both are of one group, hence of one order of data: the longer one counts for both
    assert (false.num_distinct_events, false.num_distinct_steps) == (2, 500)
    assert false.upper_per_100k_distinct == pytest.approx(1e5 * 6.2958 / 500, rel=1e-4)
    assert false.per_100k == pytest.approx(1e5 * 2 / 800)
    assert false.upper_per_100k == pytest.approx(1e5 * 6.2958 / 800, rel=1e-4)
    assert found == []


def test_a_shape_is_found_at_the_step_that_it_lifts(make_curve: MakeCurve) -> None:
    curve = make_curve(np.full(1000, 3.0))
    shapes = (Shape("late", np.array([1.0, 1.1, 1.5])), Shape("never", np.ones(5)))
    places = Places({"a": (600, 600, 700)}, {})
    false, (late, never) = score_rule("r", lambda n: AboveFour(), [curve], shapes, places)
    assert false.num_events == 0
    assert (late.num_found, late.num_places, late.median_delay_steps) == (3, 3, 2.0)
    assert (never.num_found, never.num_places, never.median_delay_steps) == (0, 3, None)


def test_early_shapes_are_planted_into_early_steps(make_curve: MakeCurve) -> None:
    curve = make_curve(np.full(1000, 3.0))
    shapes = (Shape("early", np.array([2.0]), is_early=True), Shape("late", np.array([2.0])))
    places = Places({"a": (600,)}, {"a": (5, 7)})
    _, found = score_rule("r", lambda n: AboveFour(), [curve], shapes, places)
    assert {d.shape: d.num_places for d in found} == {"early": 2, "late": 1}


def test_a_share_within_some_steps_counts_all_places() -> None:
    found = detection("r", SHAPES[0], [1, None, 4, 9])
    assert found.delays_steps == (1, 4, 9)
    assert found.share_within(4) == 0.5
    assert found.share == 0.75


def test_places_are_drawn_alike_from_each_group_and_leave_room(make_curve: MakeCurve) -> None:
    curves = [make_curve(1000, f"many{i}", "many") for i in range(5)]
    curves += [make_curve(3000, "one", "one"), make_curve(650, "short", "short")]
    places = choose_places(curves, 40, 100, np.random.default_rng(3))
    again = choose_places(curves, 40, 100, np.random.default_rng(3))
    assert places == again
    of_many = [p for name, found in places.settled.items() if "many" in name for p in found]
    assert len(of_many) == len(places.settled["one"]) == 20
    assert SETTLED_STEPS <= min(of_many) <= max(of_many) < 900
    assert "short" not in places.settled
    assert sum(map(len, places.early.values())) == 40


def test_the_spike_of_bloom_has_its_recorded_height() -> None:
    factor = bloom_spike(1.0)
    assert factor[3] == pytest.approx(5.098124 / 2.2096345)
    assert int(np.argmax(factor)) == 3
    assert factor[-1] == pytest.approx(2.215699 / 2.2096345)
    assert (np.diff(factor[6:]) < 0).all()
    small = next(shape for shape in SHAPES if shape.name == SMALL_SPIKE).factor
    assert small.max() == pytest.approx(1.2)
    assert height_of_peak(1.0) == pytest.approx(1 / (2.307225 - 1), rel=1e-6)


def test_a_drift_grows_by_its_rate_a_step() -> None:
    assert drift(0.001, 3) == pytest.approx([1.001, 1.002001, 1.003003001])


def test_scaled_rules_are_the_rules_with_other_thresholds(make_curve: MakeCurve) -> None:
    loss = make_curve(900).loss.copy()
    loss[700:] *= 1.2
    alone = JudgedRules(PLAIN_RULES)
    together = JudgedRules(scaled(PLAIN_RULES, {"half": 0.5, "same": 1.0}))
    expected = [alone.alerting(float(x)) for x in loss]
    found = [together.alerting(float(x)) for x in loss]
    assert any(expected)
    assert [tuple(n[5:] for n in names if n[:5] == "same_") for names in found] == expected
    assert sum("half_" in n for names in found for n in names) > sum(map(len, expected))


def test_a_fork_of_our_rules_goes_on_alike_and_leaves_the_original(make_curve: MakeCurve) -> None:
    loss = make_curve(800).loss.copy()
    loss[720:] *= 1.3
    whole = own_rule(PLAIN_RULES)(800)
    expected = [whole.alerting(float(x)) for x in loss]
    rule = JudgedRules(PLAIN_RULES)
    for x in loss[:700]:
        rule.update(float(x))
    other = rule.fork()
    for x in loss[600:700]:
        other.update(5 * float(x))
    assert [rule.alerting(float(x)) for x in loss[700:]] == expected[700:]


def test_the_highest_score_is_where_a_threshold_would_stop_to_alert(make_curve: MakeCurve) -> None:
    curve = make_curve(1500, seed=5)
    for rule in PLAIN_RULES:
        # not loss_spike: below four sigmas its threshold says what is learnt from, too
        if rule.name in ("loss_burst", "loss_level", "loss_drift"):
            highest = highest_score(rule, [curve])
            for threshold, alerts in ((highest * 1.0001, False), (highest * 0.9999, True)):
                changes = {"threshold": threshold, "silenced_by": (), "calm_steps": 1}
                judged = JudgedRules([rule.model_copy(update=changes)])
                found = [bool(judged.update(float(x))) for x in curve.loss]
                assert any(found[WARM_UP_STEPS:]) == alerts, rule.name


def test_operating_points_fall_as_thresholds_rise(make_curve: MakeCurve) -> None:
    curves = [make_curve(1100, "a"), make_curve(1100, "b", seed=1)]
    places = Places({"a": (650, 800), "b": (900,)}, {})
    points = operating_points(curves, places)
    ours = [p for p in points if p.family.startswith("our rules")]
    assert [float(p.at) for p in ours] == list(FACTORS)
    found = [p.detection for p in ours]
    assert found == sorted(found, reverse=True)
    assert ours[0].num_false_events >= ours[-1].num_false_events == 0
    assert len({p.family for p in points}) == 3
