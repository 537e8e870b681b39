"""Laws of noise levels, as quantiles: a uniform number becomes a noise level, and strata of the one
become strata of the other.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..config import ObjectiveConfig, RunConfig

# Q any shape

LEAST_WEIGHED = 0.05
"""Noise levels below it weigh as if they were this: 1 / sigma^2 has no bound. A moescope choice."""


def noise_levels_of(uniform_Q: NDArray[np.float64], config: RunConfig) -> NDArray[np.float64]:
    """Returns the noise levels of numbers that are uniform in [0, 1): the quantiles of the
    configuration's law, shifted; they rise with the numbers."""
    return shifted(quantiles(uniform_Q, config.objective), config.noise_shift)


def quantiles(uniform_Q: NDArray[np.float64], objective: ObjectiveConfig) -> NDArray[np.float64]:
    """Returns the noise levels, before the shift, below which these shares of a law lie.

    uniform: u. logit_normal: sigmoid(mean + std * n), n the normal distribution's quantile of u.
    mode: u - scale * (sin^2(pi u / 2) - u), which for 1 - u is SD3's 1 - u - s (cos^2(pi u / 2) - 1
    + u). Source: facts: model.md section 6 (compute_density_for_timestep_sampling of diffusers).
    """
    if objective.timesteps == "logit_normal":
        normal_Q = torch.special.ndtri(torch.from_numpy(np.asarray(uniform_Q)))
        mean, std = objective.logit_mean, objective.logit_std
        return torch.sigmoid(mean + std * normal_Q).numpy()
    if objective.timesteps == "mode":
        excess_Q = np.sin(np.pi * uniform_Q / 2) ** 2 - uniform_Q
        return uniform_Q - objective.mode_scale * excess_Q
    return uniform_Q


def shifted(sigma: NDArray[np.float64], shift: float) -> NDArray[np.float64]:
    """Moves noise levels towards noise: shift * sigma / (1 + (shift - 1) * sigma); 1 changes
    nothing.

    A video shows the same thing in thousands of pixels, so that only strong noise hides it: with
    uniform levels nearly all steps are spent where the caption and the sound are not needed.
    Source: facts: model.md section 6 (SD3: 3, Wan 2.2: 5 to 12).
    """
    return shift * sigma / (1 + (shift - 1) * sigma)


def loss_weight(sigma_B: Tensor, objective: ObjectiveConfig) -> Tensor | None:
    """Returns the weight of each sample's loss at its noise level, fp32, or None where all weigh
    1.

    sigma_sqrt: max(sigma, LEAST_WEIGHED)^-2. cosmap: 2 / (pi (1 - 2 sigma + 2 sigma^2)). Source:
    facts: model.md section 6 (compute_loss_weighting_for_sd3 of diffusers).
    """
    if objective.loss_weight == "sigma_sqrt":
        return sigma_B.clamp_min(LEAST_WEIGHED) ** -2
    if objective.loss_weight == "cosmap":
        return 2 / (math.pi * (1 - 2 * sigma_B + 2 * sigma_B**2))
    return None
