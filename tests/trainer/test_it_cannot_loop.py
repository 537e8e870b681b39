"""A run that nothing can help ends by itself, within its budget, and calls; going back often costs
nothing that stays."""

import gc
import json
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from moescope.monitors.states.keeping import Keeper
from moescope.platform.alert_kinds import HALTED
from moescope.platform.errors import MoescopeError
from moescope.platform.frozen import changed
from moescope.platform.records import Action, Alert, Event
from moescope.platform.settings import Settings
from moescope.platform.store import open_store
from moescope.trainer.config import RunConfig
from moescope.trainer.data.make_clips import make_clips
from moescope.trainer.data.spoil_clips import spoil_clips
from moescope.trainer.loop import Trainer
from moescope.trainer.rollback import carry_out
from moescope.trainer.run import train

GOOD_BATCHES = 300


def record_of(settings: Settings, run_id: str) -> tuple[list[Event], list[Alert]]:
    with open_store(settings.store_url) as store:
        return list(store.events(run_id)), list(store.alerts(run_id))


def damage_all(keeper: Keeper) -> int:
    """Cuts a byte off every checkpoint on the disk; returns how many there were."""
    keeper.flush()
    files = sorted(keeper.folder.glob("step-*/*.safetensors"))
    for file in files:
        file.write_bytes(file.read_bytes()[:-1])
    return len(files)


def memory_of(run_folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_folder / "memory.jsonl").read_text().splitlines()]


def test_a_state_that_is_broken_from_the_start_halts_within_its_budget_and_calls(
    small: RunConfig, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Keeper.first

    def broken(keeper: Keeper, state: object, segment: int) -> None:
        with torch.no_grad():
            next(state.model.parameters()).fill_(torch.nan)  # type: ignore[attr-defined]
        first(keeper, state, segment)  # type: ignore[arg-type]

    monkeypatch.setattr(Keeper, "first", broken)
    config = changed(small, {"steps": 500, "policy.most_rollbacks": 3})
    turns: list[int] = []
    result = train(
        config,
        settings=settings,
        progress=False,
        on_step=lambda trainer: turns.append(trainer.state.step),
    )
    assert result.status == "halted"
    events, alerts = record_of(settings, result.run_id)
    assert [e.details["to_step"] for e in events if e.kind == "rollback"] == [0, 0, 0]
    assert len(turns) <= 4 * 10
    [call] = [alert for alert in alerts if alert.rule == HALTED]
    assert "3 rollbacks within 1000 steps did not help" in call.message
    assert call.severity == "critical"
    assert call.state == "open"


def test_a_run_that_has_no_sound_checkpoint_left_to_go_back_to_halts_and_calls(
    small: RunConfig, settings: Settings
) -> None:
    config = changed(small, {"steps": 200, "checkpoint.ring_gib": 0.0})
    broken: list[int] = []

    def on_step(trainer: Trainer) -> None:
        if trainer.state.step == 45 and not broken:
            broken.append(damage_all(trainer.keeper))
            with torch.no_grad():
                next(trainer.state.model.parameters()).fill_(torch.nan)

    result = train(config, settings=settings, progress=False, on_step=on_step)
    assert broken[0] >= 2
    assert result.status == "halted"
    events, alerts = record_of(settings, result.run_id)
    assert [e.kind for e in events if e.kind in ("rollback", "halt")] == ["halt"]
    [call] = [alert for alert in alerts if alert.rule == HALTED]
    assert "no usable checkpoint at or before step" in call.message
    assert (call.severity, call.state) == ("critical", "open")
    # a rollback that was not carried out takes nothing from the budget and abandons no state
    actions = [line["kind"] for line in memory_of(result.folder) if line["what"] == "action"]
    assert actions == ["halt"]


def test_a_rollback_to_damaged_checkpoints_that_a_person_asks_for_leaves_no_trace(
    small: RunConfig, settings: Settings
) -> None:
    config = changed(small, {"steps": 60, "checkpoint.ring_gib": 0.0})
    refused: list[str] = []

    def on_step(trainer: Trainer) -> None:
        if trainer.state.step == 45 and not refused:
            damage_all(trainer.keeper)
            with pytest.raises(MoescopeError, match="no usable checkpoint") as refusal:
                carry_out(trainer, Action("rollback", "asked", to_step=20), is_automatic=False)
            refused.append(str(refusal.value))
            assert (trainer.state.step, trainer.segment.index) == (45, 0)

    result = train(config, settings=settings, progress=False, on_step=on_step)
    assert refused
    assert (result.status, result.step) == ("finished", 60)
    assert [line for line in memory_of(result.folder) if line["what"] == "action"] == []
    with open_store(settings.store_url) as store:
        [last] = [c for c in store.checkpoints(result.run_id) if c.step == 60]
    assert (last.health, last.is_on_disk) == ("fresh", True)


@pytest.mark.story
def test_a_run_whose_data_is_all_poison_from_a_batch_on_halts_within_its_budget_and_calls(
    small: RunConfig, settings: Settings, tmp_path: Path
) -> None:
    clips, windows = tmp_path / "clips", 16
    num_good = GOOD_BATCHES * small.data.batch // windows
    make_clips(clips / "part-1", num_good, seed=1)
    make_clips(clips / "part-2", 40, seed=2)
    spoil_clips(sorted((clips / "part-2").glob("*.mp4")), 0)
    config = changed(
        small,
        {
            "steps": 500,
            "data.folder": str(clips),
            "data.order": "by_folder",
            "data.windows_per_clip": windows,
            "data.validation_share": 0.0,
            "policy.most_skipped_batches": 40,
        },
    )
    turns: list[int] = []
    result = train(
        config,
        settings=settings,
        progress=False,
        on_step=lambda trainer: turns.append(trainer.state.batch),
    )
    events, alerts = record_of(settings, result.run_id)
    backs = [event for event in events if event.kind == "rollback"]
    assert result.status == "halted", (result.step, [a.rule for a in alerts])
    assert 1 <= len(backs) <= config.policy.most_rollbacks
    # after the first poison: the alarm, the way to it again after each rollback, 40 passed over
    assert len(turns) <= GOOD_BATCHES + config.policy.most_rollbacks * 60 + 40
    [call] = [alert for alert in alerts if alert.rule == HALTED]
    assert call.state == "open"


@pytest.mark.story
def test_twenty_rollbacks_leak_neither_memory_nor_file_handles(
    small: RunConfig, settings: Settings
) -> None:
    every = {"checkpoint.memory_every_steps": 2, "checkpoint.disk_every_steps": 2}
    config = changed(small, {"steps": 8, "policy.mode": "off", **every})
    process = psutil.Process()
    num_backs = 0
    seen: list[tuple[int, int, int]] = []

    def on_step(trainer: Trainer) -> None:
        nonlocal num_backs
        if trainer.state.step == 7 and num_backs < 25:
            back = Action("rollback", "forced by the test", to_step=4)
            carry_out(trainer, back, is_automatic=False)
            num_backs += 1
            if num_backs in (5, 25):
                gc.collect()
                tensors = sum(type(one) is torch.Tensor for one in gc.get_objects())
                seen.append((process.num_fds(), tensors, process.memory_info().rss))

    train(config, settings=settings, progress=False, on_step=on_step)
    early, late = seen
    assert late[0] <= early[0] + 1
    assert late[1] <= early[1]
    # twenty states are 9 MiB here; sqlite and the allocator settle by a few
    assert late[2] - early[2] < 6 * 2**20
