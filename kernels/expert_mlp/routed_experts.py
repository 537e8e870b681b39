"""The routed experts with a gradient of their own, which keeps little and copies little.

Of each row the hidden layer, its slope and the answer are kept. Left to autograd, the sorted token,
both halves of the pre-activations, their product's parts and the weighted answer would be.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..permutation.op import Order, add_rows, sum_by_expert
from .activation import activate_with_slope, slope_times
from .products import Products
from .reference import Experts, count_clamped

# T tokens  D width  E experts  H hidden  G columns of w_in  N rows: a token and an expert


def routed_experts(
    x_TD: Tensor, weight_N: Tensor, order: Order, experts: Experts, products: Products
) -> Tensor:
    """Computes the rows of all experts, weighs them and adds them up by token.

    weight_N: (N,), in the order of tokens. Returns (T, D) in x's dtype; weighting and sum run in
    fp32 at least. Has a first derivative only.
    """
    out_TD: Tensor = _RoutedExperts.apply(
        x_TD, weight_N, *experts[:4], experts, order, products, torch.is_grad_enabled()
    )
    return out_TD


class _RoutedExperts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_TD: Tensor,
        weight_N: Tensor,
        w_in_EDG: Tensor,
        w_out_EHD: Tensor,
        b_in_EG: Tensor | None,
        b_out_ED: Tensor | None,
        experts: Experts,
        order: Order,
        products: Products,
        needs_slope: bool,
    ) -> Tensor:
        h_NG = products.of_rows(x_TD.index_select(0, order.token_N), w_in_EDG)
        if b_in_EG is not None:
            h_NG += _of_rows(b_in_EG, order)
        if experts.clamped_2 is not None:
            count_clamped(h_NG, experts.form, experts.bound, experts.clamped_2)
        hidden_NH, slope_NG = activate_with_slope(h_NG, experts.form, needs_slope, experts.bound)
        y_ND = products.of_rows(hidden_NH, w_out_EHD)
        if b_out_ED is not None:
            y_ND += _of_rows(b_out_ED, order)
        ctx.save_for_backward(x_TD, weight_N, w_in_EDG, w_out_EHD, hidden_NH, slope_NG, y_ND)
        ctx.order, ctx.products = order, products
        wide = torch.promote_types(x_TD.dtype, torch.float32)
        return add_rows(y_ND.to(wide), order, weight_N.to(wide)).to(x_TD.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TD: Tensor) -> tuple[Tensor | None, ...]:
        x_TD, weight_N, w_in_EDG, w_out_EHD, hidden_NH, slope_NG, y_ND = ctx.saved_tensors
        order, products = ctx.order, ctx.products
        wants_x, _, wants_w_in, wants_w_out, wants_b_in, wants_b_out, *_ = ctx.needs_input_grad
        wide = torch.promote_types(x_TD.dtype, torch.float32)
        d_weighted_ND = grad_TD.index_select(0, order.token_N).to(wide)
        d_weight_N = (d_weighted_ND * y_ND).sum(1).index_select(0, order.place_N)
        d_y_ND = d_weighted_ND.mul_(weight_N.index_select(0, order.source_N)[:, None])
        d_y_ND = d_y_ND.to(y_ND.dtype)
        d_hidden_NH = products.of_rows(d_y_ND, w_out_EHD.transpose(1, 2))
        # the largest tensor of all; autograd drops it after this call unless it keeps the graph
        d_h_NG = slope_times(slope_NG, d_hidden_NH, may_overwrite=not _keeps_graph())
        d_w_in_EDG = d_w_out_EHD = d_x_TD = None
        if wants_w_out:
            d_w_out_EHD = products.of_weights(hidden_NH, d_y_ND)
        if wants_w_in:
            x_ND = x_TD.index_select(0, order.token_N)
            d_w_in_EDG = products.of_weights(x_ND, d_h_NG)
        if wants_x:
            d_x_ND = products.of_rows(d_h_NG, w_in_EDG.transpose(1, 2))
            d_x_TD = add_rows(d_x_ND, order)
        return (
            d_x_TD,
            d_weight_N.to(weight_N.dtype),
            d_w_in_EDG,
            d_w_out_EHD,
            sum_by_expert(d_h_NG, order) if wants_b_in else None,
            sum_by_expert(d_y_ND, order) if wants_b_out else None,
            *(None, None, None, None),
        )


def _keeps_graph() -> bool:
    """Whether the backward pass that runs may be asked for again (`retain_graph`)."""
    return bool(torch._C._autograd._get_current_graph_task_keep_graph())


def _of_rows(b_EG: Tensor, order: Order) -> Tensor:
    """The bias of each row's expert, (N, G), without waiting for the device."""
    rows_E = order.end_E.diff(prepend=order.end_E.new_zeros(1))
    return b_EG.repeat_interleave(rows_E, 0, output_size=len(order.token_N))
