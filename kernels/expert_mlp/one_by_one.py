"""Expert after expert, with a gradient of its own: for processors, where a grouped product is such
a loop, too.

What lies between an expert's products is read again while it is near; the hidden layer is computed
anew for the gradient instead of being kept; rows are overwritten by what becomes of them; gradients
are computed where they belong. So little large memory is asked for, which costs a processor time
page by page.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..permutation.op import Order, add_rows
from .activation import activate_backward
from .reference import Experts, Form, activate

# T tokens  D width  E experts  H hidden  G columns of w_in  N rows: a token and an expert
# n rows of one expert


def experts_one_by_one(x_TD: Tensor, weight_N: Tensor, order: Order, experts: Experts) -> Tensor:
    """Computes the rows of one expert after the other and adds them up by token.

    weight_N: (N,) in the order of tokens. Returns (T, D) in x's dtype. Products of bf16 and fp16
    run in fp32, for processors that are slow at anything else. Has a first derivative only.
    """
    weights = experts[:4]
    if torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in (x_TD, weight_N, *weights)
    ):
        out_TD: Tensor = _OneByOne.apply(x_TD, weight_N, *weights, experts.form, order)
        return out_TD
    return _forward(x_TD, weight_N, experts, order, None)[0]


class _OneByOne(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_TD: Tensor,
        weight_N: Tensor,
        w_in_EDG: Tensor,
        w_out_EHD: Tensor,
        b_in_EG: Tensor | None,
        b_out_ED: Tensor | None,
        form: Form,
        order: Order,
    ) -> Tensor:
        experts = Experts(w_in_EDG, w_out_EHD, b_in_EG, b_out_ED, form)
        h_NG = x_TD.new_empty(len(order.token_N), w_in_EDG.shape[2])
        out_TD, y_ND = _forward(x_TD, weight_N, experts, order, h_NG)
        ctx.save_for_backward(x_TD, weight_N, w_in_EDG, w_out_EHD, b_in_EG, b_out_ED, h_NG, y_ND)
        ctx.form, ctx.order = form, order
        return out_TD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TD: Tensor) -> tuple[Tensor | None, ...]:
        x_TD, weight_N, w_in_EDG, w_out_EHD, b_in_EG, b_out_ED, h_NG, y_ND = ctx.saved_tensors
        order, wide = ctx.order, y_ND.dtype
        d_w_in, d_w_out, d_b_in, d_b_out = (
            torch.empty_like(weight) if is_wanted else None
            for weight, is_wanted in zip(
                (w_in_EDG, w_out_EHD, b_in_EG, b_out_ED), ctx.needs_input_grad[2:6], strict=True
            )
        )
        d_y_ND = grad_TD.index_select(0, order.token_N).to(wide)
        d_weight_N = (d_y_ND * y_ND).sum(1).index_select(0, order.place_N)
        d_y_ND.mul_(weight_N.index_select(0, order.source_N)[:, None])
        d_x_ND = x_ND = x_TD.index_select(0, order.token_N).to(wide)
        sizes = _rows_of_experts(order)
        rows = zip(x_ND.split(sizes), d_y_ND.split(sizes), h_NG.split(sizes), strict=True)
        for expert, (x_nD, d_y_nD, h_nG) in enumerate(rows):
            d_hidden_nH = d_y_nD @ w_out_EHD[expert].to(wide).t()
            hidden_nH, d_h_nG = activate_backward(d_hidden_nH, h_nG.to(wide), ctx.form)
            if d_w_out is not None:
                _linear(hidden_nH.t(), d_y_nD, None, d_w_out[expert])
            if d_w_in is not None:
                _linear(x_nD.t(), d_h_nG, None, d_w_in[expert])
            if d_b_out is not None:
                d_b_out[expert] = d_y_nD.sum(0)
            if d_b_in is not None:
                d_b_in[expert] = d_h_nG.sum(0)
            # the rows' last use is over: their gradients take their place
            _linear(d_h_nG, w_in_EDG[expert].to(wide).t(), None, x_nD)
        d_x_TD = add_rows(d_x_ND, order).to(x_TD.dtype)
        return (d_x_TD, d_weight_N.to(weight_N.dtype), d_w_in, d_w_out, d_b_in, d_b_out, None, None)


def _forward(
    x_TD: Tensor, weight_N: Tensor, experts: Experts, order: Order, h_NG: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Returns the sums by token and the unweighted rows; fills h_NG, where it is given."""
    wide = torch.promote_types(x_TD.dtype, torch.float32)
    y_ND = x_ND = x_TD.index_select(0, order.token_N).to(wide)
    sizes = _rows_of_experts(order)
    kept = [None] * len(sizes) if h_NG is None else h_NG.split(sizes)
    for expert, (x_nD, h_nG) in enumerate(zip(x_ND.split(sizes), kept, strict=True)):
        w_in_DG, w_out_HD, b_in_G, b_out_D = (
            None if weight is None else weight[expert].to(wide) for weight in experts[:4]
        )
        if h_nG is None:
            h_nG = x_TD.new_empty(len(x_nD), w_in_DG.shape[1])
        _linear(x_nD, w_in_DG, b_in_G, h_nG)
        # the rows' last use is over: their answers take their place
        _linear(activate(h_nG.to(wide), experts.form), w_out_HD, b_out_D, x_nD)
    return add_rows(y_ND, order, weight_N.to(wide)).to(x_TD.dtype), y_ND


def _linear(a_XY: Tensor, b_YZ: Tensor, bias_Z: Tensor | None, out_XZ: Tensor) -> None:
    """out = a @ b + bias, rounded to out's dtype. A product without terms is zero."""
    if out_XZ.dtype is not a_XY.dtype:
        out_XZ.copy_(a_XY @ b_YZ if bias_Z is None else torch.addmm(bias_Z, a_XY, b_YZ))
    elif bias_Z is None:
        torch.mm(a_XY, b_YZ, out=out_XZ)
    else:
        torch.addmm(bias_Z, a_XY, b_YZ, out=out_XZ)


def _rows_of_experts(order: Order) -> list[int]:
    ends = order.end_E.tolist()
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]
