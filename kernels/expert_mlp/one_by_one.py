"""Expert after expert, in pieces of rows that stay in a processor's cache, with its own gradient.

For processors: products of a few hundred rows are as fast as larger ones there, and what lies
between two products is read again while it is still near. What is large is written once, where it
belongs; the hidden layer is computed anew for the gradient instead of being kept.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..permutation.op import Order, add_rows
from .activation import activate_backward
from .reference import Experts, Form, activate

# T tokens  D width  E experts  H hidden  G rows of w_in  N rows: a token and an expert
# n rows of one piece

ROWS_OF_A_PIECE = 512


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
        ctx.save_for_backward(x_TD, weight_N, *experts[:4], h_NG, y_ND)
        ctx.form, ctx.order = form, order
        return out_TD

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad_TD: Tensor) -> tuple[Tensor | None, ...]:
        x_TD, weight_N, *weights, h_NG, y_ND = ctx.saved_tensors
        experts, order = Experts(*weights, ctx.form), ctx.order
        wide = y_ND.dtype
        d_w_in, d_w_out, d_b_in, d_b_out = (
            torch.empty_like(tensor) if is_wanted else None
            for tensor, is_wanted in zip(weights, ctx.needs_input_grad[2:6], strict=True)
        )
        d_x_ND = torch.empty_like(y_ND)
        d_weight_N = y_ND.new_empty(len(y_ND))
        weight_N = weight_N.index_select(0, order.source_N)
        for expert, pieces in _pieces(order):
            w_in_DG, w_out_HD = (w[expert].to(wide) for w in experts[:2])
            d_w_in_DG = _Sum(d_w_in, expert, wide)
            d_w_out_HD = _Sum(d_w_out, expert, wide)
            d_b_in_G, d_b_out_D = _Sum(d_b_in, expert, wide), _Sum(d_b_out, expert, wide)
            for rows in pieces:
                token_n = order.token_N[rows]
                d_y_nD = grad_TD.index_select(0, token_n).to(wide)
                torch.sum(d_y_nD * y_ND[rows], 1, out=d_weight_N[rows])
                d_y_nD *= weight_N[rows, None]
                hidden_nH, d_h_nG = activate_backward(
                    d_y_nD @ w_out_HD.t(), h_NG[rows].to(wide), experts.form
                )
                torch.mm(d_h_nG, w_in_DG.t(), out=d_x_ND[rows])
                d_w_out_HD.add_product(hidden_nH, d_y_nD)
                d_w_in_DG.add_product(x_TD.index_select(0, token_n).to(wide), d_h_nG)
                d_b_out_D.add_sum(d_y_nD)
                d_b_in_G.add_sum(d_h_nG)
            for total in (d_w_in_DG, d_w_out_HD, d_b_in_G, d_b_out_D):
                total.finish()
        d_weight_N = d_weight_N.index_select(0, order.place_N)
        d_x_TD = add_rows(d_x_ND, order).to(x_TD.dtype)
        return d_x_TD, d_weight_N.to(weight_N.dtype), d_w_in, d_w_out, d_b_in, d_b_out, None, None


def _forward(
    x_TD: Tensor, weight_N: Tensor, experts: Experts, order: Order, h_NG: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Returns the sums by token and the unweighted rows; fills h_NG, where it is given."""
    wide = torch.promote_types(x_TD.dtype, torch.float32)
    y_ND = x_TD.new_empty(len(order.token_N), x_TD.shape[1], dtype=wide)
    for expert, pieces in _pieces(order):
        w_in_DG, w_out_HD, b_in_G, b_out_D = (
            None if w is None else w[expert].to(wide) for w in experts[:4]
        )
        for rows in pieces:
            x_nD = x_TD.index_select(0, order.token_N[rows]).to(wide)
            keeps_it = h_NG is not None and h_NG.dtype is wide
            h_nG = _linear(x_nD, w_in_DG, b_in_G, h_NG[rows] if keeps_it else None)
            if h_NG is not None and not keeps_it:
                h_NG[rows] = h_nG
            _linear(activate(h_nG, experts.form), w_out_HD, b_out_D, y_ND[rows])
    return add_rows(y_ND, order, weight_N.to(wide)).to(x_TD.dtype), y_ND


def _linear(x_nD: Tensor, w_DG: Tensor, b_G: Tensor | None, out_nG: Tensor | None) -> Tensor:
    if b_G is None:
        return torch.mm(x_nD, w_DG, out=out_nG)
    return torch.addmm(b_G, x_nD, w_DG, out=out_nG)


def _pieces(order: Order) -> Iterator[tuple[int, list[slice]]]:
    """Yields each expert with its rows, cut into pieces of a few hundred."""
    start = 0
    for expert, end in enumerate(order.end_E.tolist()):
        cuts = range(start, end, ROWS_OF_A_PIECE)
        yield expert, [slice(cut, min(cut + ROWS_OF_A_PIECE, end)) for cut in cuts]
        start = end


class _Sum:
    """One expert's part of a weight's gradient, summed over pieces; nothing where none is wanted.

    The sum runs in the wide dtype, in the gradient's own memory where it has that dtype.
    """

    def __init__(self, total: Tensor | None, expert: int, wide: torch.dtype) -> None:
        self.into = None if total is None else total[expert]
        is_wide = self.into is None or self.into.dtype is wide
        self.sum = self.into if is_wide else torch.empty_like(self.into, dtype=wide)
        self.is_empty = True

    def add_product(self, a_nX: Tensor, b_nY: Tensor) -> None:
        if self.sum is not None:
            # with beta = 0 what memory held before is not read
            self.sum.addmm_(a_nX.t(), b_nY, beta=0 if self.is_empty else 1)
            self.is_empty = False

    def add_sum(self, a_nX: Tensor) -> None:
        if self.sum is not None:
            if self.is_empty:
                torch.sum(a_nX, 0, out=self.sum)
            else:
                self.sum += a_nX.sum(0)
            self.is_empty = False

    def finish(self) -> None:
        if self.into is not None and self.sum is not None:
            if self.is_empty:
                self.into.zero_()
            elif self.sum is not self.into:
                self.into.copy_(self.sum)
