"""A corpus and a configuration small enough that a whole training is a matter of seconds."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from moescope.platform.frozen import changed
from moescope.platform.settings import Settings
from moescope.trainer.config import RunConfig
from moescope.trainer.data.make_clips import make_clips
from moescope.trainer.stream_recipes import tiny


@pytest.fixture(scope="session")
def clips_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    make_clips(folder, 24, seed=1)
    return folder


@pytest.fixture
def small(clips_folder: Path) -> RunConfig:
    """`tiny` with narrower everything: the same code on about ten milliseconds a step."""
    return changed(
        tiny(),
        {
            "steps": 60,
            "data.folder": str(clips_folder),
            "data.batch": 4,
            "data.num_frames": 4,
            "data.height": 16,
            "data.width": 16,
            "data.num_mels": 8,
            "data.num_mel_steps": 8,
            "data.num_text_bytes": 8,
            "model.width": 32,
            "model.layers": 2,
            "model.heads": 2,
            "moe.num_experts": 4,
            "moe.hidden": 16,
            "optim.warmup_steps": 5,
            "watch.probe_every": 0,
            "checkpoint.disk_every_steps": 20,
            "checkpoint.min_free_gib": 0.0,
        },
    )


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", mlflow="off")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Bit-exactness is promised on one CPU thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def same() -> Callable[[Any, Any], list[str]]:
    """Returns the paths at which two states differ in any bit."""
    return _differing


def _differing(one: Any, two: Any, path: str = "") -> list[str]:
    """Returns the paths at which two states differ in any bit."""
    if isinstance(one, dict):
        assert one.keys() == two.keys(), path
        return [p for key in one for p in _differing(one[key], two[key], f"{path}/{key}")]
    if isinstance(one, list | tuple):
        assert len(one) == len(two), path
        return [
            p
            for i, (a, b) in enumerate(zip(one, two, strict=True))
            for p in _differing(a, b, f"{path}/{i}")
        ]
    if isinstance(one, torch.Tensor):
        return [] if one.numpy().tobytes() == two.numpy().tobytes() else [path]
    if isinstance(one, np.ndarray):
        return [] if one.tobytes() == two.tobytes() else [path]
    return [] if one == two or (one != one and two != two) else [path]
