"""A run that was killed, stopped or changed goes on where it was; nothing that must be remembered
is lost.
"""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from moescope.monitors.states.checkpoint import read_about
from moescope.monitors.states.sound import MEMORY, sound_folders
from moescope.platform import catalogue
from moescope.platform.errors import MoescopeError
from moescope.platform.frozen import changed
from moescope.platform.series import is_living, read_series
from moescope.platform.settings import Settings
from moescope.platform.store import Store, open_store
from moescope.trainer.config import RunConfig
from moescope.trainer.loop import Trainer
from moescope.trainer.run import train

KILLED = """
import os, signal, sys, time
from pathlib import Path
import torch
from moescope.platform.records import Action
from moescope.platform.settings import Settings
from moescope.trainer.config import RunConfig
from moescope.trainer.rollback import carry_out
from moescope.trainer.run import train

torch.set_num_threads(1)
home, config, kill_at = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])

def on_step(trainer):
    is_incident = sys.argv[4] == "incident"
    if trainer.state.step == kill_at - 5 and is_incident and not trainer.policy.skipped:
        trainer.policy.note(Action("rollback", "test", "a", to_step=20), 40, 40)
        trainer.policy.skip_batch(kill_at + 3)
    if trainer.state.step == kill_at:
        if sys.argv[4] == "going back":
            # noted before it takes effect, and long before what is left behind is dropped
            trainer.state.restore = lambda saved: os.kill(os.getpid(), signal.SIGKILL)
            (home / "killed").write_text(repr(time.time()))
            carry_out(trainer, Action("rollback", "test", to_step=20), is_automatic=False)
        if sys.argv[4] == "incident":
            trainer.raise_alert("samples", "raised just before the kill")
        (home / "killed").write_text(repr(time.time()))
        os.kill(os.getpid(), signal.SIGKILL)

train(RunConfig.model_validate_json(config), settings=Settings(home=home, mlflow="off"), run_id="r",
      progress=False, on_step=on_step)
"""


Killed = Callable[..., float]


@pytest.fixture
def killed(run_script: Callable[..., tuple[int, str]]) -> Killed:
    """Trains in a process that kills itself at a step; returns when it did."""

    def run(config: RunConfig, home: Path, at: int, what: str = "nothing") -> float:
        home.mkdir(parents=True, exist_ok=True)
        code, said = run_script(KILLED, str(home), config.model_dump_json(), str(at), what)
        assert code == -signal.SIGKILL, said
        return float((home / "killed").read_text())

    return run


@pytest.fixture
def config(small: RunConfig) -> RunConfig:
    """Shorter, and saved more often: a kill at step 37 leaves a checkpoint of step 30."""
    return changed(small, {"steps": 40, "checkpoint.disk_every_steps": 10})


@contextmanager
def opened(settings: Settings) -> Iterator[Store]:
    store = open_store(settings.store_url)
    try:
        yield store
    finally:
        store.close()


def living_losses(store: Store, run_id: str) -> dict[int, float]:
    series = read_series(store, run_id, catalogue.LOSS_TOTAL)
    living = is_living(series, store.segments(run_id))
    return dict(zip(series.steps[living].tolist(), series.values[living].tolist(), strict=True))


@pytest.mark.usefixtures("one_thread")
def test_a_killed_run_goes_on_bit_for_bit(
    config: RunConfig, killed: Killed, settings: Settings
) -> None:
    killed_s = killed(config, settings.home, at=37)
    other = Settings(home=settings.home / "other", mlflow="off")
    straight = train(config, settings=other, progress=False)
    result = train(config, settings=settings, resume="r", progress=False)
    assert result.step == 40
    with opened(settings) as store, opened(other) as never_killed:
        want = living_losses(never_killed, straight.run_id)
        assert list(want) == list(range(40))
        assert living_losses(store, "r") == want
        before = read_series(store, "r", catalogue.LOSS_TOTAL, segments=[0])
        # the journal was replayed: what is missing was measured in the last half second
        assert before.times_s.max() >= killed_s - 0.5
        batches = read_series(store, "r", catalogue.DATA_BATCH, segments=[1])
        assert batches.values.tolist() == [float(b) for b in range(30, 40)]
        assert [s.reason for s in store.segments("r")] == ["start", "resume"]
        assert store.find_run("r").status == "finished"


