"""All experts in one grouped product: one kernel where the device has one, as CUDA has for bf16."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..permutation.op import Order, by_expert, permute, sum_by_token
from .reference import Experts, activate

# T tokens  D width  E experts  G rows of w_in  N rows: a token and an expert that works on it


def grouped_experts(x_TD: Tensor, weight_N: Tensor, order: Order, experts: Experts) -> Tensor:
    """Computes the rows of all experts by grouped products and adds them up by token.

    weight_N: (N,) fp32 in the order of tokens. Returns (T, D) in x's dtype; weighting and sum run
    in fp32. Autograd differentiates it step by step.
    """
    h_NG = _linear(permute(x_TD, order), experts.w_in_EDG, experts.b_in_EG, order.end_E)
    y_ND = _linear(activate(h_NG, experts.form), experts.w_out_EHD, experts.b_out_ED, order.end_E)
    weighted_ND = y_ND.float() * by_expert(weight_N, order)[:, None]
    return sum_by_token(weighted_ND, order).to(x_TD.dtype)


def _linear(rows_ND: Tensor, w_EDG: Tensor, b_EG: Tensor | None, end_E: Tensor) -> Tensor:
    # every row belongs to an expert, so that end_E[-1] == N and no row of the product is left
    # unwritten
    out_NG = F.grouped_mm(rows_ND, w_EDG, offs=end_E)
    if b_EG is None:
        return out_NG
    row_N = torch.arange(len(rows_ND), device=end_E.device)
    return out_NG + b_EG[torch.searchsorted(end_E, row_N, right=True)]
