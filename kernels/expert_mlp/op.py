"""The routed experts: rows sorted by expert, then one grouped product for all of them."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..choice import Path
from ..permutation.op import expert_order, permute, unpermute
from ..routing.reference import Routing
from .reference import expert_mlp_reference

# T tokens  D width  E experts  K chosen experts  H hidden  G 2*H  N rows (T*K)


def expert_mlp(
    x_TD: Tensor, routing: Routing, w_in_EDG: Tensor, w_out_EHD: Tensor, path: Path
) -> Tensor:
    """Does what `reference.expert_mlp_reference` defines, by the path that
    `choice.choose_expert_path` chose.

    x_TD, w_in_EDG, w_out_EHD: one dtype. Returns (T, D) in it. No tokens, and experts without
    tokens, are fine.
    """
    if path == "reference":
        return expert_mlp_reference(x_TD, routing.chosen_TK, routing.weight_TK, w_in_EDG, w_out_EHD)
    order = expert_order(routing.chosen_TK, routing.counts_E)
    rows_ND = permute(x_TD, order)
    gate_NH, up_NH = F.grouped_mm(rows_ND, w_in_EDG, offs=order.end_E).chunk(2, dim=-1)
    # every row belongs to an expert, so that end_E[-1] == N and no row of the products is left
    # unwritten
    y_ND = F.grouped_mm(F.silu(gate_NH) * up_NH, w_out_EHD, offs=order.end_E)
    y_TKD = unpermute(y_ND, order, routing.chosen_TK.shape[1])
    return combine(y_TKD, routing.weight_TK)


def combine(y_TKD: Tensor, weight_TK: Tensor) -> Tensor:
    """Adds up the answers of each token's chosen experts: out[t] = sum_k weight[t, k] * y[t, k].

    y_TKD: (T, K, D). weight_TK: (T, K) fp32. Returns (T, D) in y's dtype; the sum runs in fp32.
    """
    dtype = torch.promote_types(y_TKD.dtype, torch.float32)
    return (y_TKD.to(dtype) * weight_TK[..., None]).sum(1).to(y_TKD.dtype)
