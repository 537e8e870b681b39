"""A corpus and a configuration small enough that a whole training is a matter of seconds."""

from collections.abc import Iterator
from pathlib import Path

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
