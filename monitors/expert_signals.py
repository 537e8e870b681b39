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


def min_violation(tokens_LE: NDArray[np.generic]) -> Array:
    """MinVio[l] = 1 - min_e u[l, e]. (L,). Source: facts, health.md section 4, 6."""
    load: Array = np.float32(1.0) - expert_load(tokens_LE).min(axis=1)
    return load


def avg_violation(tokens_LE: NDArray[np.generic]) -> Array:
    """AvgVio[l] = mean_e |u[l, e] - 1|. (L,). Source: facts, health.md section 4, 6."""
    return np.asarray(np.abs(expert_load(tokens_LE) - 1.0).mean(axis=1), dtype=np.float32)


def load_cv(tokens_LE: NDArray[np.generic]) -> Array:
    """CV[l] = std_e c / mean_e c, the deviation over E (ddof 0); 0 without tokens. (L,). Source:
    facts, health.md section 4, 7."""
    count = np.asarray(tokens_LE, dtype=np.float64)
    mean = count.mean(axis=1)
    cv = np.divide(count.std(axis=1), mean, out=np.zeros_like(mean), where=mean > 0)
    return np.asarray(cv, dtype=np.float32)


def effective_experts(tokens_LE: NDArray[np.generic]) -> Array:
    """exp(H[l]) of the load shares: E where balanced, 1 where one expert has all. (L,). Source:
    facts, health.md section 4, 8."""
    return np.exp(load_entropy_nats(tokens_LE))


def load_entropy_nats(tokens_LE: NDArray[np.generic]) -> Array:
    """H[l] = -sum_e f ln f of the load shares f, in nats; ln E is balanced, 0 is one expert.
    (L,)."""
    count = np.asarray(tokens_LE, dtype=np.float64)
    share = count / np.maximum(count.sum(axis=1, keepdims=True), 1.0)
    return np.asarray(
        -(share * np.log(np.where(share > 0, share, 1.0))).sum(axis=1), dtype=np.float32
    )


def leaders_share(tokens_LE: NDArray[np.generic]) -> Array:
    """Share of a layer's tokens that goes to its leaders. (L,); above 0.9 the layer is deadlocked.

    The leaders are as many of the busiest experts as would do all the work if each did as much as
    the very busiest: round(sum c / max c). Where the same K experts take every token they are just
    these K, without K being known, and their share is 1. Where the leaders are more than half of
    the experts the layer is balanced, and the share is 0; so it is without tokens.
    The measure is ours, for the rule of facts, health.md section 4, 10.
    """
    count = -np.sort(-np.asarray(tokens_LE, dtype=np.float64), axis=1)
    num_layers, num_experts = count.shape
    if not num_experts:
        return np.zeros(num_layers, dtype=np.float32)
    total = np.maximum(count.sum(axis=1), 1.0)
    num_leaders = np.rint(total / np.maximum(count[:, 0], 1.0)).astype(np.intp)
    is_few = (num_leaders <= num_experts // 2) & (count[:, 0] > 0)
    last = np.clip(num_leaders, 1, num_experts) - 1
    share = np.cumsum(count, axis=1)[np.arange(num_layers), last] / total
    return np.where(is_few, share, 0.0).astype(np.float32)
