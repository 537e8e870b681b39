"""Parameter counts from the configuration alone: a plan needs counts, not tensors."""

from typing import NamedTuple

from .config import RunConfig

TEXT_VOCABULARY = 257
"""256 bytes and the padding."""
NUM_GRAM_ROWS = 2 * 1024
"""Hashed byte n-grams of two lengths."""
SINUSOIDS = 256
NUM_KINDS = 3
"""Kinds of token with a modulation of their own: text, video, audio."""
COLOURS = 3


class Parameters(NamedTuple):
    active: int
    """Those that work on a token: all but the routed experts that it is not sent to."""
    total: int
    parts: dict[str, int]
    """Total by part of the model."""


def count_parameters(config: RunConfig) -> Parameters:
    """Counts as `facts: model.md` section 1 does: embeddings, router and modulation in full.

    active = total - n_moe * (E - K) * 3 * D * H, with n_moe the number of MoE blocks.
    """
    m, d, e = config.model, config.data, config.moe
    width = m.width
    num_moe = len(config.moe_blocks)
    num_dense = m.layers - num_moe
    video_patch = COLOURS * m.patch_frames * m.patch_size**2
    mel_patch = m.patch_mel_steps * d.num_mels
    expert = 3 * width * e.hidden
    head = width // m.heads
    parts = {
        "patches": _linear(2 * video_patch, width) + _linear(2 * mel_patch, width),
        "text": (TEXT_VOCABULARY + NUM_GRAM_ROWS) * width + 2 * _linear(width, width),
        "noise_levels": _linear(SINUSOIDS, width) + _linear(width, width) + NUM_KINDS * width,
        "attention": m.layers * (_linear(width, 3 * width) + _linear(width, width) + 2 * head),
        "modulation": m.layers * _linear(width, 6 * width) + _linear(width, 2 * width),
        "dense_mlp": num_dense * _mlp(width, round(m.mlp_ratio * width)),
        "routed_experts": num_moe * e.num_experts * expert,
        "shared_experts": num_moe * e.num_shared * expert,
        "routers": num_moe * e.num_experts * width,
        "outputs": _linear(width, video_patch) + _linear(width, mel_patch),
    }
    total = sum(parts.values())
    idle = num_moe * (e.num_experts - e.num_chosen) * expert
    return Parameters(total - idle, total, parts)


def _linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def _mlp(width: int, hidden: int) -> int:
    return _linear(width, hidden) + _linear(hidden, width)
