"""FLOPs of a sample from the configuration alone: what a plan costs, and what utilisation is of.

A product of matrices (r, i) and (i, o) is 2 r i o FLOPs; what else a network does (norms, softmax,
activations, biases) is not counted, as in PaLM's appendix B (arXiv 2204.02311) and in torch's
FlopCounterMode.
"""

import math
from collections import Counter
from typing import NamedTuple

from ...platform.frozen import changed
from ..config import RunConfig
from ..model_config import MoeConfig, is_gated
from .parts import SINUSOIDS

PASSES = 3
"""A forward pass, and twice its work on the way back: by the inputs and by the weights."""
NUM_KINDS = 3
"""Of token in the stream: told, video, audio."""
NUM_LEVELS = 2
"""Noise levels of a sample: of its video and its sound."""


class Flops(NamedTuple):
    """Of one sample."""

    forward: int
    training: int
    """Forward and backward, with what is computed again."""
    parts: dict[str, int]
    """Forward, by part of the model."""


def count_flops(config: RunConfig) -> Flops:
    """Counts the FLOPs of a sample: of experts those that a token is sent to, attention between
    all tokens included.

    Of experts by noise level one answers (where two are blended near a boundary, it is more).
    """
    of_family = {"stream": _stream, "class": _class, "wan": _wan}[config.model.family]
    parts = {**of_family(config), **_blocks(config)}
    forward = sum(parts.values())
    # it has nothing to learn, and no way back leads through it
    fixed = parts.get("linear_part", 0)
    again = sum(_blocks(config).values()) if config.compute.are_blocks_recomputed else 0
    return Flops(forward, PASSES * (forward - fixed) + fixed + again, parts)


def model_flops(config: RunConfig) -> int:
    """Returns the FLOPs of an optimizer step's batch, forward and backward, without what is
    computed again: what model FLOP/s and utilisation count. Source: PaLM, arXiv 2204.02311,
    appendix B."""
    once = changed(config, {"compute.are_blocks_recomputed": False})
    return count_flops(once).training * config.data.batch


def _product(rows: int, inputs: int, outputs: int) -> int:
    return 2 * rows * inputs * outputs


def _blocks(config: RunConfig) -> dict[str, int]:
    """Attention, dense MLPs and layers of experts of all blocks."""
    parts: Counter[str] = Counter()
    for index in range(config.model.layers):
        tokens = config.tokens_per_sample
        if index < config.model.class_tokens_from:
            # the class joins them later
            tokens -= config.model.num_class_tokens
        parts.update(_attention(config, tokens))
        is_moe = index in config.moe_blocks
        parts.update(_experts(config, tokens) if is_moe else _dense_mlp(config, tokens))
    return dict(parts)


def _attention(config: RunConfig, tokens: int) -> dict[str, int]:
    m = config.model
    key_value = (m.kv_heads or m.heads) * (m.width // m.heads)
    rows = 2 * m.width + 2 * key_value + (m.heads if m.has_head_gate else 0)
    return {
        "attention_matrices": _product(tokens, m.width, rows),
        # queries with keys, and their weights with values
        "attention": 2 * _product(tokens, m.width, tokens),
    }


def _dense_mlp(config: RunConfig, tokens: int) -> dict[str, int]:
    m = config.model
    return {"dense_mlp": _mlp(tokens, m.width, config.mlp_hidden, is_gated(m.mlp))}


def _mlp(rows: int, width: int, hidden: int, has_gate: bool) -> int:
    return _product(rows, width, (3 if has_gate else 2) * hidden)


def _experts(config: RunConfig, tokens: int) -> dict[str, int]:
    e, width = config.moe, config.model.width
    if e.layer == "latent":
        inner = e.latent_heads * e.latent_head_width
        rows = tokens * e.latent_heads * e.num_chosen
        return {
            "routed_experts": _mlp(rows, e.latent_head_width, e.hidden, has_gate=False),
            "routers": _product(tokens, inner, e.num_experts),
            "latent_projections": 2 * _product(tokens, width, inner),
        }
    has_gate = is_gated(e.expert)
    return {
        "routed_experts": _mlp(tokens * e.num_chosen, width, e.hidden, has_gate),
        "shared_experts": _mlp(tokens, width, e.num_shared * e.hidden, has_gate),
        "routers": _router(e, width, tokens, config.text_tokens),
    }


def _router(e: MoeConfig, width: int, tokens: int, num_text: int) -> int:
    if e.router == "mlp":
        return _product(tokens, width + e.num_experts, e.router_hidden)
    out = _product(tokens, width, e.num_experts)
    if e.router == "cross_attention":
        return out + _cross_attention(width, tokens, num_text)
    if e.router == "batch_choice":
        return 2 * out + _product(tokens, width, width)
    return out


def _cross_attention(width: int, tokens: int, num_text: int) -> int:
    matrices = 2 * _product(tokens, width, width) + 2 * _product(num_text, width, width)
    return matrices + 2 * _product(tokens, width, num_text)


def _stream(config: RunConfig) -> dict[str, int]:
    m, d = config.model, config.data
    width, patch, mel_patch = m.width, config.video_patch, m.patch_mel_steps * d.num_mels
    video, reference = math.prod(config.grid), math.prod(config.grid[1:])
    patches, outputs = _product(video, 2 * patch, width), _product(video, width, patch)
    # turned along each axis and back
    linear_part = 4 * math.prod(config.video_shape) * sum(config.video_shape[1:])
    if config.has_audio:
        linear_part += 4 * d.num_mels * d.num_mel_steps**2
        audio = d.num_mel_steps // m.patch_mel_steps
        patches += _product(audio, 2 * mel_patch, width)
        outputs += _product(audio, width, mel_patch)
    if m.has_reference:
        patches += _product(reference, patch // m.patch_frames, width)
    return {
        "linear_part": linear_part,
        "patches": patches,
        "text": _text(config),
        "noise_levels": _product(NUM_LEVELS, SINUSOIDS + width, width),
        # one row for each kind of token
        "modulation": _product(NUM_KINDS, width, (6 * m.layers + 2) * width),
        "outputs": outputs,
    }


def _text(config: RunConfig) -> int:
    if not config.has_text:
        return 0
    width, num = config.model.width, config.text_tokens
    inputs = config.model.text_width if config.data.captions == "encoder" else 0
    return _product(num, inputs + 2 * width, width)


def _class(config: RunConfig) -> dict[str, int]:
    m, video = config.model, math.prod(config.grid)
    width, patch = m.width, config.video_patch
    inner = m.patch_bottleneck
    outputs = patch * (2 if m.has_variance_output else 1)
    return {
        "patches": _product(video, inner, patch + width)
        if inner
        else _product(video, patch, width),
        "noise_levels": _product(1, SINUSOIDS + width, width),
        "modulation": _product(1, width, (6 * m.layers + 2) * width),
        "outputs": _product(video, width, outputs),
    }


def _wan(config: RunConfig) -> dict[str, int]:
    m, video, num_text = config.model, math.prod(config.grid), config.text_tokens
    width, patch = m.width, config.video_patch
    return {
        "patches": _product(video, patch, width),
        "text": _product(num_text, m.text_width + width, width),
        "noise_levels": _product(1, SINUSOIDS + width + 6 * width, width),
        "cross_attention": m.layers * _cross_attention(width, video, num_text),
        "outputs": _product(video, width, patch),
    }
