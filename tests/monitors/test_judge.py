import json
import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moescope.monitors.default_rules import DEFAULT_RULES
from moescope.monitors.judge import Judge, Judgement
from moescope.monitors.rules import read_rules
from moescope.monitors.scoring import ExpertScorer
from moescope.platform import catalogue
from moescope.platform.errors import MoescopeError

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
    assert healed == [(308, "loss_spike", "resolved")]  # the fifth calm step in a row
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


@pytest.mark.parametrize("kind", ["resolution", "data_change"])
def test_an_announced_change_of_the_loss_is_no_alarm(loss_stream: Callable, kind: Any) -> None:
    stream, j = loss_stream(8), judge()
    run(j, stream, range(300))
    j.announce(kind, 300)
    found = [j.step(s, 0, 0.0, stream.step(s, (3.0, 3.0))) for s in range(300, 450)]
    assert alerts(found) == []
    assert not found[0].can_judge
    assert found[-1].can_judge
    found = [j.step(s, 0, 0.0, stream.step(s, (9.0, 9.0))) for s in range(450, 455)]
    assert [rule for rule, _, _ in alerts(found)] == ["loss_spike"]


def test_after_a_resume_spoiled_batches_are_still_found_at_once(loss_stream: Callable) -> None:
    stream, j = loss_stream(9), judge()
    run(j, stream, range(300))
    j.announce("resume", 300)
    assert j.vet(stream.step(300, SPOILED)).is_bad
    found = [j.step(s, 0, 0.0, stream.step(s, SPOILED)) for s in range(300, 305)]
    assert [rule for rule, _, _ in alerts(found)] == ["loss_spike"]


def test_an_event_that_explains_nothing_changes_nothing(loss_stream: Callable) -> None:
    first, second = judge(), judge()
    run(first, loss_stream(1), range(100))
    run(second, loss_stream(1), range(100))
    second.announce("checkpoint", 100)
    assert plain(first.state_dict()) == plain(second.state_dict())


def plain(value: Any) -> str:
    return json.dumps(value, default=lambda array: array.tolist())


def test_vetting_lets_clean_batches_pass_and_catches_spoiled_ones(loss_stream: Callable) -> None:
    num_clean_bad = num_spoiled_good = num = 0
    for seed in range(6):
        stream, j = loss_stream(seed), judge()
        run(j, stream, range(280))
        saved = j.state_dict()
        run(j, stream, range(280, 304))
        j.load_state_dict(saved)  # the rollback, some twenty steps
        run(j, stream, range(280, 300))
        for _ in range(100):
            num += 1
            num_clean_bad += j.vet(stream.step(300)).is_bad
            num_spoiled_good += not j.vet(stream.step(300, SPOILED)).is_bad
    assert num_clean_bad / num < 0.01
    assert num_spoiled_good == 0


def test_vetting_is_pure(loss_stream: Callable) -> None:
    stream, j = loss_stream(0), judge()
    run(j, stream, range(200))
    before = plain(j.state_dict())
    values = stream.step(200, SPOILED)
    assert j.vet(values) == j.vet(values)
    assert plain(j.state_dict()) == before


def test_a_batch_with_a_loss_that_is_no_number_is_bad(loss_stream: Callable) -> None:
    values = loss_stream(0).step(0)
    values[catalogue.LOSS_PER_SAMPLE][1, 0] = np.inf
    vetting = judge().vet(values)
    assert vetting.is_bad
    assert vetting.score == math.inf
    assert "not finite" in vetting.reason


def test_the_same_incident_is_named_the_same_after_a_restore(loss_stream: Callable) -> None:
    def incident(j: Judge) -> list[str]:
        stream = loss_stream(11)
        values = [stream.step(s, SPOILED if s >= 250 else (1, 1)) for s in range(256)]
        found = [j.step(s, 0, 0.0, v) for s, v in enumerate(values)]
        return [alert.id for judgement in found for alert in judgement.alerts]

    assert incident(judge()) == incident(judge()) == ["run-0-252-loss_spike"]


