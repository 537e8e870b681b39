"""Sigmoid routing for all tokens at once."""

import torch
from torch import Tensor

from .reference import Routing

# T tokens  E experts  K chosen experts


def route(logit_TE: Tensor, bias_E: Tensor, num_chosen: int, scale: float) -> Routing:
    """Does what `reference.route_reference` defines, without leaving the device.

    Raises TypeError unless logits and bias are fp32: in bf16 close experts round to a tie, and
    the choice is an accident. Ties are broken as torch.topk does.
    """
    if logit_TE.dtype is not torch.float32 or bias_E.dtype is not torch.float32:
        raise TypeError(f"routing is done in float32, not {logit_TE.dtype} with {bias_E.dtype}")
    score_TE = torch.sigmoid(logit_TE)
    chosen_TK = torch.topk(score_TE.detach() + bias_E, num_chosen, dim=1).indices
    score_TK = score_TE.gather(1, chosen_TK)
    weight_TK = scale * score_TK / (score_TK.sum(1, keepdim=True) + 1e-20)
    return Routing(chosen_TK, weight_TK, score_TE, count(chosen_TK, logit_TE.shape[1]))


def count(chosen_TK: Tensor, num_experts: int) -> Tensor:
    """Counts the tokens sent to each expert. chosen_TK: (T, K) int64. Returns (E,) int64 on the
    same device.

    Integer scatter instead of bincount, which waits for the device to learn the largest value.
    """
    flat_N = chosen_TK.reshape(-1)
    zeros_E = torch.zeros(num_experts, dtype=torch.int64, device=chosen_TK.device)
    return zeros_E.scatter_add_(0, flat_N, torch.ones_like(flat_N))
