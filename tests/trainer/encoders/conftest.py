"""Small VAEs and text encoders with random weights, saved as the public ones are."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from moescope.platform.frozen import changed
from moescope.trainer.config import RunConfig
from moescope.trainer.data.make_clips import make_clips
from moescope.trainer.recipes.stream import tiny

WIDTH = 16
"""Of the text encoder's vectors."""
NUM_CLIPS = 6


def save_wan_vae(folder: Path, channels: int = 4, seed: int = 0) -> Path:
    """A causal video VAE: cells of 4 frames and 4 x 4 pixels."""
    torch.manual_seed(seed)
    diffusers.AutoencoderKLWan(
        base_dim=8,
        z_dim=channels,
        dim_mult=[1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        latents_mean=[0.1] * channels,
        latents_std=[0.5] * channels,
    ).save_pretrained(folder)
    return folder


def save_image_vae(folder: Path) -> Path:
    """A VAE of pictures: cells of 2 x 2 pixels."""
    torch.manual_seed(0)
    diffusers.AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        latent_channels=4,
        scaling_factor=0.7,
        shift_factor=0.2,
    ).save_pretrained(folder)
    return folder


def save_text_encoder(folder: Path, kind: str = "umt5", width: int = WIDTH) -> Path:
    """A T5 and its tokenizer, one token for each letter, in a pipeline's two folders."""
    torch.manual_seed(0)
    of_kind: Any = {"umt5": transformers.UMT5Config, "t5": transformers.T5Config}[kind]
    config = of_kind(vocab_size=64, d_model=width, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    model: Any = {"umt5": transformers.UMT5EncoderModel, "t5": transformers.T5EncoderModel}[kind]
    model(config).save_pretrained(folder / "text_encoder")
    letters = "_ abcdefghijklmnopqrstuvwxyz0123456789.,-"
    words = {"<pad>": 0, "</s>": 1, "<unk>": 2, **{c: i + 3 for i, c in enumerate(letters)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder / "tokenizer")
    return folder


@pytest.fixture(scope="session")
def save_vae() -> Callable[..., Path]:
    return save_wan_vae


@pytest.fixture(scope="session")
def save_text() -> Callable[..., Path]:
    return save_text_encoder


@pytest.fixture(scope="session")
def wan_vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_wan_vae(tmp_path_factory.mktemp("models") / "vae")


@pytest.fixture(scope="session")
def image_vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_image_vae(tmp_path_factory.mktemp("models") / "vae")


@pytest.fixture(scope="session")
def text_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_text_encoder(tmp_path_factory.mktemp("models"))


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