def test_a_relapse_within_the_cooldown_is_the_same_incident(loss_stream: Callable) -> None:
    stream, j = loss_stream(12), judge()
    run(j, stream, range(300))
    spoiled = {*range(300, 304), *range(312, 316)}
    found = [
        j.step(s, 0, 0.0, stream.step(s, SPOILED if s in spoiled else (1, 1)))
        for s in range(300, 320)
    ]
    assert [judgement.step for judgement in found if judgement.alerts] == [302, 314]
    assert found[14].alerts == found[2].alerts
    assert found[2].alerts[0].state == "open"
    held = {c.alert.id for judgement in found[14:16] for c in judgement.conditions}
    assert held == {found[2].alerts[0].id}


schedule = st.lists(
    st.sampled_from(["good", "good", "good", "bad", "nan", "no losses"]), min_size=1, max_size=30
)


@settings(max_examples=25, deadline=None)
@given(schedule, st.integers(0, 130), st.integers(0, 5))
def test_a_judge_split_in_two_finds_the_same(kinds: list[str], at: int, seed: int) -> None:
    # a short window, so that a hundred steps hold everything that can happen
    rules = [
        rule.model_copy(update={"parameters": {"window": 24, "min_count": 12}})
        if rule.signal == catalogue.LOSS_PER_SAMPLE
        else rule
        for rule in DEFAULT_RULES
    ]
    rng = np.random.default_rng(seed)
    series = []
    for step in range(100 + len(kinds)):
        kind = kinds[step - 100] if step >= 100 else "good"
        factor = 4.0 if kind == "bad" else 1.0
        values = {
            catalogue.LOSS_PER_SAMPLE: factor * np.exp(0.2 * rng.standard_normal((2, 4))),
            catalogue.LOSS_SIGMA: rng.random((2, 4)),
            catalogue.GRAD_NORM: np.array(np.nan if kind == "nan" else factor),
            catalogue.EXPERT_TOKENS: rng.integers(0, 3, (2, 4)),
            catalogue.DATA_BATCH: np.array(step),
        }
        if kind == "no losses":
            del values[catalogue.LOSS_PER_SAMPLE]
        series.append(values)

    def found(j: Judge, part: list[Values], start: int) -> list[str]:
        return [plain(asdict(j.step(start + i, 0, 0.0, v))) for i, v in enumerate(part)]

    expected = found(Judge(rules, "r"), series, 0)
    first, second = Judge(rules, "r"), Judge(rules, "r")
    result = found(first, series[:at], 0)
    second.load_state_dict(json.loads(plain(first.state_dict())))
    assert result + found(second, series[at:], at) == expected


def test_a_users_rule_on_a_users_signal_fires() -> None:
    rule = {
        "name": "reward_jumps",
        "signal": "user/reward",
        "detector": "spike",
        "threshold": 6.0,
        "severity": "warning",
        "delay_p99_steps": 1,
        "message": "the reward jumps",
    }
    j = Judge(read_rules([rule]), "run")
    rng = np.random.default_rng(0)
    for step in range(100):
        assert not j.step(step, 0, 0.0, {"user/reward": rng.normal(1.0, 0.1)}).alerts
    assert j.step(100, 0, 0.0, {}).alerts == ()
    assert [a.rule for a in j.step(101, 0, 0.0, {"user/reward": 9.0}).alerts] == ["reward_jumps"]


def test_odd_batches_that_keep_coming_ask_for_vetting(loss_stream: Callable) -> None:
    stream, j = loss_stream(13), judge()
    run(j, stream, range(300))
    found = [
        j.step(s, 0, 0.0, stream.step(s, (6.0, 6.0) if s % 8 == 0 else (1, 1)))
        for s in range(300, 345)
    ]
    # 304, 312, ..., 344: never three of five, but six of fifty
    assert alerts(found) == [("odd_batches", 304, 344)]
    assert found[-1].conditions[0].action == "skip_data"
    assert found[-1].is_healthy


