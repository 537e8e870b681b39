"""What can be asked of blocks, weights and routers: a table from words to signals and their levels.

The groups keep each choice short; a level is drawn where it means something whatever the run.
"""

from collections.abc import Mapping
from math import log

from ...platform import catalogue
from ..charts import Levels
from ..reads import RunReader

Choices = Mapping[str, Mapping[str, str]]
"""{group: {statistic: signal}}, the first of each is what is shown at first."""

BLOCKS: Choices = {
    "Activations": {
        "RMS": catalogue.ACTIVATION_RMS,
        "RMS by modality": catalogue.ACTIVATION_MODALITY_RMS,
        "largest": catalogue.ACTIVATION_ABSMAX,
        "largest by modality": catalogue.ACTIVATION_MODALITY_ABSMAX,
        "outlier ratio": catalogue.ACTIVATION_OUTLIER_RATIO,
        "outlier ratio by modality": catalogue.ACTIVATION_MODALITY_OUTLIER_RATIO,
        "kurtosis": catalogue.ACTIVATION_KURTOSIS,
        "kurtosis by modality": catalogue.ACTIVATION_MODALITY_KURTOSIS,
        "growth over depth": catalogue.ACTIVATION_DEPTH_GROWTH,
        "near overflow": catalogue.ACTIVATION_SATURATED_SHARE,
        "clamped": catalogue.ACTIVATION_CLAMPED_SHARE,
        "attention logits": catalogue.ATTENTION_LOGIT_BOUND,
    },
    "Weights": {
        "update over weight": catalogue.UPDATE_WEIGHT_RATIO,
        "update of all weights": catalogue.UPDATE_NORM,
        "gradient": catalogue.GRAD_LAYER_NORM,
    },
    "Precision": {
        "updates lost": catalogue.UPDATE_LOST_SHARE,
        "updates that bf16 would lose": catalogue.UPDATE_LOST_IN_BF16_SHARE,
        "gradients that fp16 would lose": catalogue.GRAD_UNDERFLOW_SHARE,
    },
}
ROUTERS: Choices = {
    "Choice": {
        "entropy": catalogue.ROUTER_ENTROPY_NATS,
        "mutual information": catalogue.MUTUAL_INFORMATION_NATS,
        "margin": catalogue.ROUTER_MARGIN,
        "largest logit": catalogue.ROUTER_LOGIT_ABSMAX,
        "z": catalogue.ROUTER_Z,
        "settled since the checkpoint": catalogue.ROUTING_SATURATION,
        "flips in bf16": catalogue.FLIP_RATE,
    },
    "Load": {
        "load entropy": catalogue.LOAD_ENTROPY_NATS,
        "effective experts": catalogue.EFFECTIVE_EXPERTS,
        "dead": catalogue.DEAD_EXPERTS,
        "frozen": catalogue.FROZEN_EXPERTS,
        "deadlocked": catalogue.DEADLOCKED,
        "MaxVio": catalogue.MAX_VIOLATION,
        "MinVio": catalogue.MIN_VIOLATION,
        "AvgVio": catalogue.AVG_VIOLATION,
        "MaxVio of the whole step": catalogue.GLOBAL_MAX_VIOLATION,
        "MinVio of the whole step": catalogue.GLOBAL_MIN_VIOLATION,
        "AvgVio of the whole step": catalogue.GLOBAL_AVG_VIOLATION,
        "spread": catalogue.LOAD_CV,
    },
    "Balance": {
        "bias": catalogue.BIAS_RANGE,
        "turns of the bias": catalogue.BIAS_FLIP_RATE,
        "balance loss": catalogue.ROUTER_BALANCE,
        "shared over routed": catalogue.SHARED_TO_ROUTED,
    },
}
LOG_SIGNALS = frozenset(
    {catalogue.UPDATE_WEIGHT_RATIO, catalogue.UPDATE_NORM, catalogue.GRAD_LAYER_NORM}
)
"""Norms differ by powers of ten between blocks and over a run."""

_LEVELS: Mapping[str, tuple[str, float]] = {
    catalogue.ACTIVATION_KURTOSIS: ("3: Gaussian", 3.0),
    catalogue.ACTIVATION_MODALITY_KURTOSIS: ("3: Gaussian", 3.0),
    catalogue.ACTIVATION_DEPTH_GROWTH: ("1: as the first block", 1.0),
    catalogue.UPDATE_WEIGHT_RATIO: ("1e-3: usual", 1e-3),
    catalogue.MUTUAL_INFORMATION_NATS: ("0: ignores the token", 0.0),
    catalogue.MIN_VIOLATION: ("1: an idle expert", 1.0),
    catalogue.GLOBAL_MIN_VIOLATION: ("1: an idle expert", 1.0),
    catalogue.ROUTING_SATURATION: ("1: settled", 1.0),
    catalogue.BIAS_FLIP_RATE: ("1/2: dithers", 0.5),
    catalogue.ROUTER_BALANCE: ("1: balanced", 1.0),
    catalogue.SHARED_TO_ROUTED: ("1: as much as routed", 1.0),
}


def levels_of(reader: RunReader, signal: str) -> Levels:
    """Returns the named levels of a signal; those of routers depend on the number of experts."""
    if signal in _LEVELS:
        return [_LEVELS[signal]]
    num_experts = reader.num_experts()
    if num_experts is None:
        return []
    if signal == catalogue.ROUTER_ENTROPY_NATS:
        return [(f"ln {num_experts}: undecided", log(num_experts))]
    if signal == catalogue.LOAD_ENTROPY_NATS:
        return [(f"ln {num_experts}: balanced", log(num_experts))]
    if signal == catalogue.EFFECTIVE_EXPERTS:
        return [(f"{num_experts}: balanced", num_experts), ("1: one does it all", 1)]
    return []