def test_a_kill_loses_no_alert_and_not_the_memory_of_the_policy(
    config: RunConfig, killed: Killed, settings: Settings
) -> None:
    killed(config, settings.home, at=30, what="incident")
    seen: list[set[int]] = []

    def on_step(trainer: Trainer) -> None:
        if not seen:
            seen.append(set(trainer.policy.skipped))

    train(config, settings=settings, resume="r", progress=False, on_step=on_step)
    assert seen == [{33}]
    with opened(settings) as store:
        assert [a.message for a in store.alerts("r") if a.rule == "samples"] == [
            "raised just before the kill"
        ]
        batches = read_series(store, "r", catalogue.DATA_BATCH)
        assert 33.0 not in batches.values[is_living(batches, store.segments("r"))]


def test_what_a_kill_left_half_written_is_not_taken_for_a_checkpoint(
    config: RunConfig, killed: Killed, settings: Settings
) -> None:
    killed(config, settings.home, at=37)
    checkpoints = settings.home / "runs" / "r" / "checkpoints"
    newest = max(checkpoints.glob("step-*"))
    assert newest.name.startswith("step-00000030")
    (newest / "state.safetensors").write_bytes(b"cut off")
    (checkpoints / ".step-00000040-segment-0000.1.partial").mkdir()
    result = train(config, settings=settings, resume="r", progress=False)
    assert result.status == "finished"
    with opened(settings) as store:
        assert store.segments("r")[-1].start_step == 20
        assert any("does not match its checksum" in a.message for a in store.alerts("r"))


def test_a_run_that_is_alive_is_not_resumed(small: RunConfig, settings: Settings) -> None:
    errors: list[str] = []

    def on_step(trainer: Trainer) -> None:
        if trainer.state.step == 3 and not errors:
            with pytest.raises(MoescopeError) as error:
                train(small, settings=settings, resume="r", progress=False)
            errors.append(str(error.value))

    config = changed(small, {"steps": 5})
    assert train(config, settings=settings, run_id="r", progress=False, on_step=on_step).step == 5
    assert errors[0].startswith("run tiny-r is still alive (process")


def test_sigterm_saves_a_checkpoint_and_the_run_can_go_on(
    config: RunConfig, settings: Settings
) -> None:
    def on_step(trainer: Trainer) -> None:
        if trainer.state.step == 13 and not trainer.is_stopping:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)

    result = train(config, settings=settings, run_id="r", progress=False, on_step=on_step)
    assert (result.status, result.step) == ("stopped", 13)
    with opened(settings) as store:
        assert store.find_run("r").status == "stopped"
    result = train(config, settings=settings, resume="r", progress=False)
    assert (result.status, result.step) == ("finished", 40)
    with opened(settings) as store:
        assert store.segments("r")[-1].start_step == 13


def test_changed_keys_open_a_segment_that_records_the_difference(
    small: RunConfig, settings: Settings
) -> None:
    first = train(changed(small, {"steps": 10}), settings=settings, run_id="r", progress=False)
    assert first.status == "finished"
    longer = changed(small, {"steps": 12, "optim.learning_rate": 5e-4})
    train(longer, settings=settings, resume="r", progress=False)
    with opened(settings) as store:
        segment = store.segments("r")[-1]
        assert segment.reason == "changed"
        assert segment.changes == {"steps": [10, 12], "optim.learning_rate": [1e-3, 5e-4]} or (
            segment.changes["steps"] == [10, 12] and "optim.learning_rate" in segment.changes
        )
        assert store.find_run("r").config["steps"] == 12
    saved = json.loads((settings.home / "runs" / "r" / "config.json").read_text())
    assert saved["steps"] == 12


