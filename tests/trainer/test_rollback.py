"""Going back restores everything that computes, bit for bit, and says what it did."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from moescope.monitors.states.checkpoint import copied
from moescope.platform import catalogue
from moescope.platform.frozen import changed
from moescope.platform.records import Action
from moescope.platform.series import is_living, read_series
from moescope.platform.settings import Settings
from moescope.platform.store import open_store
from moescope.trainer.config import RunConfig
from moescope.trainer.loop import Trainer
from moescope.trainer.rollback import carry_out
from moescope.trainer.run import RunResult, train

Same = Callable[[Any, Any], list[str]]


def trained(
    config: RunConfig, settings: Settings, back_at: int | None = None, to_step: int = 0
) -> tuple[RunResult, dict[str, Any]]:
    """Trains, once going back from `back_at` to `to_step`; returns the result and the final
    state."""
    seen: list[Trainer] = []
    went_back: list[str] = []

    def on_step(trainer: Trainer) -> None:
        if not seen:
            seen.append(trainer)
        if trainer.state.step == back_at and not went_back:
            action = Action("rollback", "forced by the test", to_step=to_step)
            went_back.append(carry_out(trainer, action, is_automatic=False))

    result = train(config, settings=settings, progress=False, on_step=on_step)
    assert bool(went_back) == (back_at is not None)
    return result, copied(seen[0].state.capture())


def losses(settings: Settings, run_id: str) -> np.ndarray:
    store = open_store(settings.store_url)
    try:
        series = read_series(store, run_id, catalogue.LOSS_TOTAL)
        living = is_living(series, store.segments(run_id))
        order = np.argsort(series.steps[living], kind="stable")
        return series.values[living][order]
    finally:
        store.close()


@pytest.mark.parametrize("source", ["memory", "disk"])
@pytest.mark.usefixtures("one_thread")
def test_train_24_is_train_16_back_to_12_train_to_24(
    small: RunConfig, settings: Settings, same: Same, source: str
) -> None:
    every = {"checkpoint.memory_every_steps": 4, "checkpoint.disk_every_steps": 4}
    changes: dict[str, Any] = {"steps": 24, **every}
    if source == "disk":
        changes["checkpoint.ring_gib"] = 0
    config = changed(small, changes)
    other = Settings(home=settings.home / "other", mlflow="off")
    straight, want = trained(config, settings)
    forced, got = trained(config, other, back_at=16, to_step=12)
    assert same(want, got) == []
    np.testing.assert_array_equal(losses(settings, straight.run_id), losses(other, forced.run_id))
    store = open_store(other.store_url)
    try:
        segments = store.segments(forced.run_id)
        assert [(s.index, s.start_step, s.reason) for s in segments] == [
            (0, 0, "start"),
            (1, 12, "rollback"),
        ]
        (event,) = store.events(forced.run_id, kinds=["rollback"])
        assert event.details["source"] == source
    finally:
        store.close()


@pytest.mark.usefixtures("one_thread")
def test_going_back_twice_to_the_same_state_gives_the_same_again(
    small: RunConfig, settings: Settings, same: Same
) -> None:
    config = changed(small, {"steps": 30, "checkpoint.memory_every_steps": 10})
    other = Settings(home=settings.home / "other", mlflow="off")
    _, want = trained(config, settings)
    turns: list[int] = []

    def on_step(trainer: Trainer) -> None:
        if trainer.state.step == 15 and len(turns) < 3:
            turns.append(trainer.state.step)
            carry_out(trainer, Action("rollback", "again", to_step=10), is_automatic=False)
        if trainer.state.step == 30:
            return
        last[0] = trainer

    last: list[Any] = [None]
    train(config, settings=other, progress=False, on_step=on_step)
    assert len(turns) == 3
    assert same(want, copied(last[0].state.capture())) == []


def test_a_damaged_checkpoint_is_said_and_the_next_older_one_taken(
    small: RunConfig, settings: Settings
) -> None:
    config = changed(
        small, {"steps": 45, "checkpoint.ring_gib": 0, "checkpoint.disk_every_steps": 10}
    )
    damaged: list[str] = []

    def on_step(trainer: Trainer) -> None:
        if trainer.state.step == 42 and not damaged:
            trainer.keeper.flush()
            newest = trainer.keeper.checkpoints[-1]
            file = next(f for f in _files(newest.path) if f.name.endswith(".safetensors"))
            file.write_bytes(file.read_bytes()[:-1])
            damaged.append(newest.path)
            action = Action("rollback", "forced by the test", to_step=newest.step)
            carry_out(trainer, action, is_automatic=False)
            assert trainer.state.step == newest.step - 10

    result = train(config, settings=settings, progress=False, on_step=on_step)
    assert damaged
    store = open_store(settings.store_url)
    try:
        (alert,) = [a for a in store.alerts(result.run_id) if a.rule == "checkpoint"]
        assert "does not match its checksum" in alert.message
        assert "taking the next older one" in alert.message
    finally:
        store.close()


def _files(path: str) -> list[Any]:
    from pathlib import Path

    return list(Path(path).iterdir())
