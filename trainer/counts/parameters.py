"""Parameter counts from the configuration alone: a plan needs counts, not tensors."""

from typing import NamedTuple

from ..config import RunConfig
from .class_dit import class_parts
from .noise_experts import noise_expert_parts
from .parts import SINUSOIDS, block_parts, linear, text_parameters
from .wan import wan_parts

NUM_KINDS = 3
"""Kinds of token of the stream with a modulation of their own: told, video, audio."""


class Parameters(NamedTuple):
    active: int
    """Those that work on a token: all but the routed experts that it is not sent to."""
    total: int
    parts: dict[str, int]
    """Total by part of the model."""


def count_parameters(config: RunConfig) -> Parameters:
    """Counts as `facts: model.md` section 1 does: embeddings, routers and modulation in full.

    active = total - (E - K) / E * routed experts. Where experts choose their tokens, K is the
    number per token on average. Of experts by noise level one is active, with what it shares.
    """
    parts_of = {"stream": stream_parts, "class": class_parts, "wan": wan_parts}[config.model.family]
    parts = parts_of(config)
    e = config.moe
    idle = (
        parts["routed_experts"] * (e.num_experts - e.num_chosen) // e.num_experts
        if e.num_experts
        else 0
    )
    active = sum(parts.values()) - idle
    if config.noise_experts.num_experts > 1:
        parts = noise_expert_parts(config, parts_of)
    return Parameters(active, sum(parts.values()), parts)


def _text(config: RunConfig) -> int:
    if not config.has_text:
        return 0
    width = config.model.width
    is_encoded = config.data.captions == "encoder"
    tokens = linear(config.model.text_width, width) if is_encoded else text_parameters(width)
    return tokens + 2 * linear(width, width)


def stream_parts(config: RunConfig) -> dict[str, int]:
    """Returns the parameters of a single-stream network by part."""
    m, d = config.model, config.data
    width, patch, mel_patch = m.width, config.video_patch, m.patch_mel_steps * d.num_mels
    patches, outputs = linear(2 * patch, width), linear(width, patch)
    if config.has_audio:
        patches += linear(2 * mel_patch, width)
        outputs += linear(width, mel_patch)
    if m.has_reference:
        patches += linear(patch // m.patch_frames, width)
    return {
        "patches": patches,
        "text": _text(config),
        "noise_levels": linear(SINUSOIDS, width) + linear(width, width) + NUM_KINDS * width,
        "norms": (2 * m.layers + 1) * width if m.norm == "rms" else 0,
        "modulation": m.layers * linear(width, 6 * width) + linear(width, 2 * width),
        **block_parts(config),
        "outputs": outputs,
    }
