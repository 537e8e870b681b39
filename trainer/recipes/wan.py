"""Recipes of the wan family: dense networks of Wan's sizes, experts by token, and toys of both."""

from typing import Any

from ...platform.frozen import changed
from ..config import RunConfig
from .parts import at_length


def wan_14b() -> RunConfig:
    """One expert of Wan2.2-A14B as a network of its own: 14.29 B parameters beside what reads the
    caption."""
    config = _wan("wan_14b", layers=40, width=5120, heads=40, dense_hidden=13_824)
    return changed(config, {"objective.shift": 12.0})


def wan_5b() -> RunConfig:
    """Wan2.2-TI2V-5B: 5.00 B parameters; cells of 16 x 16 pixels and 48 channels."""
    return changed(
        _wan("wan_5b", layers=30, width=3072, heads=24, dense_hidden=14_336),
        {
            "data.num_frames": 120,
            "data.frames_per_s": 24.0,
            "data.height": 704,
            "data.width": 1280,
            "data.latent_size": 16,
            "data.latent_channels": 48,
        },
    )


def wan_token_moe() -> RunConfig:
    """Experts by token in every other block: 14.4 B parameters, 5.3 B active.

    Layers, width and hidden widths are our fit to these two published figures (facts: model.md
    section 2); 16 experts, two to a token, softmax weights as they are, and the weight 0.01 of the
    balance loss are the page's.
    """
    config = _wan("wan_token_moe", layers=34, width=3072, heads=24, dense_hidden=12_288)
    return changed(config, _token_moe(hidden=6272))


def wan_tiny() -> RunConfig:
    """A dense Wan of 1.6 million parameters on clips of 8 frames, 32 x 32: learns on two CPU cores
    in a minute."""
    return changed(RunConfig(recipe="wan_tiny"), {**_like_wan(), **_tiny(), "moe.num_experts": 0})


def wan_token_moe_tiny() -> RunConfig:
    """`wan_tiny` with experts in every other block, in the proportions of `wan_token_moe`."""
    changes = {"recipe": "wan_token_moe_tiny", **_token_moe(hidden=256)}
    return changed(wan_tiny(), changes)


def _token_moe(hidden: int) -> dict[str, Any]:
    """The page that describes the model defines the balance loss as 0.01 E sum f_i P_i. Here f adds
    up to 1 (moe/balance.py); read literally, as the share of tokens that go to an expert, it would
    add up to 2, which is a weight of 0.02 here (facts: model.md section 4).
    """
    return {
        "moe.num_experts": 16,
        "moe.num_shared": 0,
        "moe.hidden": hidden,
        "moe.expert": "gelu",
        "moe.has_expert_bias": True,
        "moe.router": "softmax",
        "moe.is_normalised": False,
        "moe.routed_scale": 1.0,
        "moe.bias_update_speed": 0.0,
        "moe.balance_weight": 0.01,
    }


def _wan(name: str, layers: int, width: int, heads: int, dense_hidden: int) -> RunConfig:
    """What the full sizes have in common (facts: model.md section 2): 5 s of 480 x 832 at 16 frames
    per second, a caption of 512 tokens, shift 5. Cosine latents stand where theirs come from a VAE.
    Batch, learning rate and steps are moescope choices.
    """
    return changed(
        RunConfig(recipe=name),
        {
            **_like_wan(),
            **at_length(ring_gib=1024.0, quota_gib=4096.0),
            "steps": 200_000,
            "data.batch": 32,
            "data.num_frames": 80,
            "data.frames_per_s": 16.0,
            "data.height": 480,
            "data.width": 832,
            "data.latent_frames": 4,
            "data.latent_channels": 16,
            "data.num_text_bytes": 2048,
            "model.width": width,
            "model.layers": layers,
            "model.heads": heads,
            "model.mlp_ratio": dense_hidden / width,
            "moe.num_experts": 0,
            "objective.shift": 5.0,
            "optim.warmup_steps": 1000,
        },
    )


def _like_wan() -> dict[str, Any]:
    """Wan's blocks, and latents without sound."""
    return {
        "data.num_mel_steps": 0,
        "data.latents": "cosine",
        "model.family": "wan",
        "model.mlp": "gelu",
        "model.qk_norm": "full",
        "model.has_place_table": False,
        "model.patch_frames": 1,
        "model.patch_size": 2,
    }


def _tiny() -> dict[str, Any]:
    return {
        "steps": 200,
        "optim.learning_rate": 3e-3,
        "optim.warmup_steps": 20,
        "data.latent_size": 4,
        "data.latent_frames": 2,
        "data.latent_channels": 16,
        "model.layers": 4,
        "model.text_width": 128,
    }
