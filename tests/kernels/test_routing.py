"""Sigmoid routing: the fast path against its definition, and golden numbers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moescope.kernels.compare import relative_error
from moescope.kernels.routing.op import count, route
from moescope.kernels.routing.reference import route_reference

# T tokens  E experts  K chosen experts


@pytest.mark.parametrize(
    ("tokens", "experts", "chosen"),
    [
        pytest.param(1, 4, 2, id="T1-E4-K2"),  # a single token
        pytest.param(3, 8, 2, id="T3-E8-K2"),  # six places for eight experts: some stay idle
        pytest.param(33, 5, 5, id="T33-E5-K5"),  # every expert for every token
        pytest.param(
            17, 7, 1, id="T17-E7-K1"
        ),  # one expert: its weight is the scale, whatever its score
        pytest.param(0, 4, 2, id="T0-E4-K2"),  # no tokens at all
    ],
)
@pytest.mark.usefixtures("unwritten_is_nan")
def test_the_fast_path_routes_as_the_definition_does(
    tokens: int, experts: int, chosen: int
) -> None:
    torch.manual_seed(tokens + experts)
    logit_TE = torch.randn(tokens, experts, requires_grad=True)
    bias_E = torch.randn(experts) * 0.1
    want = route_reference(logit_TE, bias_E, chosen, 2.0)
    got = route(logit_TE, bias_E, chosen, 2.0)
    assert torch.equal(got.chosen_TK, want.chosen_TK)
    assert torch.equal(got.counts_E, want.counts_E)
    assert relative_error("weight_TK", want.weight_TK, got.weight_TK) < 1e-6
    assert relative_error("score_TE", want.score_TE, got.score_TE) < 1e-6
    if tokens and chosen > 1:
        upstream_TK = torch.randn(tokens, chosen)
        (want_grad,) = torch.autograd.grad(want.weight_TK, logit_TE, upstream_TK)
        (got_grad,) = torch.autograd.grad(got.weight_TK, logit_TE, upstream_TK)
        assert relative_error("d_logit_TE", want_grad, got_grad) < 1e-5


def test_the_bias_chooses_but_does_not_weigh() -> None:
    logit_TE = torch.tensor([[2.0, 1.0, 0.0]])
    routing = route(logit_TE, torch.tensor([0.0, -1.0, 0.5]), 2, 1.0)
    # sigmoid: .8808, .7311, .5; with bias: .8808, -.2689, 1.0: experts 2 and 0
    assert routing.chosen_TK.tolist() == [[2, 0]]
    # without bias .5 / (.5 + .8808) = .36211
    assert routing.weight_TK[0].tolist() == pytest.approx([0.36211, 0.63789], abs=1e-5)


def test_routing_refuses_half_precision() -> None:
    with pytest.raises(TypeError, match="float32"):
        route(torch.zeros(2, 4, dtype=torch.bfloat16), torch.zeros(4), 2, 1.0)


def test_logits_that_are_not_numbers_still_give_valid_experts() -> None:
    routing = route(torch.full((3, 4), float("nan")), torch.zeros(4), 2, 1.0)
    assert int(routing.chosen_TK.min()) >= 0
    assert int(routing.chosen_TK.max()) < 4
    assert int(routing.counts_E.sum()) == 6


@settings(max_examples=30, deadline=None)
@given(tokens=st.integers(0, 40), experts=st.integers(1, 9), seed=st.integers(0, 99))
def test_counts_add_up_to_the_places_given(tokens: int, experts: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    chosen = 1 + seed % experts
    routing = route(
        torch.randn(tokens, experts, generator=generator), torch.zeros(experts), chosen, 1.0
    )
    assert int(routing.counts_E.sum()) == tokens * chosen
    assert all(len(set(row)) == chosen for row in routing.chosen_TK.tolist())
    assert torch.equal(count(routing.chosen_TK, experts), routing.counts_E)
