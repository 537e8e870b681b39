"""Recipes of experts by noise level: Wan2.2's two, the same with a shared beginning, and toys."""

from ...platform.frozen import changed
from ..config import RunConfig
from .stream import tiny
from .wan import wan_14b, wan_tiny


def wan22_two_expert() -> RunConfig:
    """Wan2.2-A14B, text to video: two complete networks of 14.29 B, one above noise level 0.875 and
    one below, without a transition, as released.

    28.58 B in all (26.61 in units of 2^30), beside what reads the caption, of which one network is
    active. Boundary, shift and guidance: facts: model.md 3.5.
    """
    return changed(
        wan_14b(),
        {
            "recipe": "wan22_two_expert",
            "noise_experts.num_experts": 2,
            "noise_experts.boundaries": [0.875],
            "noise_experts.guidance": [3.0, 4.0],
        },
    )


def wan22_shared() -> RunConfig:
    """`wan22_two_expert` with the embeddings and 4 of 40 blocks in common: 26.94 B in all (facts:
    model.md section 2: no released model is so)."""
    changes = {"recipe": "wan22_shared", "noise_experts.shared_blocks": 4}
    return changed(wan22_two_expert(), changes)


def wan22_two_expert_tiny() -> RunConfig:
    """Two of `wan_tiny`, blended around a boundary that is learned: trains on two CPU cores in a
    minute."""
    return changed(
        wan_tiny(),
        {
            "recipe": "wan22_two_expert_tiny",
            "noise_experts.num_experts": 2,
            "noise_experts.boundaries": [0.875],
            "noise_experts.transition": 0.12,
            "noise_experts.is_learned": True,
            "noise_experts.guidance": [3.0, 4.0],
        },
    )


def noise_experts_tiny() -> RunConfig:
    """Three of `tiny`, each with experts by token of its own.

    Boundaries give each a third of the noise levels as they are drawn: shift 3 takes 1/3 to 0.6 and
    2/3 to 0.857.
    """
    return changed(
        tiny(),
        {
            "recipe": "noise_experts_tiny",
            "noise_experts.num_experts": 3,
            "noise_experts.boundaries": [0.6, 0.857],
            "noise_experts.transition": 0.1,
            "noise_experts.blend": "smooth",
        },
    )