def test_changed_data_and_resolution_are_announced(small: RunConfig, settings: Settings) -> None:
    train(changed(small, {"steps": 4}), settings=settings, run_id="r", progress=False)
    other = changed(small, {"steps": 6, "data.caption_drop": 0.5, "data.frames_per_s": 4.0})
    train(other, settings=settings, resume="r", progress=False)
    with opened(settings) as store:
        kinds = {event.kind for event in store.events("r")}
    assert {"resume", "data_change", "resolution"} <= kinds


def test_a_shape_cannot_change_on_a_resume(small: RunConfig, settings: Settings) -> None:
    train(changed(small, {"steps": 2}), settings=settings, run_id="r", progress=False)
    wider = changed(small, {"model.width": 64})
    with pytest.raises(MoescopeError, match=r"model.width cannot change from 32 to 64 on a resume"):
        train(wider, settings=settings, resume="r", progress=False)
    with opened(settings) as store:
        assert len(store.segments("r")) == 1
        assert store.find_run("r").status == "finished"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"moe.bias_update_speed": 0.0}, "moe.bias_update_speed cannot change from 0.001 to 0.0"),
        ({"data.num_mel_steps": 0}, "data.num_mel_steps cannot change from 8 to 0"),
        ({"data.num_text_bytes": 0}, "data.num_text_bytes cannot change from 8 to 0"),
    ],
)
def test_what_is_there_or_not_cannot_change_on_a_resume(
    small: RunConfig, settings: Settings, changes: dict[str, float], expected: str
) -> None:
    train(changed(small, {"steps": 2}), settings=settings, run_id="r", progress=False)
    with pytest.raises(MoescopeError, match=expected):
        train(changed(small, changes), settings=settings, resume="r", progress=False)


def test_a_new_run_starts_from_another_runs_averaged_weights(
    small: RunConfig, settings: Settings
) -> None:
    config = changed(small, {"steps": 10, "optim.ema_decay": 0.5})
    train(config, settings=settings, run_id="r", progress=False)
    weights: list[dict[str, np.ndarray]] = []

    def on_step(trainer: Trainer) -> None:
        if not weights:
            weights.append(
                {k: p.numpy().copy() for k, p in trainer.state.model.state_dict().items()}
            )

    train(config, settings=settings, init_from="r", run_id="s", progress=False, on_step=on_step)
    from moescope.monitors.states.checkpoint import checkpoint_folders, read_checkpoint

    state = read_checkpoint(checkpoint_folders(settings.home / "runs" / "r" / "checkpoints")[-1])
    for name, value in state["ema"].items():
        if name.startswith("average."):
            np.testing.assert_array_equal(weights[0][name.removeprefix("average.")], value.numpy())
    wider = changed(config, {"model.width": 64})
    with pytest.raises(MoescopeError, match="the weights of run tiny-r do not fit"):
        train(wider, settings=settings, init_from="r", progress=False)


def test_a_users_own_scalars_are_recorded_with_the_step(
    small: RunConfig, settings: Settings
) -> None:
    def on_step(trainer: Trainer) -> None:
        if trainer.state.step == 3:
            trainer.log({"fid": 12.5})
            with pytest.raises(ValueError, match="empty name"):
                trainer.log({"": 1.0})

    train(
        changed(small, {"steps": 5}), settings=settings, run_id="r", progress=False, on_step=on_step
    )
    with opened(settings) as store:
        series = read_series(store, "r", "user/fid")
    assert series.steps.tolist() == [3]
    assert series.values.tolist() == [12.5]


def test_a_start_that_fails_leaves_nothing_half_done(small: RunConfig, settings: Settings) -> None:
    settings.make_home()
    (settings.home / "runs").write_text("a file in the place of a folder")
    with pytest.raises(MoescopeError, match=r"run folder .* cannot be made"):
        train(small, settings=settings, progress=False)
    with opened(settings) as store:
        assert store.runs() == []


