"""Sorting by expert and adding up by token: against their definition, and invariants."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moescope.kernels.compare import relative_error
from moescope.kernels.permutation.op import (
    add_rows,
    by_expert,
    by_token,
    chosen_order,
    expert_order,
    permute,
    sum_by_token,
)
from moescope.kernels.permutation.reference import permute_reference, sum_by_token_reference
from moescope.kernels.routing.op import count

# T tokens  D width  E experts  K chosen experts  N rows

SHAPES = [
    pytest.param(1, 4, 1, id="T1-E4-K1"),  # one row
    pytest.param(5, 8, 2, id="T5-E8-K2"),  # ten rows cannot reach every expert often
    pytest.param(31, 3, 3, id="T31-E3-K3"),  # every token in every expert
    pytest.param(0, 4, 2, id="T0-E4-K2"),  # no rows
]


def _chosen(tokens: int, experts: int, chosen: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(tokens, experts, generator=generator).topk(chosen, dim=1).indices


def _picked(tokens: int, experts: int, picks: int, seed: int) -> tuple[Tensor, Tensor]:
    """Tokens that each expert picked, some of them more than one expert's, some nobody's."""
    generator = torch.Generator().manual_seed(seed)
    score_ET = torch.rand(experts, tokens, generator=generator)
    token_EN = score_ET.topk(picks, dim=1).indices.sort(dim=1).values
    return token_EN.flatten(), torch.full((experts,), picks)


@pytest.mark.parametrize(("tokens", "experts", "chosen"), SHAPES)
@pytest.mark.usefixtures("unwritten_is_nan")
def test_rows_and_their_gradients_are_those_of_the_definition(
    tokens: int, experts: int, chosen: int
) -> None:
    torch.manual_seed(3)
    chosen_TK = _chosen(tokens, experts, chosen, seed=tokens)
    order = expert_order(chosen_TK, count(chosen_TK, experts))
    x_TD = torch.randn(tokens, 6, requires_grad=True)
    rows, want = permute(x_TD, order), permute_reference(x_TD, chosen_TK)
    assert torch.equal(rows, want)
    up_ND = torch.randn_like(rows)
    (want_dx,) = torch.autograd.grad(want, x_TD, up_ND)
    (got_dx,) = torch.autograd.grad(rows, x_TD, up_ND)
    assert relative_error("d_x_TD", want_dx, got_dx) < 1e-6


@pytest.mark.parametrize(
    ("tokens", "experts", "picks"),
    [
        pytest.param(1, 4, 1, id="one token for everybody"),
        pytest.param(9, 2, 3, id="most tokens picked by nobody"),
        pytest.param(6, 5, 6, id="everybody picks everything"),
        pytest.param(4, 3, 0, id="nothing picked"),
        pytest.param(0, 3, 0, id="no tokens"),
    ],
)
@pytest.mark.usefixtures("unwritten_is_nan")
def test_sums_by_token_and_their_gradients_are_those_of_the_definition(
    tokens: int, experts: int, picks: int
) -> None:
    torch.manual_seed(4)
    token_N, counts_E = _picked(tokens, experts, picks, seed=tokens)
    order = chosen_order(token_N, counts_E, tokens)
    y_ND = torch.randn(len(token_N), 6, requires_grad=True)
    sums, want = sum_by_token(y_ND, order), sum_by_token_reference(y_ND, token_N, tokens)
    assert relative_error("sum_TD", want, sums) < 1e-6
    up_TD = torch.randn_like(sums)
    (want_dy,) = torch.autograd.grad(want, y_ND, up_TD)
    (got_dy,) = torch.autograd.grad(sums, y_ND, up_TD)
    assert torch.equal(want_dy, got_dy)


@settings(max_examples=30, deadline=None)
@given(tokens=st.integers(1, 30), experts=st.integers(1, 8), seed=st.integers(0, 99))
def test_sorting_and_adding_up_gives_each_token_itself_k_times(
    tokens: int, experts: int, seed: int
) -> None:
    chosen = 1 + seed % experts
    chosen_TK = _chosen(tokens, experts, chosen, seed)
    order = expert_order(chosen_TK, count(chosen_TK, experts))
    x_TD = torch.randint(-9, 9, (tokens, 4)).float()  # whole numbers: sums are exact
    assert torch.equal(sum_by_token(permute(x_TD, order), order), x_TD * chosen)
    expert_N = chosen_TK.reshape(-1)[order.source_N]
    assert bool((expert_N.diff() >= 0).all())
    assert int(order.end_E[-1]) == tokens * chosen


@settings(max_examples=30, deadline=None)
@given(tokens=st.integers(1, 30), experts=st.integers(1, 8), seed=st.integers(0, 99))
def test_both_kinds_of_choice_say_the_same_of_the_same_rows(
    tokens: int, experts: int, seed: int
) -> None:
    chosen_TK = _chosen(tokens, experts, 1 + seed % experts, seed)
    counts_E = count(chosen_TK, experts)
    by_tokens = expert_order(chosen_TK, counts_E)
    by_experts = chosen_order(by_tokens.token_N, counts_E, tokens)
    assert torch.equal(by_tokens.end_E, by_experts.end_E)
    assert torch.equal(by_tokens.start_T, by_experts.start_T)
    y_ND = torch.randint(-9, 9, (chosen_TK.numel(), 4)).float()
    assert torch.equal(sum_by_token(y_ND, by_tokens), sum_by_token(y_ND, by_experts))


@settings(max_examples=30, deadline=None)
@given(tokens=st.integers(1, 20), experts=st.integers(1, 6), seed=st.integers(0, 99))
def test_numbers_go_from_one_order_to_the_other_and_back(
    tokens: int, experts: int, seed: int
) -> None:
    token_N, counts_E = _picked(tokens, experts, 1 + seed % tokens, seed)
    order = chosen_order(token_N, counts_E, tokens)
    number_N = torch.rand(len(token_N), requires_grad=True)
    there_N = by_token(number_N, order)
    assert torch.equal(by_expert(there_N, order), number_N)
    assert bool((token_N[order.place_N].diff() >= 0).all())
    up_N = torch.rand(len(token_N))
    (gradient_N,) = torch.autograd.grad(there_N, number_N, up_N)
    assert torch.equal(by_token(gradient_N, order), up_N)


def test_weights_go_to_the_rows_they_belong_to() -> None:
    # expert 0 works on tokens 1 and 2, expert 1 on token 1
    order = chosen_order(torch.tensor([1, 2, 1]), torch.tensor([2, 1]), 3)
    y_ND = torch.tensor([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]])
    # token 1: 0.5 * row 0 + 0.1 * row 2; token 2: 2 * row 1
    weighted = add_rows(y_ND, order, torch.tensor([0.5, 0.1, 2.0]))
    assert weighted.flatten().tolist() == pytest.approx([0, 0, 0.8, 8, 4, 40])


def test_sums_of_bf16_rows_run_in_fp32() -> None:
    # 256 + 1 is 256 in bf16, whose step is 2 there: 256 times 1 added one by one would be lost
    order = chosen_order(torch.zeros(257, dtype=torch.int64), torch.tensor([257]), 1)
    y_ND = torch.ones(257, 8, dtype=torch.bfloat16)
    y_ND[0] = 256
    assert sum_by_token(y_ND, order).tolist() == [[512.0] * 8]


def test_experts_in_a_grid_are_numbered_through() -> None:
    chosen_TK = torch.tensor([[3], [0], [2]])
    order = expert_order(chosen_TK, count(chosen_TK, 4).view(2, 2))
    assert order.end_E.tolist() == [1, 1, 2, 3]
