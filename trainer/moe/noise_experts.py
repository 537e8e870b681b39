"""How experts share the noise levels among themselves: boundaries, and the weight of each expert at
a level.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

# X experts by noise level, from the least noise on  J boundaries between them (X - 1)  B batch

Blend = Literal["linear", "smooth"]


def blend_weights(sigma_B: Tensor, tau_J: Tensor, transition: float, blend: Blend) -> Tensor:
    """Returns (X, B) fp32: the weight of each expert's answer at each noise level; a column sums to
    1.

    ramp_j = clamp((sigma - tau_j) / transition + 1/2, 0, 1), with blend smooth 3 r^2 - 2 r^3 of it;
    w_0 = 1 - ramp_0,  w_i = ramp_(i-1) - ramp_i,  w_last = ramp_(X-2)
    transition 0 is a hard switch: ramp_j = [sigma >= tau_j], so that a level at a boundary belongs
    to the expert of more noise. Else, dw/dtau is -1 / transition (linear) inside the zone tau +-
    transition / 2 and 0 outside. tau_J: ascending; zones may overlap, and three experts blend then.
    sigma_B, tau_J: fp32, on one device. Source: facts: model.md 3.5 (Wan's released code: the hard
    switch; the zone is moescope's choice).
    """
    from_tau_JB = sigma_B - tau_J[:, None]
    if transition:
        ramp_JB = (from_tau_JB * (1 / transition) + 0.5).clamp(0, 1)
        if blend == "smooth":
            ramp_JB = ramp_JB.square() * (3 - 2 * ramp_JB)
    else:
        ramp_JB = (from_tau_JB >= 0).float()
    edge_1B = torch.ones_like(ramp_JB[:1])
    above_XB = torch.cat([edge_1B, ramp_JB])
    return above_XB - torch.cat([ramp_JB, torch.zeros_like(edge_1B)])


def boundaries_of(theta_J: Tensor) -> Tensor:
    """Returns the boundaries (J,), ascending, that the parameters of learned ones stand for.

    tau = sort(sigmoid(theta)). Each parameter is moved only by the samples around its own boundary:
    an order that ties one to the next would pass gradients on, and AdamW makes of a small one as
    large a step as of any. Where two would cross they change places, and the expert between them
    has nothing for that moment; whatever the parameters are, weights stay within 0 and 1 and no
    gradient is NaN. With one boundary it is the sigmoid of facts: model.md 3.5; the order of
    several is moescope's choice.
    """
    return torch.sort(torch.sigmoid(theta_J), stable=True).values


def theta_of(boundaries: Sequence[float]) -> Tensor:
    """Returns the parameters (J,) fp32 from which `boundaries_of` gives these boundaries, which
    ascend between 0 and 1: ln(tau / (1 - tau))."""
    return torch.tensor([math.log(tau / (1 - tau)) for tau in boundaries], dtype=torch.float32)


class Shares(NamedTuple):
    """How a step was shared out; fp32, on the weights' device."""

    share_X: Tensor
    """Mean weight of each expert; sums to 1."""
    loss_X: Tensor
    """Mean loss of each expert's samples, weighted as its answers were; NaN where it had none."""
    blended: Tensor
    """Scalar: share of the samples that more than one expert answered for."""


def shares(weight_XB: Tensor, loss_B: Tensor) -> Shares:
    """loss_x = sum_b w_xb loss_b / sum_b w_xb, over the samples with w_xb > 0.

    weight_XB: of `blend_weights`. loss_B: (B,) fp32; what is not finite reaches only the experts
    that answered for it.
    """
    is_in_XB = weight_XB > 0
    # selected, not multiplied: a NaN is nobody's but its sample's
    lost_XB = torch.where(is_in_XB, weight_XB * loss_B, torch.zeros_like(weight_XB))
    return Shares(
        weight_XB.mean(1),
        lost_XB.sum(1) / weight_XB.sum(1),
        (is_in_XB.sum(0) > 1).float().mean(),
    )


def lower_edges(tau_J: Tensor) -> Tensor:
    """Returns (X,): the noise level from which on each expert is in charge; 0 for the first."""
    return torch.cat([torch.zeros_like(tau_J[:1]), tau_J])
