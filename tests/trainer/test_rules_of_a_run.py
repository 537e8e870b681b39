"""Rules of a run: read at its start, changed while it trains, kept by a rollback and a resume."""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from moescope.monitors.default_rules import DEFAULT_RULES
from moescope.monitors.rule_table import RECORD, body_of
from moescope.platform.commands import ask, commands
from moescope.platform.engines import StoreAway
from moescope.platform.frozen import changed
from moescope.platform.records import Command, RuleVersion
from moescope.platform.rule_versions import RuleChange, change
from moescope.platform.settings import Settings
from moescope.platform.store import Store, open_store
from moescope.trainer.config import RunConfig
from moescope.trainer.loop import Trainer
from moescope.trainer.run import open_trainer, train

SPIKE = next(rule for rule in DEFAULT_RULES if rule.name == "loss_spike")
USERS: dict[str, Any] = {
    "name": "reward_low",
    "signal": "user/reward",
    "detector": "non_finite",
    "threshold": 0.0,
    "severity": "warning",
    "delay_p99_steps": 0,
    "message": "the reward is gone",
}


@pytest.fixture
def store(settings: Settings) -> Store:
    settings.make_home()
    return open_store(settings.store_url)


def threshold(trainer: Trainer) -> float:
    return trainer.rules.entry("loss_spike").rule.threshold


def put(store: Store, run_id: str = "", **changes: Any) -> list[RuleVersion]:
    body = body_of(SPIKE) | changes
    return change(store, [RuleChange(run_id, "loss_spike", body)], "ann", time.time())


def asked(trainer: Trainer, store: Store, *each: Any) -> list[Command]:
    """Asks for each list of versions, trains until all are answered, and returns the commands."""
    for versions in each:
        args = {"versions": [asdict(v) if isinstance(v, RuleVersion) else v for v in versions]}
        ask(store, "r", "set_rules", args, "ann", time.time())
    until_s = time.monotonic() + 30
    while time.monotonic() < until_s:
        trainer.train_step()
        found = commands(store, "r")
        if all(command.state in ("done", "refused") for command in found):
            return found
    raise AssertionError(f"never answered: {found}")


def test_a_run_starts_with_what_was_changed_and_records_it(
    small: RunConfig, settings: Settings, store: Store
) -> None:
    put(store, threshold=5.0)
    put(store, "r", threshold=6.0)
    change(store, [RuleChange("", "reward_low", USERS)], "ann", 1.0)
    # of another program: it is left out, and the rest is taken
    change(store, [RuleChange("", "odd", {"signal": "loss/totl"})], "ann", 1.0)
    with open_trainer(small, settings, run_id="r") as trainer:
        assert threshold(trainer) == 6.0
        assert trainer.rules.entry("reward_low").source == "all runs"
        recorded = json.loads((Path(trainer.run.folder) / RECORD).read_text())
        assert {v["name"] for v in recorded["versions"]} == {"loss_spike", "reward_low"}
        trainer.fan_out.flush(10)
    notes = [event.text for event in store.events("r", ["note"])]
    assert "rules other than the default ones: loss_spike, reward_low" in notes
    assert any(note.startswith("rule odd is left as it was: ") for note in notes)


