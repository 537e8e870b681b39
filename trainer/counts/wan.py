"""Parameters of the wan family."""

from ..config import RunConfig
from .parts import SINUSOIDS, block_parts, linear, text_parameters


def wan_parts(config: RunConfig) -> dict[str, int]:
    """Returns the parameters by part. Source: facts: model.md section 2."""
    m, width, patch = config.model, config.model.width, config.video_patch
    gains = {"head": 2 * (width // m.heads), "full": 2 * width, "none": 0}[m.qk_norm]
    reads_bytes = config.data.captions == "bytes"
    cross = 4 * linear(width, width) + gains + 2 * width
    return {
        "patches": linear(patch, width),
        "text_encoder": text_parameters(m.text_width) if reads_bytes else 0,
        "text": linear(m.text_width, width) + linear(width, width),
        "noise_levels": linear(SINUSOIDS, width) + linear(width, width) + linear(width, 6 * width),
        "modulation": m.layers * 6 * width + 2 * width,
        "cross_attention": m.layers * cross,
        **block_parts(config),
        "outputs": linear(width, patch),
    }