def test_a_rule_silenced_by_nobody_is_refused() -> None:
    rule = DEFAULT_RULES[0].model_copy(update={"silenced_by": ("loss_spyke",)})
    with pytest.raises(MoescopeError, match="loss_spyke, which is no rule here"):
        Judge([rule], "run")


def test_rules_that_disagree_on_the_loss_score_are_refused() -> None:
    spike = next(rule for rule in DEFAULT_RULES if rule.name == "loss_spike")
    other = spike.model_copy(update={"name": "other", "parameters": {"window": 7}})
    with pytest.raises(ValueError, match="loss_spike and other"):
        Judge([spike, other], "run")


def changed_rules(name: str, **changes: Any) -> list[Any]:
    return [
        rule.model_copy(update=changes) if rule.name == name else rule for rule in DEFAULT_RULES
    ]


def test_a_dry_run_is_a_note_that_says_what_it_would_do(loss_stream: Callable) -> None:
    stream, j = loss_stream(0), Judge(changed_rules("loss_spike", is_dry_run=True), "run")
    run(j, stream, range(300))
    found = [j.step(s, 0, 0.0, stream.step(s, (4.0, 4.0))) for s in range(300, 305)]
    assert "loss_spike" not in [rule for rule, _, _ in alerts(found)]
    (note,) = [n for f in found for n in f.notes if n.details["rule"] == "loss_spike"]
    assert note.text.startswith("dry run of loss_spike: would raise critical and ask for rollback:")
    assert note.details["onset_step"] == 300
    assert all(f.is_healthy for f in found)
    assert found[-1].conditions == ()


def test_a_dry_run_keeps_nobody_waiting_for_its_baseline(loss_stream: Callable) -> None:
    values = loss_stream(0).step(0)
    assert not judge().step(0, 0, 0.0, values).can_judge
    dry = changed_rules("loss_spike", is_dry_run=True)
    assert Judge(dry, "run").step(0, 0, 0.0, values).can_judge


def test_a_rule_that_is_off_says_nothing_and_may_be_named(loss_stream: Callable) -> None:
    stream, j = loss_stream(0), Judge(changed_rules("loss_spike", is_on=False), "run")
    run(j, stream, range(300))
    found = [j.step(s, 0, 0.0, stream.step(s, (4.0, 4.0))) for s in range(300, 305)]
    assert "loss_spike" not in [rule for rule, _, _ in alerts(found)]


def test_other_rules_keep_what_was_learnt_and_what_holds(loss_stream: Callable) -> None:
    stream, j = loss_stream(0), judge()
    run(j, stream, range(300))
    before = plain(j.state_dict()["scorers"])
    other = j.with_rules(changed_rules("dead_experts", patience=2, of_last=3))
    assert plain(other.state_dict()["scorers"]) == before
    found = [other.step(s, 0, 0.0, stream.step(s, (4.0, 4.0))) for s in range(300, 304)]
    (spike,) = [alert for f in found for alert in f.alerts]
    again = other.with_rules(changed_rules("dead_experts", threshold=3.0))
    judgement = again.step(304, 0, 0.0, stream.step(304, (4.0, 4.0)))
    assert [c.alert for c in judgement.conditions] == [spike]
    assert judgement.healed == ()
    assert judgement.conditions[0].peak >= found[-1].conditions[0].peak


def test_a_changed_action_holds_at_once_for_what_goes_on(loss_stream: Callable) -> None:
    stream, j = loss_stream(0), judge()
    run(j, stream, range(300))
    run_of_bad = [j.step(s, 0, 0.0, stream.step(s, (4.0, 4.0))) for s in range(300, 304)]
    assert run_of_bad[-1].conditions[0].action == "rollback"
    other = j.with_rules(changed_rules("loss_spike", action="damp"))
    judgement = other.step(304, 0, 0.0, stream.step(304, (4.0, 4.0)))
    assert judgement.conditions[0].action == "damp"
    assert judgement.conditions[0].alert.id == run_of_bad[-1].conditions[0].alert.id


