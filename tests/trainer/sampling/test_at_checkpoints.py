"""Clips at each checkpoint: the same prompts, the same noise, and no trace in the training."""

from pathlib import Path
from typing import Any

import pytest

from moescope.dashboard.reads_of_samples import samples_of
from moescope.monitors.states.checkpoint import checkpoint_folders, read_checkpoint
from moescope.platform.errors import MoescopeError
from moescope.platform.frozen import changed
from moescope.platform.settings import Settings
from moescope.platform.store import open_store
from moescope.trainer.config import RunConfig
from moescope.trainer.run import train

PROMPTS = ["a red disc", "noon: a ruby ball"]
SAMPLED = {"watch.are_checkpoints_sampled": True, "watch.sample_prompts": PROMPTS}
SHORT = {"steps": 9, "checkpoint.disk_every_steps": 4}


def _state(settings: Settings, run_id: str) -> dict[str, Any]:
    folder = settings.home / "runs" / run_id / "checkpoints"
    return read_checkpoint(checkpoint_folders(folder)[-1])


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("family", ["sigmoid", "batch choice", "two noise experts"])
def test_a_run_is_the_same_to_the_bit_with_its_clips_and_without(
    small: RunConfig,
    settings: Settings,
    same: Any,
    family: str,
    ways: dict[str, dict[str, Any]],
) -> None:
    config = changed(small, {**ways[family], **SHORT})
    train(config, settings=settings, run_id="without", progress=False)
    train(changed(config, SAMPLED), settings=settings, run_id="with", progress=False)
    assert same(_state(settings, "without"), _state(settings, "with")) == []


def test_each_checkpoint_has_its_clips_and_the_page_and_the_record_know_them(
    small: RunConfig, settings: Settings
) -> None:
    config = changed(small, {**SHORT, **SAMPLED})
    result = train(config, settings=settings, run_id="r", progress=False)
    assert result.status == "finished"
    folder = settings.home / "runs" / "r" / "samples"
    found = sorted(path.relative_to(folder) for path in folder.rglob("*.mp4"))
    names = ["a-red-disc-seed0-0.mp4", "noon-a-ruby-ball-seed0-1.mp4"]
    steps = ["step-000004", "step-000008"]
    assert found == [Path(step) / name for step in steps for name in names]
    early, late = ((folder / step / names[0]).read_bytes() for step in steps)
    assert early != late
    with open_store(settings.store_url) as store:
        events = [event for event in store.events("r") if "samples" in event.details]
        assert [event.text for event in events] == [
            f"2 clips of the state in front of step {step}" for step in (4, 8)
        ]
        assert events[1].details["samples"] == [str(folder / steps[1] / name) for name in names]
        shown = samples_of(store.find_run("r"))
    assert list(shown) == [8, 4]
    assert sorted(f"{name}.mp4" for name in shown[8]) == names


def test_classes_are_named_by_name_or_number(
    small: RunConfig, settings: Settings, ways: dict[str, dict[str, Any]]
) -> None:
    keys = {**ways["dsmoe"], **SHORT, "watch.are_checkpoints_sampled": True}
    train(changed(small, keys), settings=settings, run_id="r", progress=False)
    pictures = list((settings.home / "runs" / "r" / "samples" / "step-000004").glob("*.png"))
    assert pictures
    unknown = changed(small, {**keys, "watch.sample_prompts": ["zebra"]})
    with pytest.raises(MoescopeError, match="unknown class zebra"):
        train(unknown, settings=settings, run_id="s", progress=False)
    with open_store(settings.store_url) as store:
        assert [run.id for run in store.runs()] == ["r"]


def test_where_clips_cannot_be_written_training_goes_on_and_says_so(
    small: RunConfig, settings: Settings
) -> None:
    config = changed(small, {**SHORT, **SAMPLED})
    samples = settings.home / "runs" / "r" / "samples"
    samples.parent.mkdir(parents=True)
    samples.write_text("a file where a folder should be")
    result = train(config, settings=settings, run_id="r", progress=False)
    assert (result.status, result.step) == ("finished", 9)
    with open_store(settings.store_url) as store:
        (alert,) = (alert for alert in store.alerts(run_id="r") if alert.rule == "samples")
        assert "clips cannot be written" in alert.message
