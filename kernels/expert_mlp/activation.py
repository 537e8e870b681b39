"""The hidden layer together with its slope, so that the gradient is one multiplication."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .reference import BOUND, SHARPNESS, Form, is_gated

# H hidden  G columns of w_in: 2*H if gated, else H  N rows  n rows of one block

BLOCK_ELEMENTS = {"cpu": 2**18, "cuda": 2**24}
"""Pre-activations worked on at once: on a processor as many as its cache holds (1 MiB in fp32), on
CUDA enough for a kernel to be worth its start, while what is between stays small."""


def activate_with_slope(
    h_NG: Tensor, form: Form, wants_slope: bool, bound: float = BOUND
) -> tuple[Tensor, Tensor | None]:
    """Returns the hidden layer (N, H) and, where it is wanted, its slope (N, G), which takes the
    place of h in memory.

    hidden = activate(h);  slope = d hidden / d h, so that d_h = slope * d_hidden
    For swiglu slope = [up * silu'(gate) | silu(gate)], with silu' = silu + sigmoid * (1 - silu).
    Half precision is computed in fp32 and rounded once. The hidden layer's bits are the same with
    and without slope.
    """
    gates = 2 if is_gated(form) else 1
    hidden_NH = h_NG.new_empty(len(h_NG), h_NG.shape[1] // gates)
    rows = max(1, BLOCK_ELEMENTS.get(h_NG.device.type, 2**18) // h_NG.shape[1])
    for h_nG, hidden_nH in zip(h_NG.split(rows), hidden_NH.split(rows), strict=True):
        _activate_block(h_nG, hidden_nH, form, wants_slope, bound)
    return hidden_NH, h_NG if wants_slope else None


def slope_times(slope_NG: Tensor, d_hidden_NH: Tensor, may_overwrite: bool) -> Tensor:
    """Returns d_h (N, G): where there are gates, both halves are multiplied by the same d.

    may_overwrite: the result may take the place of the slope in memory.
    """
    slopes_NgH = slope_NG.unflatten(1, (-1, d_hidden_NH.shape[1]))
    out_NgH = slopes_NgH if may_overwrite else torch.empty_like(slopes_NgH)
    torch.mul(slopes_NgH, d_hidden_NH[:, None], out=out_NgH)
    return out_NgH.flatten(1)


def _activate_block(
    h_nG: Tensor, hidden_nH: Tensor, form: Form, wants_slope: bool, bound: float
) -> None:
    """Writes the hidden layer of h_nG, then overwrites h_nG with its slope."""
    wide_nG = h_nG.to(torch.promote_types(h_nG.dtype, torch.float32))
    match form:
        case "swiglu":
            gate_nH, up_nH = wide_nG.chunk(2, dim=-1)
            sigmoid_nH = torch.sigmoid(gate_nH)
            silu_nH = gate_nH * sigmoid_nH
            torch.mul(silu_nH, up_nH, out=hidden_nH)
            if wants_slope:
                gate_slope_nH, up_slope_nH = h_nG.chunk(2, dim=-1)
                torch.mul(_slope_of_silu(silu_nH, sigmoid_nH), up_nH, out=gate_slope_nH)
                up_slope_nH.copy_(silu_nH)
        case "silu":
            sigmoid_nH = torch.sigmoid(wide_nG)
            silu_nH = wide_nG * sigmoid_nH
            hidden_nH.copy_(silu_nH)
            if wants_slope:
                h_nG.copy_(_slope_of_silu(silu_nH, sigmoid_nH))
        case "gelu" | "gelu_exact":
            approximate = "tanh" if form == "gelu" else "none"
            hidden_nH.copy_(F.gelu(wide_nG, approximate=approximate))
            if wants_slope:
                one_nG = torch.ones_like(wide_nG)
                h_nG.copy_(torch.ops.aten.gelu_backward(one_nG, wide_nG, approximate=approximate))
        case "swiglu7" | "gelu7":
            _bounded_block(wide_nG, h_nG, hidden_nH, form, wants_slope, bound)


def _bounded_block(
    wide_nG: Tensor, h_nG: Tensor, hidden_nH: Tensor, form: Form, wants_slope: bool, bound: float
) -> None:
    """The same for the forms with a bound, beyond which the slope is 0."""
    is_pair = is_gated(form)
    gate_nH, up_nH = wide_nG.chunk(2, dim=-1) if is_pair else (wide_nG, None)
    held_nH = gate_nH.clamp(max=bound)
    sigmoid_nH = torch.sigmoid(SHARPNESS * held_nH)
    steep_nH = held_nH * sigmoid_nH
    times_nH = None if up_nH is None else up_nH.clamp(-bound, bound) + 1
    hidden_nH.copy_(steep_nH if times_nH is None else steep_nH * times_nH)
    if not wants_slope:
        return
    slope_nH = sigmoid_nH + SHARPNESS * steep_nH * (1 - sigmoid_nH)
    slope_nH = slope_nH.masked_fill_(gate_nH > bound, 0.0)
    if up_nH is None or times_nH is None:
        h_nG.copy_(slope_nH)
        return
    up_slope_nH = steep_nH.masked_fill(up_nH.abs() > bound, 0.0)
    h_nG.copy_(torch.cat([slope_nH * times_nH, up_slope_nH], dim=-1))


def _slope_of_silu(silu_nH: Tensor, sigmoid_nH: Tensor) -> Tensor:
    """silu + sigmoid * (1 - silu), in the memory of the sigmoid."""
    return torch.lerp(silu_nH, silu_nH.new_ones(()), sigmoid_nH, out=sigmoid_nH)
