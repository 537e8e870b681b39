"""Rules replayed over a stored run: what a live judge found is found again."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moescope.monitors.default_rules import DEFAULT_RULES
from moescope.monitors.judge import Judge
from moescope.monitors.policy_limits import Limits
from moescope.monitors.replay import limits_of, replay
from moescope.monitors.rules import read_rules
from moescope.platform import catalogue
from moescope.platform.errors import MoescopeError
from moescope.platform.records import Alert, Checkpoint, Event, Frame, Run, Segment
from moescope.platform.store import Store, open_store
from moescope.trainer.config import PolicyConfig

RUN = Run("r", "amber", "p", {"policy": {"grace_steps": 1}}, "finished", "cpu", "0", 0.0, 0.0)
FIRST_BAD = 200


@pytest.fixture
def store(tmp_path: Path, put_store: Callable[[Path], str]) -> Iterator[Store]:
    opened = open_store(put_store(tmp_path / "store.db"))
    opened.add_run(RUN)
    yield opened
    opened.close()


def as_stored(values: dict[str, Any]) -> dict[str, Any]:
    return {name: np.asarray(value, np.float32) for name, value in values.items()}


def trained(store: Store, stream: Any) -> list[Alert]:
    """Stores a run that is spoiled from a step on, goes back ten steps, and goes on in health;
    returns what the judge of its trainer raised."""
    judge, raised = Judge(DEFAULT_RULES, "r"), list[Alert]()
    saved: dict[str, Any] = {}
    store.add_segment(Segment("r", 0, 0, "start", 0.0))
    for step in (0, 150, 190):
        store.put_checkpoint(Checkpoint("r", 0, step, "x", step + 1000, 1, 0.0, "tainted"))
    frames = []
    for step in range(FIRST_BAD + 5):
        if step == 190:
            saved = judge.state_dict()
        bad = (4.0, 4.0) if step >= FIRST_BAD else (1.0, 1.0)
        frames.append(Frame("r", 0, step, float(step), as_stored(stream.step(step, bad))))
        raised += judge.step(step, 0, float(step), frames[-1].values).alerts
    store.add_segment(Segment("r", 1, 190, "rollback", 0.0, 0, 189))
    store.add_event(Event("r", 1, 190, 0.0, "rollback", "back"))
    judge.load_state_dict(saved)
    for step in range(190, 240):
        frames.append(Frame("r", 1, step, float(step), as_stored(stream.step(step))))
        raised += judge.step(step, 1, float(step), frames[-1].values).alerts
    store.write_frames(frames)
    return raised


def test_what_the_trainer_found_is_found_again_with_what_was_asked(
    store: Store, loss_stream: Callable
) -> None:
    raised = trained(store, loss_stream(0))
    found = replay(store, RUN, DEFAULT_RULES)
    assert found.num_steps == 205 + 50
    alarms = [alarm for alarm in found.alarms if alarm.severity != "info"]
    assert [(a.rule, a.segment, a.step, a.onset_step) for a in alarms] == [
        (a.rule, a.segment, a.fired_step, a.onset_step) for a in raised
    ]
    (spike,) = [alarm for alarm in alarms if alarm.rule == "loss_spike"]
    assert spike.value == pytest.approx(raised[0].value)
    # 190 was saved ten steps before the onset, too late to be certified by then
    assert spike.action == "rollback"
    assert "roll back to step 150" in spike.reason
    assert {heard.rule: heard.num_steps for heard in found.rules}["dead_experts"] == 0


def test_a_dry_run_is_replayed_as_if_it_were_none(store: Store, loss_stream: Callable) -> None:
    trained(store, loss_stream(0))
    rules = [rule.model_copy(update={"is_dry_run": True}) for rule in DEFAULT_RULES]
    found = replay(store, RUN, rules, ["loss_spike"])
    (alarm,) = found.alarms
    assert (alarm.rule, alarm.is_dry_run, alarm.action) == ("loss_spike", True, "rollback")
    assert [heard.rule for heard in found.rules] == ["loss_spike"]


def test_a_higher_limit_raises_nothing_and_a_note_has_its_onset(
    store: Store, loss_stream: Callable
) -> None:
    trained(store, loss_stream(0))
    rules = [
        rule.model_copy(update={"threshold": 500.0} if rule.name == "loss_spike" else {})
        for rule in DEFAULT_RULES
    ]
    assert replay(store, RUN, rules, ["loss_spike"]).alarms == ()
    notes = replay(store, RUN, rules, ["odd_batch"]).alarms
    assert notes
    assert {(n.severity, n.action) for n in notes} == {("info", "carry_on")}
    assert all(FIRST_BAD <= n.onset_step <= n.step for n in notes)


def test_announced_changes_are_heard_in_a_replay_too(store: Store) -> None:
    rule = {
        "name": "jump",
        "signal": catalogue.LOSS_TOTAL,
        "detector": "spike",
        "threshold": 6.0,
        "severity": "warning",
        "delay_p99_steps": 1,
        "message": "the loss jumps",
    }
    chance = np.random.default_rng(0)
    store.add_segment(Segment("r", 0, 0, "start", 0.0))
    losses = chance.normal(1.0, 0.1, 160) + np.where(np.arange(160) >= 100, 5.0, 0.0)
    store.write_frames(
        [
            Frame("r", 0, step, 0.0, {catalogue.LOSS_TOTAL: np.array(loss, np.float32)})
            for step, loss in enumerate(losses)
        ]
    )
    assert [a.step for a in replay(store, RUN, read_rules([rule])).alarms] == [100]
    store.add_event(Event("r", 0, 100, 0.0, "data_change", "other clips"))
    assert replay(store, RUN, read_rules([rule])).alarms == ()


def test_a_long_run_is_read_in_parts_and_a_run_without_samples_is_empty(
    store: Store, monkeypatch: pytest.MonkeyPatch, loss_stream: Callable
) -> None:
    assert replay(store, RUN, DEFAULT_RULES).num_steps == 0
    trained(store, loss_stream(0))
    whole = replay(store, RUN, DEFAULT_RULES)
    monkeypatch.setattr("moescope.monitors.replay.STEPS_AT_ONCE", 7)
    assert replay(store, RUN, DEFAULT_RULES) == whole


def test_the_policy_has_the_numbers_of_the_run() -> None:
    told = PolicyConfig().model_dump(exclude={"mode"})
    assert {name: getattr(Limits(), name) for name in told} == told
    assert limits_of(RUN).grace_steps == 1
    assert limits_of(replace(RUN, config={"policy": 3})) == Limits()


def test_a_rule_whose_delay_the_run_cannot_wait_for_is_refused(store: Store) -> None:
    slow = [rule.model_copy(update={"delay_p99_steps": 90}) for rule in DEFAULT_RULES]
    with pytest.raises(MoescopeError, match="use at least 90"):
        replay(store, RUN, slow)
