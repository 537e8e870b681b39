"""What expert counts say: pure functions on host arrays.

L MoE layers  E experts
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


def expert_load(tokens_LE: NDArray[np.generic]) -> Array:
    """Load of each expert relative to its layer's mean: u[l, e] = E * c[l, e] / sum_e c[l, e]. (L,
    E); 1 is balanced.

    A layer that routed nothing has load 0 everywhere. Source: facts, health.md, symbols.
    """
    count = np.asarray(tokens_LE, dtype=np.float64)
    total = count.sum(axis=1, keepdims=True)
    return np.asarray(count.shape[1] * count / np.maximum(total, 1.0), dtype=np.float32)


def max_violation(tokens_LE: NDArray[np.generic]) -> Array:
    """MaxVio[l] = max_e u[l, e] - 1. (L,). Source: arXiv 2408.15664."""
    load: Array = expert_load(tokens_LE).max(axis=1) - np.float32(1.0)
    return load


def load_entropy_nats(tokens_LE: NDArray[np.generic]) -> Array:
    """H[l] = -sum_e f ln f of the load shares f, in nats; ln E is balanced, 0 is one expert.
    (L,)."""
    count = np.asarray(tokens_LE, dtype=np.float64)
    share = count / np.maximum(count.sum(axis=1, keepdims=True), 1.0)
    return np.asarray(
        -(share * np.log(np.where(share > 0, share, 1.0))).sum(axis=1), dtype=np.float32
    )


def minority_share(tokens_LE: NDArray[np.generic]) -> Array:
    """Share of the less used half of the experts over what it would be if all were used alike.
    (L,); 1 is balanced.

    The half has floor(E / 2) experts. A layer in which the same few experts take everything has 0.
    With fewer than two experts, or without tokens, it is 1: there is nothing to be said. Source:
    facts, health.md section 4, 10.
    """
    count = np.sort(np.asarray(tokens_LE, dtype=np.float64), axis=1)
    num_layers, num_experts = count.shape
    half = num_experts // 2
    total = count.sum(axis=1)
    if half == 0:
        return np.ones(num_layers, dtype=np.float32)
    share = count[:, :half].sum(axis=1) / np.maximum(total, 1.0) / (half / num_experts)
    return np.where(total > 0, share, 1.0).astype(np.float32)
