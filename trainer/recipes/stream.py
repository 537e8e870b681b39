"""Recipes of the single-stream family: text, video and audio in one sequence."""

from typing import Any

from ...platform.frozen import changed
from ..config import RunConfig
from .parts import at_length


def tiny() -> RunConfig:
    """About three million parameters: learns on two CPU cores in a minute or two."""
    return RunConfig(recipe="tiny")


def tiny_dense() -> RunConfig:
    """`tiny` without experts, for comparison."""
    return changed(tiny(), {"recipe": "tiny_dense", "moe.num_experts": 0})


def video_moe_tiny() -> RunConfig:
    """`tiny` by the name of its family."""
    return changed(tiny(), {"recipe": "video_moe_tiny"})


def video_moe_s() -> RunConfig:
    """Clips of 2 s, 128 x 128, with sound; experts and width of DSMoE-S-E16."""
    return _video_moe("video_moe_s", layers=10, width=384, heads=6, hidden=768)


def video_moe_b() -> RunConfig:
    """Experts and width of DSMoE-B-E16."""
    return _video_moe("video_moe_b", layers=10, width=768, heads=12, hidden=1536)


def video_moe_l() -> RunConfig:
    """Experts and width of DSMoE-L-E16."""
    return _video_moe("video_moe_l", layers=20, width=1024, heads=16, hidden=2048)


def video_moe_3b() -> RunConfig:
    """Experts and width of DSMoE-3B-E16; a head of 72 channels."""
    return _video_moe("video_moe_3b", layers=30, width=1152, heads=16, hidden=2880)


def latent_moe_tiny() -> RunConfig:
    """`tiny` with Multi-Head LatentMoE in the place of its experts."""
    return changed(tiny(), {"recipe": "latent_moe_tiny", **_latent(heads=4, part=32, hidden=128)})


def latent_moe_s() -> RunConfig:
    """`video_moe_s` with Multi-Head LatentMoE that is as wide as its active experts."""
    latent = _latent(heads=8, part=48, hidden=1536)
    return changed(video_moe_s(), {"recipe": "latent_moe_s", **latent})


def latent_moe_b() -> RunConfig:
    """`video_moe_b` with Multi-Head LatentMoE that is as wide as its active experts."""
    latent = _latent(heads=16, part=48, hidden=3072)
    return changed(video_moe_b(), {"recipe": "latent_moe_b", **latent})


def _latent(heads: int, part: int, hidden: int) -> dict[str, Any]:
    """Equal active parameters: a DSMoE layer has 3 D S (K + shared), with K = 2 and one shared 9 D
    S; LatentMoE has 2 D^2 + 2 K D hidden where the parts make up the width, D = heads * part. With
    S = 2 D both are 18 D^2 at hidden = 4 D.

    The bias adds to unbounded logits, so that its step is larger than with sigmoid scores: 0.01 at
    a learning rate of 2e-4 (facts: model.md section 4).
    """
    return {
        "moe.layer": "latent",
        "moe.router": "softmax",
        "moe.num_shared": 0,
        "moe.latent_heads": heads,
        "moe.latent_head_width": part,
        "moe.hidden": hidden,
        "moe.bias_update_speed": 0.01,
    }


def _video_moe(name: str, layers: int, width: int, heads: int, hidden: int) -> RunConfig:
    """Sizes and experts of DSMoE (facts: model.md 1.1, 1.3) on clips of 16 frames, 128 x 128, as
    cosine latents of 16 channels; learning rate, averages and batch of DSMoE's training."""
    return changed(
        tiny(),
        {
            "recipe": name,
            **at_length(),
            "steps": 400_000,
            "data.batch": 512,
            "data.num_frames": 16,
            "data.height": 128,
            "data.width": 128,
            "data.latents": "cosine",
            "data.latent_frames": 2,
            "data.latent_channels": 16,
            "data.num_mels": 64,
            "data.num_mel_steps": 128,
            "data.num_text_bytes": 256,
            "model.width": width,
            "model.layers": layers,
            "model.heads": heads,
            "model.patch_frames": 1,
            "model.patch_size": 2,
            "moe.num_experts": 16,
            "moe.num_groups": 2,
            "moe.num_chosen_groups": 2,
            "moe.hidden": hidden,
            "optim.warmup_steps": 1000,
            "optim.weight_decay": 0.0,
        },
    )
