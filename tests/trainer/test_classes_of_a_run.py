"""A run remembers its classes: folders come and go, and every class keeps its number."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moescope.platform.errors import MoescopeError
from moescope.platform.frozen import changed
from moescope.platform.settings import Settings
from moescope.trainer.config import RunConfig
from moescope.trainer.data.classes import read_classes
from moescope.trainer.data.make_clips import make_clips
from moescope.trainer.loop import Trainer
from moescope.trainer.run import train

Trained = Callable[..., dict[str, int]]
"""Trains and returns the number of each class that was trained on, by the clips' folders."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("cat", "dog", "eel"):
        make_clips(tmp_path / "clips" / name, 2, seed=len(name), size=32, are_pictures=True)
    return tmp_path / "clips"


@pytest.fixture
def config(small: RunConfig, folder: Path, ways: dict[str, dict[str, Any]]) -> RunConfig:
    own = {"data.folder": str(folder), "model.num_classes": 4, "data.validation_share": 0.0}
    return changed(small, {**ways["dsmoe"], **own, "steps": 6, "watch.probe_every": 3})


@pytest.fixture
def trained(config: RunConfig, settings: Settings) -> Trained:
    def run(**arguments: Any) -> dict[str, int]:
        met: dict[str, int] = {}

        def on_step(trainer: Trainer) -> None:
            batch = trainer.batches.get(trainer.state.batch)
            folders = [name.partition("/")[0] for name in batch.names]
            met.update(zip(folders, batch.label_B.tolist(), strict=True))

        more = arguments.pop("more", {})
        result = train(
            changed(config, more),
            settings=settings,
            progress=False,
            on_step=on_step,
            **arguments,
        )
        assert result.status == "finished"
        return met

    return run


def test_a_resumed_run_keeps_its_numbers_when_folders_come_and_go(
    trained: Trained, settings: Settings, folder: Path
) -> None:
    numbers = {"cat": 0, "dog": 1, "eel": 2}
    assert trained(run_id="r") == numbers
    run_folder = settings.home / "runs" / "r"
    assert read_classes(run_folder) == numbers
    shutil.rmtree(folder / "cat")
    # its name comes before all others
    (folder / "eel").rename(folder / "ape")
    assert trained(resume="r", more={"steps": 12}) == {"dog": 1, "ape": 3}
    assert read_classes(run_folder) == {**numbers, "ape": 3}


def test_a_run_that_starts_from_weights_knows_the_same_classes_by_the_same_numbers(
    trained: Trained, settings: Settings, folder: Path
) -> None:
    trained(run_id="r")
    shutil.rmtree(folder / "cat")
    (folder / "dog").rename(folder / "fox")
    assert trained(run_id="s", init_from="r") == {"eel": 2, "fox": 0}
    assert read_classes(settings.home / "runs" / "s") == {"eel": 2, "fox": 0}


def test_more_classes_than_the_network_has_are_refused_and_leave_no_run(
    config: RunConfig, settings: Settings
) -> None:
    with pytest.raises(MoescopeError, match=r"of 3 classes, but model\.num_classes is 2: set"):
        train(changed(config, {"model.num_classes": 2}), settings=settings, progress=False)
    assert not (settings.home / "runs").exists()


def test_a_model_without_classes_trains_on_any_number_of_them(
    small: RunConfig, settings: Settings, folder: Path
) -> None:
    config = changed(small, {"data.folder": str(folder), "steps": 2})
    assert train(config, settings=settings, run_id="r", progress=False).status == "finished"
    assert read_classes(settings.home / "runs" / "r") == {"cat": 0, "dog": 1, "eel": 2}
