"""Statistics of activations and routers as device tensors: pure, no host sync, few passes.

B batch  S stream tokens  D width  T tokens (B*S)  E experts
"""

import torch
from torch import Tensor

MOST_ROUTER_TOKENS = 4096
"""Tokens whose router entropy is averaged: its standard error is below 1% of ln E then, at a fixed
cost."""


def rms_and_absmax(x: Tensor) -> Tensor:
    """Returns (2,): root mean square and largest magnitude of all elements, fp32, in two passes
    over x and no copy.

    rms = ||x||_2 / sqrt(n), absmax = ||x||_inf. Exact, never subsampled: an outlier is what is
    looked for.
    """
    flat = x.detach()
    rms = torch.linalg.vector_norm(flat, dtype=torch.float32) * flat.numel() ** -0.5
    if flat.is_floating_point() and flat.device.type == "cpu":
        # aminmax reads once; vector_norm(inf) takes several times as long on a CPU
        low, high = torch.aminmax(flat)
        return torch.stack((rms, torch.maximum(high, -low).float()))
    return torch.stack((rms, torch.linalg.vector_norm(flat, ord=torch.inf).float()))


def router_entropy_nats(score_TE: Tensor) -> Tensor:
    """Mean over tokens of the entropy of the normalised scores, 0-d fp32, in nats.

    p = s / sum_e s;  H_t = -sum_e p ln p = ln(sum_e s) - sum_e s ln s / sum_e s. Scores are >= 0
    (sigmoid or softmax). Of more than MOST_ROUTER_TOKENS tokens an evenly spaced part is read.
    Source: facts, health.md section 4, 8.
    """
    stride = max(1, score_TE.shape[0] // MOST_ROUTER_TOKENS)
    score = score_TE.detach()[::stride].float()
    total_T = score.sum(dim=-1).clamp_min(1e-30)
    entropy_T: Tensor = total_T.log() - torch.special.xlogy(score, score).sum(dim=-1) / total_T
    return entropy_T.mean()
