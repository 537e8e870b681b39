"""The gradient of the hidden layer, where no automatic differentiation runs."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .reference import Form, activate

# H hidden  G rows of w_in: 2*H if gated, else H  n rows


def activate_backward(d_nH: Tensor, h_nG: Tensor, form: Form) -> tuple[Tensor, Tensor]:
    """Returns the hidden layer (n, H), computed anew, and the gradient of its pre-activations.

    hidden = activate(h);  d_h = d * d activate(h) / d h
    d_nH: gradient of the hidden layer. h_nG: pre-activations. Both of one dtype. For swiglu
    d_gate = d * up * silu'(gate) and d_up = d * silu(gate).
    """
    aten = torch.ops.aten
    match form:
        case "swiglu":
            gate_nH, up_nH = h_nG.chunk(2, dim=-1)
            silu_nH = F.silu(gate_nH)
            d_h_nG = torch.empty_like(h_nG)
            d_gate_nH, d_up_nH = d_h_nG.chunk(2, dim=-1)
            torch.mul(d_nH, silu_nH, out=d_up_nH)
            aten.silu_backward.grad_input(d_nH * up_nH, gate_nH, grad_input=d_gate_nH)
            return silu_nH.mul_(up_nH), d_h_nG
        case "silu":
            return activate(h_nG, form), aten.silu_backward(d_nH, h_nG)
        case "gelu":
            return activate(h_nG, form), aten.gelu_backward(d_nH, h_nG, approximate="tanh")
        case "gelu_exact":
            return activate(h_nG, form), aten.gelu_backward(d_nH, h_nG)
