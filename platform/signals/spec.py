"""What is known of a signal, and the words that many of them share."""

from dataclasses import dataclass
from typing import Literal

Tier = Literal["step", "sampled", "slow", "system", "user"]
# moe_layer: a row for each router, from the first layer on; LatentMoE has one for each head
Dimension = Literal[
    "layer",
    "moe_layer",
    "expert",
    "other_expert",
    "modality",
    "sample",
    "timestep_bin",
    "noise_expert",
    "token_kind",
    "motion_bin",
    "region",
    "class",
]

FREE = "nothing: the step computes it anyway"
HOST = "a few microseconds on the host"
PACKED = "part of the one packed copy of a sampled step; nothing between samples"
ROUTED_PROBE = "with the probe loss: the choices of its tokens are counted"
MOESCOPE = "moescope"
HEALTH = "facts: health.md section 4"
LAYER: tuple[Dimension, ...] = ("layer",)
MOE: tuple[Dimension, ...] = ("moe_layer",)


@dataclass(frozen=True, slots=True)
class SignalSpec:
    name: str
    """`room/what_unit`: the unit is the last word of the name where it is not a plain number."""
    unit: str
    dimensions: tuple[Dimension, ...]
    tier: Tier
    group: str
    """Scalars of one group are measured together and share a row of the store."""
    cost: str
    """What measuring it costs."""
    help: str
    """What it is."""
    high: str
    """What a high value means and what to do."""
    low: str
    """What a low value means."""
    source: str
    is_lossless: bool = False
    """Lossless signals survive any fault of a sink; others may be coalesced, which is counted."""

    @property
    def is_scalar(self) -> bool:
        return not self.dimensions


def spec(
    name: str,
    unit: str,
    dimensions: tuple[Dimension, ...],
    tier: Tier,
    group: str,
    cost: str,
    help: str,
    high: str,
    low: str,
    source: str = MOESCOPE,
) -> SignalSpec:
    """A row of the catalogue; a scalar is lossless."""
    # scalars are small and tell the story of a run: they are never dropped
    return SignalSpec(
        name,
        unit,
        dimensions,
        tier,
        group,
        cost,
        help,
        high,
        low,
        source,
        is_lossless=not dimensions,
    )
