"""The routed experts: rows sorted by expert, then one grouped product for all of them."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..choice import Path
from ..permutation.op import expert_order, permute, unpermute
from ..routing.reference import Routing
from .reference import Experts, activate, expert_mlp_reference

# T tokens  D width  E experts  K chosen experts  H hidden  G rows of w_in  N rows (T*K)


def expert_mlp(x_TD: Tensor, routing: Routing, experts: Experts, path: Path) -> Tensor:
    """Does what `reference.expert_mlp_reference` defines, by the path that
    `choice.choose_expert_path` chose.

    x_TD and the experts' weights: one dtype. Returns (T, D) in it. No tokens, and experts without
    tokens, are fine.
    """
    if path == "reference":
        return expert_mlp_reference(x_TD, routing, experts)
    order = expert_order(routing.chosen_TK, routing.counts_E)
    expert_N = routing.chosen_TK.reshape(-1)[order.source_N]
    h_NG = F.grouped_mm(permute(x_TD, order), experts.w_in_EDG, offs=order.end_E)
    if experts.b_in_EG is not None:
        h_NG = h_NG + experts.b_in_EG[expert_N]
    # every row belongs to an expert, so that end_E[-1] == N and no row of the products is left
    # unwritten
    y_ND = F.grouped_mm(activate(h_NG, experts.form), experts.w_out_EHD, offs=order.end_E)
    if experts.b_out_ED is not None:
        y_ND = y_ND + experts.b_out_ED[expert_N]
    y_TKD = unpermute(y_ND, order, routing.chosen_TK.shape[1])
    return combine(y_TKD, routing.weight_TK)


def combine(y_TKD: Tensor, weight_TK: Tensor) -> Tensor:
    """Adds up the answers of each token's chosen experts: out[t] = sum_k weight[t, k] * y[t, k].

    y_TKD: (T, K, D). weight_TK: (T, K) fp32. Returns (T, D) in y's dtype; the sum runs in fp32.
    """
    dtype = torch.promote_types(y_TKD.dtype, torch.float32)
    return (y_TKD.to(dtype) * weight_TK[..., None]).sum(1).to(y_TKD.dtype)