def test_a_store_that_cannot_be_read_leaves_the_default_rules_and_a_line(
    small: RunConfig,
    settings: Settings,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    put(store, threshold=5.0)

    def away(*_: Any) -> Any:
        raise StoreAway("no route to host")

    monkeypatch.setattr("moescope.monitors.rules_at_start.newest", away)
    with open_trainer(small, settings, run_id="r", progress=True) as trainer:
        assert threshold(trainer) == SPIKE.threshold
    told = "".join(capsys.readouterr())
    assert told.count("the store is away, so the default rules hold: no route to host") == 1


def test_a_live_run_takes_changed_rules_and_keeps_its_baselines(
    small: RunConfig, settings: Settings, store: Store
) -> None:
    with open_trainer(changed(small, {"steps": 100_000}), settings, run_id="r") as trainer:
        for _ in range(20):
            trainer.train_step()
        before = trainer.state.judge
        (command,) = asked(trainer, store, put(store, threshold=5.0))
        assert (command.state, command.answer) == (
            "done",
            f"rules changed: loss_spike; {len(DEFAULT_RULES)} of {len(DEFAULT_RULES)} are on",
        )
        assert threshold(trainer) == 5.0
        learnt = trainer.state.judge.state_dict()["scorers"]["loss/per_sample"]
        assert trainer.state.judge is not before
        assert learnt["pooled"]["window"]["count"] > 20
        # a rollback takes the training back, not what was decided about it
        ask(store, "r", "rollback", {"to_step": 0}, "ann", time.time())
        until_s = time.monotonic() + 30
        while trainer.segment.index == 0 and time.monotonic() < until_s:
            trainer.train_step()
        assert (trainer.segment.reason, threshold(trainer)) == ("rollback", 5.0)
        recorded = json.loads((Path(trainer.run.folder) / RECORD).read_text())
        assert recorded["versions"][0]["body"]["threshold"] == 5.0


def test_bad_rules_are_refused_with_a_line_and_training_goes_on(
    small: RunConfig, settings: Settings, store: Store
) -> None:
    slow, odd = body_of(SPIKE) | {"delay_p99_steps": 90}, USERS | {"signal": "loss/totl"}
    bad: list[tuple[Any, str]] = [
        (RuleVersion("", "loss_spike", 1, slow, True, "ann", 1.0), "use at least 90"),
        (RuleVersion("", "reward_low", 1, odd, True, "ann", 1.0), "did you mean loss/total"),
        (RuleVersion("", "x", 1, {**body_of(SPIKE), "parameters": {"window": 70}}, True, "a", 1.0),
         "loss_spike and x"),
        (RuleVersion("other", "x", 1, USERS, True, "ann", 1.0), "one of run other"),
        ({"name": "x"}, "no versions of rules"),
    ]  # fmt: skip
    with open_trainer(changed(small, {"steps": 100_000}), settings, run_id="r") as trainer:
        judge, rules = trainer.state.judge, trainer.rules
        found = asked(trainer, store, *([version] for version, _ in bad))
        for command, (_, expected) in zip(found, bad, strict=True):
            assert command.state == "refused"
            assert expected in command.answer
            assert "\n" not in command.answer
        assert trainer.state.judge is judge
        assert trainer.rules is rules


def test_a_resume_starts_from_what_the_run_had_and_takes_later_changes(
    small: RunConfig, settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, threshold=5.0)
    train(changed(small, {"steps": 3}), settings=settings, run_id="r", progress=False)
    # another program with another default table
    fewer = [rule for rule in DEFAULT_RULES if rule.name in ("loss_spike", "odd_batch")]
    monkeypatch.setattr("moescope.monitors.rule_table.DEFAULT_RULES", tuple(fewer))
    change(store, [RuleChange("r", "reward_low", USERS)], "ann", 2.0)
    with open_trainer(changed(small, {"steps": 6}), settings, resume="r") as trainer:
        names = [rule.name for rule in trainer.rules.rules()]
        assert names == [*(rule.name for rule in DEFAULT_RULES), "reward_low"]
        assert threshold(trainer) == 5.0
        (Path(trainer.run.folder) / RECORD).write_text("{")
    (newer,) = put(store, threshold=7.0)
    assert newer.version == 2
    store.update_run("r", status="stopped")
    with open_trainer(changed(small, {"steps": 6}), settings, resume="r") as trainer:
        assert threshold(trainer) == 7.0
        assert trainer.rules.entry("reward_low").rule == rule_of_row(USERS)
        trainer.fan_out.flush(10)
    notes = [event.text for event in store.events("r", ["note"])]
    assert any(note.startswith("the rules that the run had are lost") for note in notes)


def rule_of_row(row: dict[str, Any]) -> Any:
    return type(SPIKE).model_validate(row)
