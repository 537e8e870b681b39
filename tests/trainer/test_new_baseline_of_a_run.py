"""A level that a run settles on without anybody's word is certified by nobody, and shown as what it
is."""

import time
from typing import Any

import pytest
from typer.testing import CliRunner

from moescope.cli import app
from moescope.platform.alert_kinds import is_explained_away
from moescope.platform.commands import ask, commands
from moescope.platform.frozen import changed
from moescope.platform.rule_versions import RuleChange, change
from moescope.platform.settings import Settings
from moescope.platform.store import open_store
from moescope.trainer.config import RunConfig
from moescope.trainer.loop import Trainer
from moescope.trainer.run import train

RULE: dict[str, Any] = {
    "name": "level",
    "signal": "user/level",
    "detector": "spike",
    "parameters": {"window": 15, "min_count": 8, "level_rate": 0, "floor": 1},
    "threshold": 5,
    "severity": "critical",
    "action": "rollback",
    "delay_p99_steps": 0,
    "message": "the level is high",
}
CONFIG = {
    "steps": 150,
    "policy.mode": "advisory",
    "policy.certify_after_steps": 12,
    "policy.window_steps": 40,
    "checkpoint.disk_every_steps": 5,
}
SETTLES_AT, ASKED_AT = 80, 125


@pytest.mark.usefixtures("one_thread")
def test_a_new_baseline_certifies_nothing_and_the_way_back_is_the_older_state(
    small: RunConfig, settings: Settings
) -> None:
    settings.make_home()
    store = open_store(settings.store_url)
    change(store, [RuleChange("", "level", RULE)], "ann", time.time())
    health: dict[int, dict[int, str]] = {}
    asked: list[str] = []

    def on_step(trainer: Trainer) -> None:
        step = trainer.state.step
        has_gone_back = trainer.segment.index > 0
        # what is logged is of the next step, which is another one after going back
        is_high = SETTLES_AT <= step < ASKED_AT and not has_gone_back
        trainer.log({"level": 60.0 if is_high else 20.0})
        if not has_gone_back:
            health[step] = {c.step: c.health for c in trainer.keeper.checkpoints}
        if step == ASKED_AT and not asked:
            asked.append(ask(store, trainer.run.id, "rollback", {}, "ann", time.time()).id)
            # until the side thread has fetched it
            until_s = time.monotonic() + 30
            while commands(store, trainer.run.id)[0].state == "asked":
                assert time.monotonic() < until_s
                time.sleep(0.02)

    result = train(changed(small, CONFIG), settings=settings, progress=False, on_step=on_step)
    assert result.status == "finished"
    [alert] = [a for a in store.alerts(result.run_id) if a.rule == "level"]
    assert (alert.onset_step, alert.state) == (SETTLES_AT, "resolved")
    assert is_explained_away(alert)
    # the window is full of rejections at step 94, and the alarm over five calm steps later
    before, after = health[94], health[ASKED_AT]
    way_back = max(step for step, of in before.items() if of == "certified")
    assert 0 < way_back < SETTLES_AT - 2
    assert max(step for step, of in after.items() if of == "certified") == way_back
    assert {of for step, of in after.items() if SETTLES_AT <= step < ASKED_AT} == {"tainted"}
    # an ended alarm would have certified what was saved after it by now
    assert any(100 <= step < ASKED_AT - 12 for step in after)
    [command] = commands(store, result.run_id)
    assert (command.state, command.answer.split(" (")[0]) == (
        "done",
        f"went back from step {ASKED_AT} to {way_back}",
    )
    notes = [event.text for event in store.events(result.run_id, ["note"])]
    assert "level has learnt a new baseline: nothing has healed" in notes
    # back before the onset nothing is held against the run
    last = [c for c in store.checkpoints(result.run_id) if c.segment == 1 and c.step > way_back]
    assert {c.health for c in last if c.step < 135} == {"certified"}
    store.close()
    told = CliRunner().invoke(app, ["alerts", "--all", "--home", str(settings.home)])
    assert "new baseline" in told.output
