"""The definition of the routed experts, as a loop over them."""

import torch
import torch.nn.functional as F
from torch import Tensor

# T tokens  D width  E experts  K chosen experts  H hidden


def expert_mlp_reference(
    x_TD: Tensor, chosen_TK: Tensor, weight_TK: Tensor, w_in_EDG: Tensor, w_out_EHD: Tensor
) -> Tensor:
    """Adds up the answers of each token's chosen SwiGLU experts, weighted by the router.

    out[t] = sum_k weight[t, k] * f_chosen[t, k](x[t]),  f_e(x) = (silu(gate) * up) @ w_out[e],
    [gate | up] = x @ w_in[e] x_TD: (T, D). w_in_EDG: (E, D, G = 2H). w_out_EHD: (E, H, D).
    weight_TK: (T, K) fp32. Returns (T, D) in x's dtype; weighting and sum run in fp32, or fp64 if
    x is fp64. Source: arXiv 2002.05202 (SwiGLU), facts: model.md 1.1.
    """
    out_TD = torch.zeros_like(x_TD, dtype=torch.promote_types(x_TD.dtype, torch.float32))
    experts = zip(w_in_EDG.unbind(0), w_out_EHD.unbind(0), strict=True)
    for expert, (w_in_DG, w_out_HD) in enumerate(experts):
        token_n, k_n = torch.where(chosen_TK == expert)
        gate_nH, up_nH = (x_TD[token_n] @ w_in_DG).chunk(2, dim=-1)
        y_nD = (F.silu(gate_nH) * up_nH) @ w_out_HD
        weighted_nD = y_nD.to(out_TD.dtype) * weight_TK[token_n, k_n].to(out_TD.dtype)[:, None]
        out_TD = out_TD.index_add(0, token_n, weighted_nD)
    return out_TD.to(x_TD.dtype)