@pytest.mark.parametrize(
    "change", [{"is_on": False}, {"is_dry_run": True}, {"threshold": 50.0}, {"severity": "info"}]
)
def test_an_alarm_whose_rule_has_changed_is_resolved(
    loss_stream: Callable, change: dict[str, Any]
) -> None:
    stream, j = loss_stream(0), judge()
    run(j, stream, range(300))
    bad = [j.step(s, 0, 0.0, stream.step(s, (4.0, 4.0))) for s in range(300, 304)]
    (alert,) = [a for f in bad for a in f.alerts]
    other = j.with_rules(changed_rules("loss_spike", **change))
    judgement = other.step(304, 0, 77.0, stream.step(304, (4.0, 4.0)))
    (healed,) = judgement.healed
    assert (healed.id, healed.state, healed.changed_s) == (alert.id, "resolved", 77.0)
    assert "loss_spike" not in [c.rule for c in judgement.conditions]
    assert other.step(305, 0, 0.0, stream.step(305)).healed == ()


def test_a_score_that_is_told_otherwise_begins_anew_and_the_other_goes_on(
    loss_stream: Callable,
) -> None:
    stream, j = loss_stream(0), judge()
    run(j, stream, range(200))
    other = j.with_rules(changed_rules("loss_drift", parameters={"window": 96}))
    before, after = (x.state_dict()["scorers"][catalogue.LOSS_PER_SAMPLE] for x in (j, other))
    assert plain(after["pooled"]) == plain(before["pooled"])
    assert plain(after["normaliser"]) == plain(before["normaliser"])
    assert plain(after["drifts"]) != plain(before["drifts"])


def test_a_rollback_to_before_a_rule_was_added_lets_it_begin_anew(loss_stream: Callable) -> None:
    row = {
        "name": "total_jumps",
        "signal": catalogue.LOSS_TOTAL,
        "detector": "spike",
        "threshold": 6.0,
        "severity": "warning",
        "delay_p99_steps": 1,
        "message": "the loss jumps",
    }
    stream, j = loss_stream(0), judge()
    run(j, stream, range(10))
    saved = j.state_dict()
    other = j.with_rules([*DEFAULT_RULES, *read_rules([row])])
    fresh = plain(other.state_dict())
    run(other, stream, range(10, 80))
    other.load_state_dict(saved)
    assert plain(other.state_dict()) == fresh


def test_a_rule_that_cannot_be_judged_is_switched_off_with_a_note_and_the_others_go_on(
    loss_stream: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(self: Any, step: int, values: Any) -> Any:
        raise MemoryError("no room")

    monkeypatch.setattr(ExpertScorer, "update", breaks)
    judged, stream = judge(), loss_stream(0)
    notes: list[str] = []
    rules: set[str] = set()
    for step in range(170):
        factor = 3.0 if step >= 150 else 1.0
        found = judged.step(step, 0, 0.0, stream.step(step, (factor, factor)))
        notes += [note.text for note in found.notes if "switched off" in note.text]
        rules |= {alert.rule for alert in found.alerts}
    assert len(notes) == 2  # dead experts and the monopoly have a scorer each
    assert any("dead_experts" in note and "MemoryError: no room" in note for note in notes)
    assert "loss_spike" in rules


def test_of_two_scores_of_one_name_the_first_rule_of_the_table_is_recorded() -> None:
    row = {
        "name": "my_gradient_spike",
        "signal": catalogue.GRAD_NORM,
        "detector": "spike",
        "parameters": {"window": 8, "min_count": 4, "floor": 100.0},
        "threshold": 6.0,
        "severity": "warning",
        "delay_p99_steps": 1,
        "message": "gradients jump",
    }
    chance = np.random.default_rng(0)
    alone, beside = judge(), Judge([*DEFAULT_RULES, *read_rules([row])], "run")
    for step in range(80):
        values = {catalogue.GRAD_NORM: np.float32(np.exp(chance.standard_normal()))}
        of_one, of_two = (j.step(step, 0, 0.0, values).scores for j in (alone, beside))
        assert of_one == of_two
    assert of_one[catalogue.GRAD_NORM_SCORE] != 0.0
