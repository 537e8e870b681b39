"""Sorting rows by expert and adding them up by token, without a scatter in either direction.

The usual gradient of a gather is a scatter-add, whose order of summation is an accident on a GPU.
Here the rows of each token are known as a list (`Order.place_N`, `Order.start_T`), so that every
sum, forward and backward, runs through that list in order.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# T tokens  D width  E experts  K chosen experts  N rows: a token and an expert that works on it


class Order(NamedTuple):
    """Which row is whose; integers only. A row has two places: n, sorted by expert, and p, sorted
    by token."""

    token_N: Tensor
    """(N,) int64: the token of row n."""
    end_E: Tensor
    """(E,) int32: one past the last row n of each expert."""
    place_N: Tensor
    """(N,) int64: row p by token is row place[p] by expert."""
    source_N: Tensor
    """(N,) int64, the inverse: row n by expert is row source[n] by token."""
    start_T: Tensor
    """(T,) int64: the first row p of each token."""


def expert_order(chosen_TK: Tensor, counts_E: Tensor) -> Order:
    """Sorts the choices of tokens by expert, stable, without waiting for the device.

    Row p by token is flat position p of (T, K). counts_E: (E,), or a grid of experts that are
    numbered through it.
    """
    num_tokens, num_chosen = chosen_TK.shape
    source_N = torch.argsort(chosen_TK.reshape(-1), stable=True)
    start_T = torch.arange(num_tokens, device=chosen_TK.device) * num_chosen
    end_E = counts_E.reshape(-1).cumsum(0).to(torch.int32)
    return Order(source_N // num_chosen, end_E, _inverse(source_N), source_N, start_T)


def chosen_order(token_N: Tensor, counts_E: Tensor, num_tokens: int) -> Order:
    """Sorts the choices of experts by token, stable, without waiting for the device.

    token_N: (N,) int64, sorted by expert. A token may have any number of rows.
    """
    place_N = torch.argsort(token_N, stable=True)
    rows_T = torch.zeros(num_tokens, dtype=torch.int64, device=token_N.device)
    rows_T.scatter_add_(0, token_N, torch.ones_like(token_N))
    end_E = counts_E.reshape(-1).cumsum(0).to(torch.int32)
    return Order(token_N, end_E, place_N, _inverse(place_N), rows_T.cumsum(0) - rows_T)


def permute(x_TD: Tensor, order: Order) -> Tensor:
    """Copies each token once per expert that works on it, sorted by expert: (T, D) -> (N, D)."""
    rows: Tensor = _Permute.apply(x_TD, order)
    return rows


def sum_by_token(y_ND: Tensor, order: Order) -> Tensor:
    """Adds up the rows of each token, in their order: (N, D), sorted by expert -> (T, D)."""
    sums: Tensor = _SumByToken.apply(y_ND, order)
    return sums


def by_token(row_N: Tensor, order: Order) -> Tensor:
    """Brings one number per row from the order of experts into that of tokens."""
    numbers: Tensor = _Reorder.apply(row_N, order.place_N, order.source_N)
    return numbers


def by_expert(row_N: Tensor, order: Order) -> Tensor:
    """Brings one number per row from the order of tokens into that of experts."""
    numbers: Tensor = _Reorder.apply(row_N, order.source_N, order.place_N)
    return numbers


def add_rows(y_ND: Tensor, order: Order, weight_N: Tensor | None = None) -> Tensor:
    """`sum_by_token` without a gradient, and with weights where they are given.

    out[t] = sum over p of token t of weight[p] * y[place[p]]
    weight_N: (N,) in the order of tokens, of y's dtype. embedding_bag is the operator that walks
    through a list of rows per output row and adds them up; it accumulates in fp32 at least.
    """
    return F.embedding_bag(
        order.place_N, y_ND, order.start_T, mode="sum", per_sample_weights=weight_N
    )


def sum_by_expert(rows_ND: Tensor, order: Order) -> Tensor:
    """Adds up the rows of each expert, in their order and without a gradient: (N, D), sorted by
    expert -> (E, D)."""
    row_N = torch.arange(len(rows_ND), device=rows_ND.device)
    start_E = torch.cat([order.end_E.new_zeros(1), order.end_E[:-1]]).long()
    return F.embedding_bag(row_N, rows_ND, start_E, mode="sum")


def _inverse(index_N: Tensor) -> Tensor:
    inverse_N = torch.empty_like(index_N)
    inverse_N[index_N] = torch.arange(index_N.numel(), device=index_N.device)
    return inverse_N


class _Permute(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, order: Order) -> Tensor:
        ctx.order = order
        return x_TD.index_select(0, order.token_N)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_ND: Tensor) -> tuple[Tensor, None]:
        return add_rows(grad_ND.contiguous(), ctx.order), None


class _SumByToken(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y_ND: Tensor, order: Order) -> Tensor:
        ctx.order = order
        return add_rows(y_ND, order)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TD: Tensor) -> tuple[Tensor, None]:
        return grad_TD.index_select(0, ctx.order.token_N), None


class _Reorder(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, row_N: Tensor, index_N: Tensor, inverse_N: Tensor) -> Tensor:
        ctx.save_for_backward(inverse_N)
        return row_N.index_select(0, index_N)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_N: Tensor) -> tuple[Tensor, None, None]:
        (inverse_N,) = ctx.saved_tensors
        return grad_N.index_select(0, inverse_N), None, None
