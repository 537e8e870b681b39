"""The gradient of the hidden layer, where no automatic differentiation runs."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .reference import Form, activate

# H hidden  G columns of w_in: 2*H if gated, else H  N rows


def activate_backward(d_NH: Tensor, h_NG: Tensor, form: Form) -> tuple[Tensor, Tensor]:
    """Returns the hidden layer (N, H), computed anew, and the gradient of its pre-activations.

    hidden = activate(h);  d_h = d * d activate(h) / d h
    d_NH: gradient of the hidden layer. h_NG: pre-activations. Both of one dtype. For swiglu
    d_gate = d * up * silu'(gate) and d_up = d * silu(gate).
    """
    aten = torch.ops.aten
    match form:
        case "swiglu":
            gate_NH, up_NH = h_NG.chunk(2, dim=-1)
            d_h_NG = torch.empty_like(h_NG)
            # written where they belong: to join two halves would be another copy
            d_gate_NH, d_up_NH = d_h_NG.chunk(2, dim=-1)
            silu_NH = F.silu(gate_NH)
            torch.mul(d_NH, silu_NH, out=d_up_NH)
            aten.silu_backward.grad_input(d_NH * up_NH, gate_NH, grad_input=d_gate_NH)
            return silu_NH.mul_(up_NH), d_h_NG
        case "silu":
            return activate(h_NG, form), aten.silu_backward(d_NH, h_NG)
        case "gelu":
            return activate(h_NG, form), aten.gelu_backward(d_NH, h_NG, approximate="tanh")
        case "gelu_exact":
            return activate(h_NG, form), aten.gelu_backward(d_NH, h_NG)
