"""Commands are taken at a step boundary and answered, done or refused."""

import time

import pytest

from moescope.monitors.going_back import HalfRestored
from moescope.monitors.judge import Vetting as Vetted
from moescope.platform.commands import ask, commands
from moescope.platform.frozen import changed
from moescope.platform.records import Command, CommandKind, Mode
from moescope.platform.settings import Settings
from moescope.platform.store import Store, open_store
from moescope.trainer.config import RunConfig
from moescope.trainer.loop import Trainer
from moescope.trainer.run import open_trainer
from moescope.trainer.vetting import NUM_KNOWN, Vetting


def obeyed(
    trainer: Trainer, store: Store, kind: CommandKind, args: dict[str, object] | None = None
) -> Command:
    """Asks, trains until the answer is in the store, and returns the command as it stands there."""
    asked = ask(store, "r", kind, args or {}, "test", time.time())
    until_s = time.monotonic() + 30
    while time.monotonic() < until_s:
        trainer.train_step()
        (command,) = [c for c in commands(store, "r") if c.id == asked.id]
        if command.state in ("done", "refused"):
            return command
    raise AssertionError(f"never answered: {command}")


def test_each_command_is_carried_out_and_answered(small: RunConfig, settings: Settings) -> None:
    config = changed(small, {"steps": 100_000, "checkpoint.disk_every_steps": 50_000})
    with open_trainer(config, settings, run_id="r") as trainer:
        store = open_store(settings.store_url)
        for _ in range(35):
            trainer.train_step()
        command = obeyed(trainer, store, "checkpoint")
        assert command.answer.endswith("written")
        assert any(c.is_on_disk and c.step > 0 for c in trainer.keeper.checkpoints)
        command = obeyed(trainer, store, "damp", {"scale": 0.25, "steps": 1000})
        assert command.state == "done"
        assert trainer.state.damp_scale == 0.25
        command = obeyed(trainer, store, "set_mode", {"mode": "advisory"})
        assert (command.state, trainer.mode) == ("done", "advisory")
        command = obeyed(trainer, store, "rollback", {"to_step": 0})
        assert command.answer.startswith("went back from step")
        assert trainer.segment.reason == "rollback"
        # a person's rollback restores the learning rate, too, and takes nothing from the budget
        assert trainer.state.damp_until == 0
        command = obeyed(trainer, store, "stop")
        assert (command.state, trainer.is_stopping) == ("done", True)
        trainer.fan_out.flush(10)
        assert [s.reason for s in store.segments("r")] == ["start", "rollback"]
        store.close()


@pytest.mark.parametrize(
    ("kind", "args", "answer"),
    [
        ("rollback", {"to_step": 7}, "there is no checkpoint of step 7: there are [0"),
        ("damp", {"scale": 2}, "scale is 2.0"),
        ("damp", {"scale": "much"}, "scale is 'much': a number is expected"),
        ("set_mode", {"mode": "auto"}, "mode is 'auto': allowed are on, advisory, off"),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_reason(
    small: RunConfig, settings: Settings, kind: CommandKind, args: dict[str, object], answer: str
) -> None:
    with open_trainer(changed(small, {"steps": 100_000}), settings, run_id="r") as trainer:
        store = open_store(settings.store_url)
        command = obeyed(trainer, store, kind, args)
        store.close()
    assert command.state == "refused"
    assert command.answer.startswith(answer)


def test_going_back_to_damaged_checkpoints_is_refused_and_training_goes_on(
    small: RunConfig, settings: Settings
) -> None:
    changes = {"steps": 100_000, "checkpoint.ring_gib": 0.0, "checkpoint.disk_every_steps": 4}
    with open_trainer(changed(small, changes), settings, run_id="r") as trainer:
        store = open_store(settings.store_url)
        for _ in range(10):
            trainer.train_step()
        trainer.keeper.flush()
        for file in trainer.keeper.folder.glob("step-*/*.safetensors"):
            file.write_bytes(file.read_bytes()[:-1])
        command = obeyed(trainer, store, "rollback", {"to_step": 8})
        store.close()
        assert command.state == "refused"
        assert command.answer.startswith("no usable checkpoint at or before step 8")
        assert trainer.state.step >= 11
        assert (trainer.status, trainer.segment.index) == ("running", 0)
        saved = trainer.keeper.save_now(trainer.state, trainer.segment.index)
        assert saved is not None
        assert not trainer.policy.is_abandoned(saved)


def test_going_back_that_stops_half_way_ends_the_training_and_is_no_refusal(
    small: RunConfig, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(state: object) -> None:
        raise ValueError("no such average")

    opened = open_trainer(changed(small, {"steps": 1000}), settings, run_id="r")
    with opened as trainer, open_store(settings.store_url) as store:
        for _ in range(3):
            trainer.train_step()
        monkeypatch.setattr(trainer.state.ema, "load_state_dict", fail)
        with pytest.raises(HalfRestored, match="ValueError: no such average; so the training"):
            obeyed(trainer, store, "rollback", {"to_step": 0})


@pytest.mark.parametrize("mode", ["advisory", "off"])
def test_who_takes_the_automatic_action_away_ends_the_vetting_of_data(
    small: RunConfig, settings: Settings, mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_trainer(changed(small, {"steps": 100}), settings) as trainer:
        # too few for the state to be tried on
        for _ in range(NUM_KNOWN - 1):
            trainer.train_step()
        monkeypatch.setattr(trainer.state.judge, "vet", lambda values: Vetted(True, 9.0, "bad"))
        trainer.vetting = Vetting(trainer.state.batch, trainer.state.batch + 50)
        trainer.train_step()
        assert (trainer.state.step, trainer.state.batch) == (2, 3)  # passed over
        trainer.set_mode(mode)
        for _ in range(3):
            trainer.train_step()
        assert (trainer.state.step, trainer.state.batch) == (5, 6)
        assert trainer.vetting is None
        assert trainer.status == "running"
