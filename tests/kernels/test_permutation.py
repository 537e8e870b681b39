"""Sorting by expert and back: the gathers against their definition, and invariants."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moescope.kernels.compare import relative_error
from moescope.kernels.permutation.op import expert_order, permute, unpermute
from moescope.kernels.permutation.reference import permute_reference, unpermute_reference
from moescope.kernels.routing.op import count

# T tokens  D width  E experts  K chosen experts  N rows


def _chosen(tokens: int, experts: int, chosen: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(tokens, experts, generator=generator).topk(chosen, dim=1).indices


@pytest.mark.parametrize(
    ("tokens", "experts", "chosen"),
    [
        pytest.param(1, 4, 1, id="T1-E4-K1"),  # one row
        pytest.param(5, 8, 2, id="T5-E8-K2"),  # ten rows cannot reach every expert often
        pytest.param(31, 3, 3, id="T31-E3-K3"),  # every token in every expert
        pytest.param(0, 4, 2, id="T0-E4-K2"),  # no rows
    ],
)
@pytest.mark.usefixtures("unwritten_is_nan")
def test_rows_and_their_gradients_are_those_of_the_definition(
    tokens: int, experts: int, chosen: int
) -> None:
    torch.manual_seed(3)
    chosen_TK = _chosen(tokens, experts, chosen, seed=tokens)
    order = expert_order(chosen_TK, count(chosen_TK, experts))
    x_TD = torch.randn(tokens, 6, requires_grad=True)
    y_ND = torch.randn(tokens * chosen, 6, requires_grad=True)

    rows, want_rows = permute(x_TD, order), permute_reference(x_TD, chosen_TK)
    back, want_back = unpermute(y_ND, order, chosen), unpermute_reference(y_ND, chosen_TK)
    assert torch.equal(rows, want_rows)
    assert torch.equal(back, want_back)
    up_ND, up_TKD = torch.randn_like(rows), torch.randn_like(back)
    (want_dx,) = torch.autograd.grad(want_rows, x_TD, up_ND)
    (got_dx,) = torch.autograd.grad(rows, x_TD, up_ND)
    (want_dy,) = torch.autograd.grad(want_back, y_ND, up_TKD)
    (got_dy,) = torch.autograd.grad(back, y_ND, up_TKD)
    assert relative_error("d_x_TD", want_dx, got_dx) < 1e-6
    assert torch.equal(want_dy, got_dy)


@settings(max_examples=30, deadline=None)
@given(tokens=st.integers(1, 30), experts=st.integers(1, 8), seed=st.integers(0, 99))
def test_sorting_and_back_gives_each_token_itself(tokens: int, experts: int, seed: int) -> None:
    chosen = 1 + seed % experts
    chosen_TK = _chosen(tokens, experts, chosen, seed)
    order = expert_order(chosen_TK, count(chosen_TK, experts))
    x_TD = torch.randn(tokens, 4)
    back_TKD = unpermute(permute(x_TD, order), order, chosen)
    assert torch.equal(back_TKD, x_TD[:, None].expand(-1, chosen, -1))
    expert_N = chosen_TK.reshape(-1)[order.source_N]
    assert bool((expert_N.diff() >= 0).all())
    assert int(order.end_E[-1]) == tokens * chosen
