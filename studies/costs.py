"""What a trial costs, from its configuration alone."""

import math
from typing import NamedTuple

from ..trainer.config import RunConfig
from ..trainer.counts.flops import count_flops
from ..trainer.counts.parameters import count_parameters
from .spec import Parallel

BF16_BYTES, FP32_BYTES = 2, 4
COPIES = 4
"""Of a parameter in a checkpoint: weight, average, and AdamW's two moments (Muon has one)."""


class Cost(NamedTuple):
    """Of one trial."""

    active_params: int
    total_params: int
    tokens: int
    flops: float
    """Of training; a branch: of its own steps."""
    expert_bytes: float
    """Each rank sends with expert parallel, as it is to be expected: it hangs on the routing."""
    head_bytes: float
    """Each rank sends with head parallel, exactly; 0 without latent experts."""
    disk_bytes: float
    """Of its checkpoints, at their most."""


def cost_of(config: RunConfig, parallel: Parallel, num_steps: int) -> Cost:
    """Counts a trial of so many steps of its own.

    Communication forward and backward: expert parallel 2 * 2 T K D b (P-1)/P for each MoE layer,
    head parallel 2 * 2 T N_h d_h b (P-1)/P, with the T tokens of a rank (facts: model.md section 5)
    in bf16, or fp32 where the recipe says so.
    """
    count = count_parameters(config)
    samples = num_steps * config.data.batch
    return Cost(
        count.active,
        count.total,
        samples * config.tokens_per_sample,
        float(samples * count_flops(config).training),
        _sent(config, parallel.experts, samples, config.moe.num_chosen * config.model.width),
        _sent(config, parallel.heads, samples, _latent_width(config)),
        float(_checkpoints(config) * count.total * COPIES * FP32_BYTES),
    )


def _sent(config: RunConfig, ranks: int, samples: int, values_of_token: int) -> float:
    b = FP32_BYTES if config.compute.precision == "fp32" else BF16_BYTES
    tokens = samples * config.tokens_per_sample / ranks
    one_way = 2 * tokens * values_of_token * b * (ranks - 1) / ranks
    return 2 * one_way * len(config.moe_blocks)


def _latent_width(config: RunConfig) -> int:
    e = config.moe
    return e.latent_heads * e.latent_head_width if e.layer == "latent" else 0


def _checkpoints(config: RunConfig) -> int:
    """The certified ones that are kept, the newest, and one that is being written."""
    written = math.ceil(config.steps / config.checkpoint.disk_every_steps)
    return min(written, config.checkpoint.keep + 1) + 1
