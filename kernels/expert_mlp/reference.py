"""The definition of the routed experts, as a loop over them."""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..routing.reference import ExpertChoice, Routing

# T tokens  D width  E experts  K chosen experts  H hidden  G rows of w_in: 2*H if gated, else H
# N rows: a token and an expert that picked it  n rows of one expert

Form = Literal["swiglu", "silu", "gelu", "gelu_exact", "swiglu7", "gelu7"]
"""swiglu: silu(gate) * up with [gate | up] = x W_in. silu, gelu (tanh), gelu_exact (erf): of x W_in
itself. swiglu7, gelu7: with s(x) = x * sigmoid(1.702 x) for silu and gelu, and with a bound b on
what goes in: s(min(gate, b)) * (clip(up, -b, b) + 1), and s(min(x, b))."""
BOUND = 7.0
"""Source: facts: model.md section 8 (MAGI, the rule of GPT-OSS)."""
SHARPNESS = 1.702


class Experts(NamedTuple):
    """The stacked weights of all experts; all of one dtype."""

    w_in_EDG: Tensor
    """(E, D, G): G = 2H for swiglu, gate before up; otherwise H."""
    w_out_EHD: Tensor
    """(E, H, D)."""
    b_in_EG: Tensor | None = None
    """(E, G), added to x W_in."""
    b_out_ED: Tensor | None = None
    """(E, D), added to the answer before it is weighted."""
    form: Form = "swiglu"
    bound: float = BOUND
    """Of swiglu7 and gelu7."""
    clamped_2: Tensor | None = None
    """(2,) fp32: where it is given, the numbers of bounded and of all pre-activations are added."""


def expert_mlp_reference(x_TD: Tensor, routing: Routing, experts: Experts) -> Tensor:
    """Adds up the answers of each token's chosen experts, weighted by the router.

    out[t] = sum_k weight[t, k] * f_chosen[t, k](x[t])
    f_e(x) = activate(x @ w_in[e] + b_in[e]) @ w_out[e] + b_out[e]
    x_TD: (T, D). routing.weight_TK: (T, K) fp32. Returns (T, D) in x's dtype; weighting and sum run
    in fp32, or fp64 if x is fp64. Source: facts: model.md 1.1 (SwiGLU: arXiv 2002.05202), 1.2 (with
    biases), section 2 (GELU).
    """
    out_TD = torch.zeros_like(x_TD, dtype=torch.promote_types(x_TD.dtype, torch.float32))
    for expert in range(len(experts.w_in_EDG)):
        token_n, k_n = torch.where(routing.chosen_TK == expert)
        y_nD = answer(x_TD[token_n], experts, expert)
        weight_n = routing.weight_TK[token_n, k_n].to(out_TD.dtype)
        out_TD = out_TD.index_add(0, token_n, y_nD.to(out_TD.dtype) * weight_n[:, None])
    return out_TD.to(x_TD.dtype)


def expert_mlp_chosen_reference(x_TD: Tensor, choice: ExpertChoice, experts: Experts) -> Tensor:
    """Adds up, for each token, the answers of the experts that picked it, weighted by their scores.

    out[t] = sum of weight[n] * f_e(x[t]) over the rows n with token[n] = t, e being row n's expert
    Shapes, dtypes and f_e as in `expert_mlp_reference`; a token that nobody picked gets zeros.
    Source: arXiv 2202.09368 (expert choice), facts: model.md 3.7.
    """
    out_TD = torch.zeros_like(x_TD, dtype=torch.promote_types(x_TD.dtype, torch.float32))
    start = 0
    for expert, num_rows in enumerate(choice.counts_E.tolist()):
        token_n = choice.token_N[start : start + num_rows]
        weight_n = choice.weight_N[start : start + num_rows].to(out_TD.dtype)
        y_nD = answer(x_TD[token_n], experts, expert)
        out_TD = out_TD.index_add(0, token_n, y_nD.to(out_TD.dtype) * weight_n[:, None])
        start += num_rows
    return out_TD.to(x_TD.dtype)


def answer(x_nD: Tensor, experts: Experts, expert: int) -> Tensor:
    """Returns what one expert says to the tokens x_nD, unweighted: f_e(x), (n, D)."""
    h_nG = x_nD @ experts.w_in_EDG[expert]
    if experts.b_in_EG is not None:
        h_nG = h_nG + experts.b_in_EG[expert]
    if experts.clamped_2 is not None:
        count_clamped(h_nG, experts.form, experts.bound, experts.clamped_2)
    y_nD = activate(h_nG, experts.form, experts.bound) @ experts.w_out_EHD[expert]
    return y_nD if experts.b_out_ED is None else y_nD + experts.b_out_ED[expert]


def is_gated(form: Form) -> bool:
    """Whether pre-activations are a gate and what it gates, side by side."""
    return form in ("swiglu", "swiglu7")


def activate(h_nG: Tensor, form: Form, bound: float = BOUND) -> Tensor:
    """Returns the hidden layer (..., H) from its pre-activations (..., G). The bounded forms are
    computed in fp32 at least."""
    match form:
        case "swiglu":
            gate_nH, up_nH = h_nG.chunk(2, dim=-1)
            return F.silu(gate_nH) * up_nH
        case "silu":
            return F.silu(h_nG)
        case "gelu":
            return F.gelu(h_nG, approximate="tanh")
        case "gelu_exact":
            return F.gelu(h_nG)
        case "swiglu7":
            gate_nH, up_nH = _wide(h_nG).chunk(2, dim=-1)
            up_nH = up_nH.clamp(-bound, bound)
            return (_steep(gate_nH.clamp(max=bound)) * (up_nH + 1)).to(h_nG.dtype)
        case "gelu7":
            return _steep(_wide(h_nG).clamp(max=bound)).to(h_nG.dtype)


@torch.no_grad()
def count_clamped(h_nG: Tensor, form: Form, bound: float, clamped_2: Tensor) -> None:
    """Adds the numbers of pre-activations beyond the bound, and of all, to clamped_2."""
    if is_gated(form):
        gate_nH, up_nH = h_nG.chunk(2, dim=-1)
        num_over = (gate_nH > bound).sum() + (up_nH.abs() > bound).sum()
    else:
        num_over = (h_nG > bound).sum()
    clamped_2[0] += num_over
    clamped_2[1] += h_nG.numel()


def _wide(h_nG: Tensor) -> Tensor:
    return h_nG.to(torch.promote_types(h_nG.dtype, torch.float32))


def _steep(x: Tensor) -> Tensor:
    return x * torch.sigmoid(SHARPNESS * x)
