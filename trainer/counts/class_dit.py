"""Parameters of the class family."""

from ..config import RunConfig
from .parts import SINUSOIDS, block_parts, linear


def class_parts(config: RunConfig) -> dict[str, int]:
    """Returns the parameters by part. Source: facts: model.md 1.1 and 1.2."""
    m, width, patch = config.model, config.model.width, config.video_patch
    bottleneck = m.patch_bottleneck
    outputs = patch * (2 if m.has_variance_output else 1)
    return {
        "patches": patch * bottleneck + linear(bottleneck, width)
        if bottleneck
        else linear(patch, width),
        "noise_levels": linear(SINUSOIDS, width) + linear(width, width),
        "classes": (m.num_classes + 1) * width + m.num_class_tokens * width,
        "norms": (2 * m.layers + 1) * width if m.norm == "rms" else 0,
        "modulation": m.layers * linear(width, 6 * width) + linear(width, 2 * width),
        **block_parts(config),
        "outputs": linear(width, outputs),
    }
