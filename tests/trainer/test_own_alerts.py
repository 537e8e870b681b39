"""Alerts of the trainer about itself: once each, and resolved when their cause is gone."""

from dataclasses import replace

import pytest

from moescope.platform.alert_kinds import CHECKPOINT, HALTED, SAMPLES
from moescope.platform.frozen import changed
from moescope.platform.own_alerts import AGAIN_STEPS, OwnAlerts
from moescope.platform.records import Alert
from moescope.platform.settings import Settings
from moescope.platform.store import open_store
from moescope.trainer.config import RunConfig
from moescope.trainer.run import open_trainer


@pytest.fixture
def said() -> list[Alert]:
    return []


def test_the_same_is_raised_once_for_a_while(said: list[Alert]) -> None:
    own = OwnAlerts("r", said.append)
    raised = [
        own.raise_alert(CHECKPOINT, f"not written: {step / 7:.2f} GiB free", 0, step)
        for step in (1, 9, 9 + AGAIN_STEPS)
    ]
    assert raised == [True, False, True]
    assert own.raise_alert(SAMPLES, "not written", 0, 9)
    assert {alert.dedupe_key for alert in said} == {"r/checkpoint", "r/samples"}
    assert [alert.severity for alert in said] == ["warning"] * 3


def test_what_is_resolved_may_come_back_at_once(said: list[Alert]) -> None:
    own = OwnAlerts("r", said.append)
    own.resolve(CHECKPOINT)
    own.raise_alert(CHECKPOINT, "not written", 0, 5)
    own.resolve(CHECKPOINT)
    assert not own.stands(CHECKPOINT)
    assert [alert.state for alert in said] == ["open", "resolved"]
    assert said[0].id == said[1].id
    assert own.raise_alert(CHECKPOINT, "not written", 0, 6)


def test_a_step_that_comes_again_has_alerts_of_its_own(said: list[Alert]) -> None:
    for segment in (0, 1):
        own = OwnAlerts("r", said.append)
        own.raise_alert(CHECKPOINT, "not written", segment, 5)
        own.raise_alert(CHECKPOINT, "not read", segment, 5)
    assert len({alert.id for alert in said}) == 4


def test_alerts_of_a_run_end_by_themselves(small: RunConfig, settings: Settings) -> None:
    full = changed(small, {"steps": 40, "checkpoint.min_free_gib": 1e6})
    with open_trainer(full, settings, run_id="r") as trainer:
        for _ in range(25):
            trainer.train_step()
        trainer.halt("the budget is used up")
        trainer.fan_out.flush(10)
        store = open_store(settings.store_url)
        assert {(a.rule, a.state) for a in store.alerts("r")} == {
            (CHECKPOINT, "open"),
            (HALTED, "open"),
        }
        # what a rule raised in steps that were lost with the process
        (checkpoint,) = [a for a in store.alerts("r") if a.rule == CHECKPOINT]
        store.put_alert(replace(checkpoint, id="lost", rule="loss_spike", dedupe_key="lost"))
        store.put_alert(replace(checkpoint, id="gone", rule="stalled", dedupe_key="gone"))
        trainer.keeper.flush()
        # the disk was mended by hand, and a state saved
        object.__setattr__(trainer.config.checkpoint, "min_free_gib", 0.0)
        trainer.keeper.save_now(trainer.state, 0)
    store.update_run("r", status="halted")
    roomy = changed(small, {"steps": 40})
    with open_trainer(roomy, settings, resume="r") as trainer:
        trainer.fan_out.flush(10)
        states = {a.rule: a.state for a in store.alerts("r")}
        assert states == {
            CHECKPOINT: "open", HALTED: "resolved", "loss_spike": "resolved", "stalled": "open",
        }  # fmt: skip
        trainer.train_step()
        trainer.fan_out.flush(10)
        assert {a.state for a in store.alerts("r") if a.rule == CHECKPOINT} == {"resolved"}
    store.close()
