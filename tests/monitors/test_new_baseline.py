"""An alarm that ends because its detector learnt a new baseline has healed nothing."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moescope.monitors.judge import Condition, Judge, Judgement
from moescope.monitors.policy import Policy
from moescope.monitors.policy_memory import ExplainedAway, PolicyMemory
from moescope.monitors.rules import Rule, read_rules
from moescope.platform import catalogue
from moescope.platform.alert_kinds import is_explained_away
from moescope.platform.records import Action, Alert, Checkpoint
from moescope.trainer.config import PolicyConfig

SIGNAL = "user/level"
SHORT = {"window": 20, "min_count": 10}
SPIKE = {"detector": "spike", "parameters": {**SHORT, "level_rate": 0, "floor": 1}, "threshold": 5}
LEVEL = {
    "detector": "level_shift",
    "parameters": {**SHORT, "num_recent": 4, "lag": 5, "floor": 1},
    "threshold": 5,
}
DRIFT = {
    "detector": "drift",
    "parameters": {**SHORT, "lag": 5, "floor": 1, "restart": 40},
    "threshold": 10,
}
RISE = {"detector": "rise", "parameters": {**SHORT, "floor": 1}, "threshold": 5}
MULTIPLE = {"detector": "multiple", "parameters": {**SHORT, "lag": 3}, "threshold": 2}


def rule_of(**fields: Any) -> Rule:
    words = {"name": "level", "signal": SIGNAL, "severity": "warning", "message": "it is high"}
    [rule] = read_rules([{**words, "delay_p99_steps": 20, **fields}])
    return rule


def judged(judge: Judge, values: dict[int, float]) -> list[Judgement]:
    return [
        judge.step(step, 0, float(step), {SIGNAL: np.array(value)})
        for step, value in values.items()
    ]


def at(steps: range, level: float) -> dict[int, float]:
    return {step: level + 0.1 * math.sin(step) for step in steps}


@pytest.mark.parametrize("detector", [SPIKE, LEVEL, DRIFT, RISE, MULTIPLE])
def test_a_level_that_stays_ends_its_alarm_as_a_new_baseline(detector: dict[str, Any]) -> None:
    judge = Judge([rule_of(**detector)], "run")
    found = judged(judge, at(range(60), 20.0) | at(range(60, 160), 60.0))
    [alert] = [alert for j in found for alert in j.alerts]
    [(step, ended)] = [(j.step, alert) for j in found for alert in j.healed]
    assert (ended.id, ended.state) == (alert.id, "resolved")
    assert is_explained_away(ended)
    assert not is_explained_away(alert)
    assert [c.alert.id for c in found[step].explained_away] == [alert.id]
    assert sum(len(j.explained_away) for j in found) == 1


@pytest.mark.parametrize("detector", [SPIKE, LEVEL, DRIFT, RISE, MULTIPLE])
def test_what_comes_back_to_its_level_has_healed(detector: dict[str, Any]) -> None:
    judge = Judge([rule_of(**detector)], "run")
    up = at(range(60, 68), 60.0)
    found = judged(judge, at(range(60), 20.0) | up | at(range(68, 160), 20.0))
    [ended] = [alert for j in found for alert in j.healed]
    assert ended.state == "resolved"
    assert not is_explained_away(ended)
    assert [j.explained_away for j in found if j.explained_away] == []


def test_an_alarm_that_goes_on_on_the_new_baseline_and_then_heals_has_healed() -> None:
    # a third level, while the second is being learnt: the score is high again, and comes down
    judge = Judge([rule_of(**SPIKE, calm_steps=30)], "run")
    judged(judge, at(range(60), 20.0) | at(range(60, 95), 60.0))
    assert judge.holding()
    found = judged(judge, at(range(95, 98), 90.0) | at(range(98, 140), 60.0))
    [ended] = [alert for j in found for alert in j.healed]
    assert not is_explained_away(ended)


def test_a_judge_that_was_restored_knows_that_a_baseline_was_learnt_anew() -> None:
    rule = rule_of(**SPIKE)
    first = Judge([rule], "run")
    judged(first, at(range(60), 20.0) | at(range(60, 81), 60.0))
    second = Judge([rule], "run")
    second.load_state_dict(first.state_dict())
    want, got = (judged(judge, at(range(81, 90), 60.0)) for judge in (first, second))
    assert [alert for j in got for alert in j.healed] == [a for j in want for a in j.healed]
    assert [c for j in got for c in j.explained_away]


def test_a_resume_explains_no_alarm_and_an_announced_change_does() -> None:
    for kind, is_explained in (("resume", True), ("data_change", False)):
        judge = Judge([rule_of(**RISE)], "run")
        judged(judge, at(range(60), 20.0) | at(range(60, 66), 60.0))
        judge.announce(kind, 66)  # type: ignore[arg-type]
        found = judged(judge, at(range(66, 80), 60.0))
        [ended] = [alert for j in found for alert in j.healed]
        assert is_explained_away(ended) == is_explained, kind


def test_losses_that_stay_high_are_a_new_baseline(loss_stream: Callable) -> None:
    stream, window = loss_stream(3), 40
    spike = rule_of(
        name="loss_spike", signal=catalogue.LOSS_PER_SAMPLE, detector="spike", threshold=3.5,
        patience=3, of_last=5, parameters={"window": window, "min_count": 20}, action="rollback",
        severity="critical",
    )  # fmt: skip
    judge = Judge([spike], "run")
    factors = {step: (1.0, 1.0) if step < 200 else (3.0, 3.0) for step in range(300)}
    found = [judge.step(s, 0, 0.0, stream.step(s, factors[s])) for s in factors]
    [alert] = [alert for j in found for alert in j.alerts]
    [ended] = [alert for j in found for alert in j.healed]
    assert alert.onset_step == 200
    assert is_explained_away(ended)
    json.dumps(dict(ended.evidence))  # it goes to the store


LIMITS = PolicyConfig(window_steps=100, margin_steps=2, certify_after_steps=20)


def checkpoint(step: int, health: Any = "fresh", segment: int = 0) -> Checkpoint:
    return Checkpoint("run", segment, step, f"{segment}-{step}", step, 1, 0.0, health)


def ended_at(step: int, onset: int, impugns_state: bool = True) -> Judgement:
    alert = Alert(
        f"run-0-{onset}-level", "run", 0, "level", "critical", onset, onset + 2, 9.0, 4.0,
        "it is high", 0.0, "run/level",
    )  # fmt: skip
    condition = Condition("level", alert, "rollback", False, impugns_state, False, None)
    return Judgement(step, 0, {}, explained_away=(condition,))


def certified(policy: Policy, steps: range, kept: list[Checkpoint]) -> dict[tuple[int, int], str]:
    """Healthy steps; the checkpoints are there from their own step on."""
    health = {(c.segment, c.step): c for c in kept}
    for step in steps:
        there = [c for c in health.values() if c.step <= step]
        segment = max(c.segment for c in there)
        for changed in policy.certify(step, there, Judgement(step, segment, {})):
            health[changed.segment, changed.step] = changed
    return {key: c.health for key, c in health.items()}


def test_nothing_is_certified_from_the_onset_until_a_window_after_the_new_baseline(
    tmp_path: Path,
) -> None:
    policy = Policy(LIMITS, tmp_path / "memory.jsonl", ())
    kept = [checkpoint(0, "certified"), checkpoint(270, "certified"), checkpoint(295, "fresh")]
    later = [checkpoint(step) for step in (310, 340, 400, 440, 441, 460)]
    policy.certify(340, kept, ended_at(340, onset=300))
    # a crash forgets nothing
    policy = Policy(LIMITS, tmp_path / "memory.jsonl", ())
    found = certified(policy, range(341, 480), kept + later)
    assert {step: health for (_, step), health in found.items()} == {
        0: "certified",
        270: "certified",  # the way back
        295: "fresh",  # before the onset, but never shown to be healthy
        **dict.fromkeys((310, 340, 400, 440), "tainted"),
        441: "certified",
        460: "fresh",  # too young
    }


def test_a_certificate_within_the_stretch_is_taken_back(tmp_path: Path) -> None:
    policy = Policy(LIMITS, tmp_path / "memory.jsonl", ())
    changed = policy.certify(340, [checkpoint(320, "certified")], ended_at(340, onset=300))
    assert [(c.step, c.health) for c in changed] == [(320, "tainted")]


def test_an_alarm_that_only_observes_keeps_no_certificate_back(tmp_path: Path) -> None:
    policy = Policy(LIMITS, tmp_path / "memory.jsonl", ())
    policy.certify(340, [checkpoint(0)], ended_at(340, onset=300, impugns_state=False))
    kept = [checkpoint(345)]
    assert certified(policy, range(345, 380), kept) == {(0, 345): "certified"}


def test_after_going_back_to_before_the_onset_the_run_is_certified_again(tmp_path: Path) -> None:
    policy = Policy(LIMITS, tmp_path / "memory.jsonl", ())
    policy.certify(340, [checkpoint(0)], ended_at(340, onset=300))
    policy.note(Action("rollback", "asked", to_step=310), 345, 345, is_automatic=False)
    kept = [checkpoint(310, segment=1)]
    assert certified(policy, range(311, 340), kept) == {(1, 310): "tainted"}
    policy.note(Action("rollback", "asked", to_step=270), 345, 345, is_automatic=False)
    kept = [checkpoint(280, segment=2), checkpoint(320, segment=2)]
    found = certified(policy, range(281, 360), kept)
    assert found == {(2, 280): "certified", (2, 320): "certified"}


def test_what_was_explained_away_is_read_again_and_written_once(tmp_path: Path) -> None:
    path = tmp_path / "memory.jsonl"
    memory, alarm = PolicyMemory(path), ExplainedAway(300, 440, 0)
    memory.add_explained_away(alarm)
    memory.add_explained_away(alarm)
    memory.add_explained_away(replace(alarm, segment=1))
    assert len(path.read_text().splitlines()) == 2
    assert PolicyMemory(path).explained_away == [alarm, replace(alarm, segment=1)]
