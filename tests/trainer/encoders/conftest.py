"""Small VAEs and text encoders, and clips that they can encode."""

from collections.abc import Callable
from pathlib import Path

import pytest

from moescope.platform.frozen import changed
from moescope.trainer.config import RunConfig
from moescope.trainer.data.make_clips import make_clips
from moescope.trainer.recipes.stream import tiny

Saver = Callable[..., Path]
WIDTH = 16
"""Of the text encoder's vectors."""
NUM_CLIPS = 6


@pytest.fixture(scope="session")
def wan_vae(save_vae: Saver, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_vae(tmp_path_factory.mktemp("models") / "vae")


@pytest.fixture(scope="session")
def image_vae(save_pictures_vae: Saver, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pictures_vae(tmp_path_factory.mktemp("models") / "vae")


@pytest.fixture(scope="session")
def text_encoder(save_text: Saver, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_text(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoded") / "clips"
    make_clips(folder, NUM_CLIPS, seed=5)
    return folder


@pytest.fixture(scope="session")
def encodable(clips: Path, wan_vae: Path, text_encoder: Path) -> RunConfig:
    """A configuration whose clips the small models can encode: 5 frames become 2, 16 pixels 4."""
    return changed(
        tiny(),
        {
            "data.folder": str(clips),
            "data.num_frames": 5,
            "data.height": 16,
            "data.width": 16,
            "data.num_mels": 8,
            "data.num_mel_steps": 8,
            "data.batch": 4,
            "data.validation_share": 0.3,
            "data.latents": "vae",
            "data.vae": str(wan_vae),
            "data.latent_size": 4,
            "data.latent_frames": 4,
            "data.latent_channels": 4,
            "data.captions": "encoder",
            "data.text_encoder": str(text_encoder),
            "data.num_text_tokens": 12,
            "model.text_width": WIDTH,
            "model.width": 32,
            "model.layers": 2,
            "model.heads": 2,
            "model.patch_frames": 1,
            "model.patch_size": 2,
            "moe.num_experts": 4,
            "moe.hidden": 16,
            "steps": 3,
            "watch.probe_every": 2,
            "watch.num_probe_clips": 2,
        },
    )