def test_a_resume_that_fails_leaves_the_run_as_it_was(small: RunConfig, settings: Settings) -> None:
    train(changed(small, {"steps": 4}), settings=settings, run_id="r", progress=False)
    with pytest.raises(MoescopeError, match=r"is at step 4 of 4 already: ask for more steps"):
        train(changed(small, {"steps": 4}), settings=settings, resume="r", progress=False)
    for path in (settings.home / "runs" / "r" / "checkpoints").glob("step-*"):
        (path / "state.json").write_text("{")
    with pytest.raises(MoescopeError, match="has no usable checkpoint"):
        train(changed(small, {"steps": 9}), settings=settings, resume="r", progress=False)
    with opened(settings) as store:
        run = store.find_run("r")
    assert (run.status, run.config["steps"]) == ("finished", 4)
    assert run.finished_s is not None


def test_a_trainer_that_was_replaced_stops_and_leaves_the_run_alone(
    small: RunConfig, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from moescope.platform.contact import Contact

    def on_step(trainer: Trainer) -> None:
        if trainer.state.step == 5:
            monkeypatch.setattr(Contact, "replaced_by", property(lambda self: "elsewhere:1"))

    result = train(small, settings=settings, run_id="r", progress=False, on_step=on_step)
    assert (result.status, result.step) == ("stopped", 5)
    with opened(settings) as store:
        assert store.find_run("r").status == "running"


@pytest.mark.parametrize("run_id", ["../outside", "", ".hidden", "a" * 65])
def test_an_id_is_a_plain_name(small: RunConfig, settings: Settings, run_id: str) -> None:
    if not run_id:
        assert train(changed(small, {"steps": 1}), settings=settings, progress=False).run_id
        return
    with pytest.raises(MoescopeError, match="letters, digits, dots and dashes"):
        train(small, settings=settings, run_id=run_id, progress=False)


def test_a_kill_while_going_back_does_not_bring_the_branch_back_that_was_left(
    config: RunConfig, killed: Killed, settings: Settings
) -> None:
    killed(config, settings.home, at=37, what="going back")
    folder = settings.home / "runs" / "r" / "checkpoints"
    assert [path.name[:13] for path in sorted(folder.glob("step-*"))][-1] == "step-00000030"
    # another run, or a study, that looks into the folder of this one takes neither
    before = (folder.parent / MEMORY).read_bytes()
    with opened(settings) as store:
        usable, faults = sound_folders(store, store.find_run("r"))
    assert ([read_about(path)["step"] for path in usable], faults) == ([0, 10, 20], [])
    assert (folder.parent / MEMORY).read_bytes() == before
    began: list[int] = []
    kept: list[int] = []

    def on_step(trainer: Trainer) -> None:
        if not began:
            began.append(trainer.state.step)
            kept.extend(c.step for c in trainer.keeper.checkpoints)

    result = train(config, settings=settings, resume="r", progress=False, on_step=on_step)
    assert (began, kept) == ([20], [0, 10, 20])
    with opened(settings) as store:
        last = store.segments("r")[-1]
        assert (last.index, last.start_step, last.reason) == (1, 20, "resume")
        gone = [c for c in store.checkpoints("r") if (c.segment, c.step) == (0, 30)]
        assert [(c.health, c.is_on_disk) for c in gone] == [("tainted", False)]
        # what it trains from there on is no part of what was left
        assert all(c.health != "tainted" for c in store.checkpoints("r") if c.segment == 1)
    assert (result.status, result.step) == ("finished", 40)


def test_a_taint_that_only_the_store_knows_is_kept(
    config: RunConfig, killed: Killed, settings: Settings
) -> None:
    killed(config, settings.home, at=37)
    with opened(settings) as store:
        [last] = [c for c in store.checkpoints("r") if c.step == 30]
        # the disk of the states was full when its stamp should have been written
        store.put_checkpoint(replace(last, health="tainted"))
    began: list[int] = []

    def on_step(trainer: Trainer) -> None:
        began.append(trainer.state.step)
        trainer.stop()

    train(config, settings=settings, resume="r", progress=False, on_step=on_step)
    assert began[0] == 20
