"""Rules of the judge: dry runs, rules that are off, and rules that change while it judges."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from moescope.monitors.default_rules import DEFAULT_RULES
from moescope.monitors.judge import Judge, Judgement
from moescope.monitors.rules import read_rules
from moescope.monitors.scoring import ExpertScorer
from moescope.platform import catalogue
from moescope.platform.errors import MoescopeError

Values = dict[str, Any]


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


def plain(value: Any) -> str:
    return json.dumps(value, default=lambda array: array.tolist())


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
