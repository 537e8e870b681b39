"""The flow of a network that answers with the clean clip (x-prediction with v-loss)."""

import torch
from torch import Tensor

# B batch  ... the shape of the data

LEAST_SIGMA = 0.05
"""Noise levels below it divide as if they were this, on both sides of the loss. Source: facts:
model.md section 6 (JiT: max(1 - t, 0.05))."""


def flow_of_data(noisy: Tensor, data: Tensor, sigma_B: Tensor) -> Tensor:
    """Returns (noisy - data) / max(sigma, LEAST_SIGMA), the flow that leads from noisy to data; as
    noisy = (1 - sigma) data + sigma noise, that is noise - data from LEAST_SIGMA on.
    """
    return (noisy - data) / _wide(sigma_B.clamp_min(LEAST_SIGMA), noisy)


def flow_target(noise: Tensor, data: Tensor, sigma_B: Tensor) -> Tensor:
    """Returns the flow that `flow_of_data` gives for the true data: (noise - data) * sigma /
    max(sigma, LEAST_SIGMA)."""
    return (noise - data) * _wide(sigma_B / sigma_B.clamp_min(LEAST_SIGMA), noise)


def _wide(values_B: Tensor, like: Tensor) -> Tensor:
    return torch.reshape(values_B, (-1, *[1] * (like.dim() - 1)))
