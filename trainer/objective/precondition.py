"""What is known of the flow without learning: the network only answers for the rest."""

import torch
from torch import Tensor

# B batch

VIDEO_STD = 0.6
"""Root mean square of pixels in [-1, 1]: that of a uniform spread, 1 / sqrt(3), rounded up."""
MEL_STD = 1.0
"""Mels come at about unit scale (data/mel.py)."""


def linear_part(sigma_B: Tensor, data_std: float) -> tuple[Tensor, Tensor]:
    """Returns (skip_B, scale_B): the flow is predicted as skip * noisy + scale * network(noisy).

    For data of mean 0 and standard deviation s, z = (1 - sigma) x + sigma eps, and the flow v = eps - x:
    skip = cov(v, z) / var(z) = (sigma - (1 - sigma) s^2) / q,  q = sigma^2 + (1 - sigma)^2 s^2;
    scale = sqrt(var(v - skip z)) = s / sqrt(q). So the network's target has unit scale at every noise level, and a
    network that answers zero is the best linear prediction. Source: the derivation of EDM's preconditioning
    (arXiv 2206.00364, appendix B.6) for the flow.
    """
    s2 = data_std**2
    q_B = sigma_B.square() + (1 - sigma_B).square() * s2
    return (sigma_B - (1 - sigma_B) * s2) / q_B, data_std * torch.rsqrt(q_B)
