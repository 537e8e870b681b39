"""Sorting routed tokens by expert, with gathers in both directions.

The usual gradient of a gather is a scatter-add, whose order of summation is an accident on a GPU.
A permutation has an inverse, so that the gradient here is a gather too, and every sum runs over k
in order.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

# T tokens  D width  E experts  K chosen experts  N rows (T*K)


class Order(NamedTuple):
    """How rows are sorted by expert; integers only."""

    source_N: Tensor
    """(N,) int64: sorted row n comes from flat position source[n] of (T, K)."""
    place_N: Tensor
    """(N,) int64, the inverse: flat position i lies in sorted row place[i]."""
    end_E: Tensor
    """(E,) int32: one past the last row of each expert."""


def expert_order(chosen_TK: Tensor, counts_E: Tensor) -> Order:
    """Sorts the flat (T, K) positions by expert, stable, without waiting for the device."""
    flat_N = chosen_TK.reshape(-1)
    source_N = torch.argsort(flat_N, stable=True)
    place_N = torch.empty_like(source_N)
    place_N[source_N] = torch.arange(flat_N.numel(), device=flat_N.device)
    return Order(source_N, place_N, counts_E.cumsum(0).to(torch.int32))


def permute(x_TD: Tensor, order: Order) -> Tensor:
    """Copies each token once per chosen expert, sorted by expert: (T, D) -> (N, D)."""
    rows: Tensor = _Permute.apply(x_TD, order.source_N, order.place_N)
    return rows


def unpermute(y_ND: Tensor, order: Order, num_chosen: int) -> Tensor:
    """Brings sorted rows back to their tokens: (N, D) -> (T, K, D)."""
    rows: Tensor = _Unpermute.apply(y_ND, order.source_N, order.place_N)
    return rows.reshape(-1, num_chosen, y_ND.shape[1])


class _Permute(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, source_N: Tensor, place_N: Tensor) -> Tensor:
        ctx.save_for_backward(place_N)
        ctx.num_chosen = source_N.numel() // max(1, x_TD.shape[0])
        # no tokens, no rows: then K does not matter
        return x_TD.index_select(0, source_N // max(1, ctx.num_chosen))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (grad_ND,) = grads
        (place_N,) = ctx.saved_tensors
        by_token = grad_ND.index_select(0, place_N)
        by_choice = by_token.reshape(-1, max(1, ctx.num_chosen), grad_ND.shape[1])
        return by_choice.sum(1), None, None


class _Unpermute(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y_ND: Tensor, source_N: Tensor, place_N: Tensor) -> Tensor:
        ctx.save_for_backward(source_N)
        return y_ND.index_select(0, place_N)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (source_N,) = ctx.saved_tensors
        return grads[0].index_select(0, source_N), None, None
