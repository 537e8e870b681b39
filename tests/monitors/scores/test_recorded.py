from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from moescope.monitors.plain_rules import PLAIN_RULES
from moescope.monitors.rules import Rule
from moescope.monitors.scores.curves import Curve, curves_of, read_curve, read_curves
from moescope.monitors.scores.our_rules import JudgedRules, own_rule
from moescope.monitors.scores.recorded import read_recorded, score_recorded
from moescope.monitors.scores.score import WARM_UP_STEPS, choose_places, score_rule
from moescope.monitors.scores.shapes import WARM_UP_DIVERGENCE, Shape, bloom_spike, step_up
from moescope.monitors.watching.watched_rules import watched_rules
from moescope.platform import catalogue
from moescope.platform.errors import MoescopeError

THAT_ROLL_BACK = [
    rule
    for rule in watched_rules(has_samples=False)
    if rule.action == "rollback" and rule.signal == catalogue.LOSS_TOTAL
]


def test_gaps_are_filled_on_the_logarithms_line_and_a_long_one_ends(tmp_path: Path) -> None:
    path = tmp_path / "spikes.csv"
    path.write_text(
        "event,step,loss,grad_norm,outcome\n"
        "a,100,2.0,1,recovered\na,102,8.0,,recovered\na,140,9.0,,recovered\n"
        "b,1,5.0,1,diverged\nb,3,5.0,2,diverged\n"
    )
    excerpt, whole = read_recorded([path])
    np.testing.assert_allclose(excerpt.loss, [2.0, 4.0, 8.0])  # 4 is the geometric mean
    assert (excerpt.outcome, excerpt.is_whole, excerpt.onset) == ("recovered", False, 1)
    assert np.isnan(excerpt.grad_norm).all()
    assert whole.is_whole
    np.testing.assert_allclose(whole.grad_norm, [1.0, 1.5, 2.0])


def test_a_run_that_is_there_twice_is_taken_once(tmp_path: Path) -> None:
    for name, column in (("one.csv", "loss"), ("two.csv", "lm_loss")):
        (tmp_path / name).write_text(f"step,{column}\n1,2.0\n2,3.0\n")
    assert [found.name for found in read_recorded([tmp_path])] == ["one"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("step,speed\n1,2\n", "column step or loss is missing", id="no-loss"),
        pytest.param("step,loss\n1,2.0\n", "two rows", id="one-row"),
        pytest.param("step,loss\n1,2.0\n2,-1\n", "positive", id="negative"),
        pytest.param("step,loss\n2,2.0\n1,2.0\n", "steps must rise", id="backwards"),
    ],
)
def test_what_is_no_recorded_spike_is_told(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "spikes.csv"
    path.write_text(text)
    with pytest.raises(MoescopeError, match=expected):
        read_recorded([path])


def test_an_excerpt_follows_on_a_history_of_its_own_level(
    tmp_path: Path, make_curve: Callable[..., Curve]
) -> None:
    path = tmp_path / "spikes.csv"
    path.write_text("step,loss\n50,40.0\n51,41.0\n52,80.0\n53,82.0\n54,90.0\n")
    curves = [make_curve(1200, f"a{i}", "a", seed=i) for i in range(2)] + [
        make_curve(500, "b", "b")
    ]
    (found,) = score_recorded("ours", own_rule(PLAIN_RULES), read_recorded([path]), curves)
    # one curve of the group a; b is too short to be a history
    assert (found.num_found, found.num_histories, found.median_delay_steps) == (1, 1, 2.0)


def test_the_recorded_spikes_that_last_are_found_behind_a_held_out_curve(
    recorded_curves: Path,
) -> None:
    (history,) = read_curves(sorted((recorded_curves / "healthy").glob("*FlexAttention*")))
    events = read_recorded([recorded_curves / "spikes"])
    found = score_recorded("ours", own_rule(PLAIN_RULES), events, [history])
    delays = {f.event: f.median_delay_steps for f in found}
    assert delays["bloom176b_31216"] is not None
    assert delays["bloom176b_31216"] <= 5
    # one high loss is all that was written down of it
    assert delays.pop("tr8_104b_11448") is None
    assert [event for event, delay in delays.items() if delay is None] == []
    assert len(delays) == 6


def test_recorded_healthy_runs_raise_no_alert(recorded_curves: Path) -> None:
    folder = recorded_curves / "healthy"
    files = [next(iter(sorted(folder.glob(f"*{g}*")))) for g in ("ValueEmbed", "UNetDoubleLr")]
    curves = curves_of([read_curve(path) for path in files], "held-out")
    for curve in curves:
        rules = JudgedRules(PLAIN_RULES)
        flagged = [i for i, x in enumerate(curve.loss) if rules.update(float(x))]
        assert [i for i in flagged if i >= WARM_UP_STEPS] == []


@pytest.mark.parametrize("rule", THAT_ROLL_BACK, ids=lambda rule: rule.name)
def test_a_rule_that_rolls_back_notices_within_the_delay_that_certificates_wait_for(
    recorded_curves: Path, rule: Rule
) -> None:
    """The delay that it declares is no shorter than the 99th percentile on held-out curves."""
    alone = rule.model_copy(update={"silenced_by": ()})
    folder = recorded_curves / "healthy"
    files = [next(iter(sorted(folder.glob(f"*{g}*")))) for g in ("ValueEmbed", "UNetDoubleLr")]
    curves = curves_of([read_curve(path) for path in files], "held-out")
    shapes = [
        Shape("doubled", step_up(2.0, 60, 60)),
        Shape("bloom", bloom_spike(1.0)),
        Shape("diverges", np.array(WARM_UP_DIVERGENCE), is_early=True),
    ]
    places = choose_places(curves, 40, 80, np.random.default_rng(0))
    _, found = score_rule(rule.name, own_rule([alone]), curves, shapes, places)
    delays = sorted(delay for one in found for delay in one.delays_steps)
    assert len(delays) >= 30, [(one.shape, one.num_found, one.num_places) for one in found]
    assert np.percentile(delays, 99) <= rule.delay_p99_steps
