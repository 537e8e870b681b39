"""States are kept by age, quota and room, and a state that is there can be gone back to."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from moescope.monitors.states.retiring import steps_to_keep
from moescope.monitors.states.stamps import read_health
from moescope.platform.frozen import changed
from moescope.platform.records import Checkpoint, Health
from moescope.platform.settings import Settings
from moescope.platform.store import open_store
from moescope.trainer.config import RunConfig
from moescope.trainer.run import open_trainer, train

LIMIT = 2**21


def checkpoint(step: int, health: Health = "certified") -> Checkpoint:
    return Checkpoint("r", 0, step, f"step-{step}", step, 1, 0.0, health)


def test_the_newest_and_certified_ones_at_growing_ages_stay() -> None:
    held = [checkpoint(step) for step in range(0, 1000, 10)]
    # newest 990; certified nearest to 990 - 20 * 4**i = 970, 910, 670, -290
    assert steps_to_keep(held, 20, 4) == {990, 970, 910, 670, 0}
    assert steps_to_keep(held, 20, 1) == {990, 970}


def test_what_may_still_be_certified_stays_and_what_is_tainted_goes() -> None:
    held = [
        checkpoint(0),
        checkpoint(10, "tainted"),
        checkpoint(20, "fresh"),
        checkpoint(30, "fresh"),
    ]
    assert steps_to_keep(held, 20, 2) == {0, 20, 30}
    assert steps_to_keep([], 20, 2) == set()


def test_a_run_keeps_few_checkpoints_and_the_store_knows_which(
    small: RunConfig, settings: Settings
) -> None:
    config = changed(small, {"steps": 100, "checkpoint.disk_every_steps": 10, "checkpoint.keep": 2})
    result = train(config, settings=settings, progress=False)
    on_disk = {p.name[:13] for p in (result.folder / "checkpoints").glob("step-*")}
    store = open_store(settings.store_url)
    try:
        rows = store.checkpoints(result.run_id)
    finally:
        store.close()
    assert {f"step-{c.step:08d}" for c in rows if c.is_on_disk} == on_disk
    assert "step-00000100" in on_disk
    assert len(on_disk) < 8
    assert {c.health for c in rows if c.step <= 40} == {"certified"}


def test_the_quota_takes_the_oldest_first(small: RunConfig, settings: Settings) -> None:
    size = _bytes_of_one(small, settings)
    other = Settings(home=settings.home / "other", mlflow="off")
    every = {"checkpoint.disk_every_steps": 4, "policy.certify_after_steps": 12}
    changes = {"steps": 32, "checkpoint.keep": 8}
    config = changed(small, {**every, **changes, "checkpoint.quota_gib": 3.5 * size / 2**30})
    result = train(config, settings=other, progress=False)
    folders = list((result.folder / "checkpoints").glob("step-*"))
    assert sum(f.stat().st_size for p in folders for f in p.iterdir()) <= 6 * size
    assert "certified" in {read_health(folder) for folder in folders}


def test_the_quota_leaves_the_way_back(small: RunConfig, settings: Settings) -> None:
    # nothing but the first state is certified within the run, and two more are all that fits
    changes = {"steps": 24, "checkpoint.disk_every_steps": 4, "policy.certify_after_steps": 1000}
    config = changed(small, {**changes, "checkpoint.quota_gib": 0.0001})
    result = train(config, settings=settings, progress=False)
    folders = sorted((result.folder / "checkpoints").glob("step-*"))
    assert folders[0].name.startswith("step-00000000")
    assert read_health(folders[0]) == "certified"
    assert len(folders) <= 3


def test_too_little_free_disk_is_an_alert_and_training_goes_on(
    small: RunConfig, settings: Settings
) -> None:
    config = changed(small, {"steps": 25, "checkpoint.min_free_gib": 1e6})
    result = train(config, settings=settings, progress=False)
    assert result.status == "finished"
    store = open_store(settings.store_url)
    try:
        alerts = [a for a in store.alerts(result.run_id) if a.rule == "checkpoint"]
    finally:
        store.close()
    assert alerts
    assert "checkpoint.min_free_gib is 1000000.0: free some or lower it" in alerts[0].message
    assert list((result.folder / "checkpoints").glob("step-*")) == []


def test_a_full_disk_leaves_the_older_checkpoints_as_they_are(
    small: RunConfig, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> int:
        raise OSError(28, "No space left on device")

    often = {"steps": 60, "checkpoint.disk_every_steps": 5}
    with open_trainer(changed(small, often), settings, run_id="r") as trainer:
        for _ in range(5):
            trainer.train_step()
        trainer.keeper.flush()
        before = sorted(p.name for p in trainer.keeper.folder.glob("step-*"))
        monkeypatch.setattr("moescope.monitors.states.keeping.write_checkpoint", refuse)
        assert trainer.keeper.save_now(trainer.state, 0) is not None  # step 5 is there already
        trainer.train_step()
        assert trainer.keeper.save_now(trainer.state, 0) is None
        assert sorted(p.name for p in trainer.keeper.folder.glob("step-*")) == before


def test_a_disk_that_is_really_full_is_an_alert_and_training_goes_on(
    small: RunConfig,
    settings: Settings,
    no_file_above: Callable[[int], AbstractContextManager[None]],
) -> None:
    # wide, so that a checkpoint is larger than the store and the journal, which are to be written
    wide = {"steps": 20, "checkpoint.disk_every_steps": 10, "model.width": 256}
    with open_trainer(changed(small, wide), settings, run_id="r") as trainer:
        folder = trainer.keeper.folder
        assert [c.step for c in trainer.keeper.checkpoints] == [0]
        (first,) = folder.glob("step-*")
        before = {file.name: file.read_bytes() for file in first.iterdir()}
        assert len(before["state.safetensors"]) > 4 * LIMIT
        with no_file_above(LIMIT):
            assert trainer.train() == "finished"
        assert trainer.keeper.save_now(trainer.state, 0) is not None
    assert {file.name: file.read_bytes() for file in first.iterdir()} == before
    assert sorted(p.name[:13] for p in folder.iterdir()) == ["step-00000000", "step-00000020"]
    store = open_store(settings.store_url)
    try:
        (alert,) = [a for a in store.alerts("r") if a.rule == "checkpoint"]
    finally:
        store.close()
    assert "not written: File too large; the older ones are untouched" in alert.message


def _bytes_of_one(config: RunConfig, settings: Settings) -> int:
    result = train(changed(config, {"steps": 1}), settings=settings, progress=False)
    newest: Path = max((result.folder / "checkpoints").glob("step-*"))
    return sum(file.stat().st_size for file in newest.iterdir())
