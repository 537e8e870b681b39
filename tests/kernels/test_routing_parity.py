"""Our routing against that of transformers: experts, weights and gradients.

Source: facts: model.md section 11.
"""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DeepseekV3Config, MixtralConfig, Qwen3MoeConfig
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3TopkRouter
from transformers.models.mixtral.modeling_mixtral import (
    MixtralTopKRouter,
    load_balancing_loss_func,
)
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeTopKRouter

from moescope.kernels.compare import relative_error
from moescope.kernels.routing.op import route
from moescope.kernels.routing.reference import Routing, RoutingRule
from moescope.trainer.moe.balance import balance_loss
from moescope.trainer.moe.router import LinearRouter

# T tokens  D width  E experts  K chosen experts

# tokens, width, experts, chosen
CASES = {
    "one-token": (1, 8, 4, 2),
    "T64-E8-K2": (64, 16, 8, 2),
    "odd-width": (127, 33, 16, 5),
    "E48-K5": (50, 24, 48, 5),
    "every-expert": (40, 16, 8, 8),
}
SHAPES = [pytest.param(*case, id=name) for name, case in CASES.items()]
GROUPED = [
    pytest.param(*case, of, best, id=f"{name}-{best}-of-{of}-groups")
    for name, case in CASES.items()
    for best, of in ((1, 1), (2, 2), (2, 4), (1, 2))
    # theirs wants two experts in a group; neither has a rule with more places than experts
    if case[2] // of >= 2 and case[3] <= case[2] // of * best
]


def _dense(weight_TK: Tensor, chosen_TK: Tensor, num_experts: int) -> Tensor:
    """Weights at the places of their experts: whichever order the chosen ones come in."""
    zeros_TE = weight_TK.new_zeros(len(weight_TK), num_experts)
    return zeros_TE.scatter(1, chosen_TK, weight_TK)


def _assert_same(
    theirs: tuple[Tensor, Tensor, Tensor],
    ours: Routing,
    their_inputs: tuple[Tensor, Tensor],
    our_inputs: tuple[Tensor, Tensor],
) -> None:
    """theirs: logits, weights, experts. Inputs: x and the router's weight, for the gradients."""
    logit_TE, weight_TK, chosen_TK = theirs
    assert torch.equal(chosen_TK.sort(1).values, ours.chosen_TK.sort(1).values)
    assert relative_error("logit_TE", logit_TE, ours.logit_TE) < 1e-6
    num_experts = logit_TE.shape[1]
    want_TE = _dense(weight_TK, chosen_TK, num_experts)
    got_TE = _dense(ours.weight_TK, ours.chosen_TK, num_experts)
    assert relative_error("weight_TE", want_TE, got_TE) < 1e-6
    upstream_TE = torch.randn_like(want_TE)
    want = torch.autograd.grad(want_TE, their_inputs, upstream_TE)
    got = torch.autograd.grad(got_TE, our_inputs, upstream_TE)
    for name, a, b in zip(("d_x_TD", "d_weight_ED"), want, got, strict=True):
        assert relative_error(name, a, b) < 1e-6


@pytest.mark.parametrize(
    ("tokens", "width", "experts", "chosen", "num_groups", "num_chosen_groups"), GROUPED
)
@pytest.mark.parametrize("is_normalised", [True, False])
def test_sigmoid_routing_is_that_of_deepseek_v3(
    tokens: int,
    width: int,
    experts: int,
    chosen: int,
    num_groups: int,
    num_chosen_groups: int,
    is_normalised: bool,
) -> None:
    torch.manual_seed(experts + tokens)
    config = DeepseekV3Config(
        hidden_size=width,
        n_routed_experts=experts,
        num_experts_per_tok=chosen,
        n_group=num_groups,
        topk_group=num_chosen_groups,
        norm_topk_prob=is_normalised,
        routed_scaling_factor=2.5,
    )
    router = DeepseekV3TopkRouter(config)
    router.weight.data.normal_(std=0.3)
    # some as large as the scores, some negative: excluded groups must not win by their 0
    router.e_score_correction_bias.normal_(std=0.5)
    x_TD = torch.randn(tokens, width, requires_grad=True)
    theirs = router(x_TD)
    rule = RoutingRule(chosen, "sigmoid", is_normalised, 2.5, num_groups, num_chosen_groups)
    logit_TE = F.linear(x_TD, router.weight)
    ours = route(logit_TE, router.e_score_correction_bias, rule)
    _assert_same(theirs, ours, (x_TD, router.weight), (x_TD, router.weight))


@pytest.mark.parametrize(("tokens", "width", "experts", "chosen"), SHAPES)
def test_normalised_softmax_routing_is_that_of_mixtral(
    tokens: int, width: int, experts: int, chosen: int
) -> None:
    torch.manual_seed(experts + tokens)
    config = MixtralConfig(hidden_size=width, num_local_experts=experts, num_experts_per_tok=chosen)
    router = MixtralTopKRouter(config)
    router.weight.data.normal_(std=0.3)
    x_TD = torch.randn(tokens, width, requires_grad=True)
    ours = route(F.linear(x_TD, router.weight), None, RoutingRule(chosen, "softmax"))
    _assert_same(router(x_TD), ours, (x_TD, router.weight), (x_TD, router.weight))


@pytest.mark.parametrize(("tokens", "width", "experts", "chosen"), SHAPES)
@pytest.mark.parametrize("is_normalised", [True, False])
def test_softmax_routing_is_that_of_qwen3_with_and_without_its_flag(
    tokens: int, width: int, experts: int, chosen: int, is_normalised: bool
) -> None:
    torch.manual_seed(experts + tokens)
    config = Qwen3MoeConfig(
        hidden_size=width,
        num_experts=experts,
        num_experts_per_tok=chosen,
        norm_topk_prob=is_normalised,
    )
    router = Qwen3MoeTopKRouter(config)
    router.weight.data.normal_(std=0.3)
    x_TD = torch.randn(tokens, width, requires_grad=True)
    rule = RoutingRule(chosen, "softmax", is_normalised)
    ours = route(F.linear(x_TD, router.weight), None, rule)
    _assert_same(router(x_TD), ours, (x_TD, router.weight), (x_TD, router.weight))


def test_a_lone_expert_is_weighed_as_in_deepseek_v3_but_has_a_gradient() -> None:
    torch.manual_seed(0)
    config = DeepseekV3Config(
        hidden_size=8, n_routed_experts=4, num_experts_per_tok=1, n_group=1, topk_group=1
    )
    router = DeepseekV3TopkRouter(config)
    router.weight.data.normal_(std=0.3)
    x_TD = torch.randn(20, 8)
    _, want_TK, chosen_TK = router(x_TD)
    rule = RoutingRule(1, scale=config.routed_scaling_factor)
    ours = route(F.linear(x_TD, router.weight), None, rule)
    assert torch.equal(chosen_TK, ours.chosen_TK)
    assert relative_error("weight_TK", want_TK, ours.weight_TK) < 1e-6
    (want,) = torch.autograd.grad(want_TK.sum(), router.weight)
    (got,) = torch.autograd.grad(ours.weight_TK.sum(), router.weight)
    # theirs is rounding error: p / p does not depend on p
    assert float(want.norm()) < 1e-6
    assert float(got.norm()) > 1.0


def test_a_half_precision_input_is_routed_as_deepseek_v3_does_in_fp32() -> None:
    torch.manual_seed(0)
    config = DeepseekV3Config(
        hidden_size=64, n_routed_experts=16, num_experts_per_tok=2, n_group=1, topk_group=1
    )
    router = DeepseekV3TopkRouter(config)
    router.weight.data.normal_(std=0.02)
    x_BSD = torch.randn(2, 2000, 64).bfloat16()
    ours = LinearRouter(64, 16, RoutingRule(2, scale=config.routed_scaling_factor), has_bias=True)
    ours.weight_ED.data.copy_(router.weight.data)
    _, weight_TK, chosen_TK = router(x_BSD)
    routing = ours(x_BSD)
    assert torch.equal(chosen_TK.sort(1).values, routing.chosen_TK.sort(1).values)
    assert (
        relative_error("weights", weight_TK.sort(1).values, routing.weight_TK.sort(1).values) < 1e-6
    )
    # in bf16 the same inputs are routed otherwise, since close scores round to a tie
    logit_TE = F.linear(x_BSD.flatten(0, 1), router.weight.bfloat16())
    half_TK = logit_TE.sigmoid().topk(2, dim=1).indices
    num_flips = int((half_TK.sort(1).values != chosen_TK.sort(1).values).any(1).sum())
    assert num_flips > 20


@pytest.mark.parametrize(("tokens", "width", "experts", "chosen"), SHAPES)
@pytest.mark.parametrize("layers", [1, 3])
def test_the_balance_loss_is_theirs_over_k(
    tokens: int, width: int, experts: int, chosen: int, layers: int
) -> None:
    torch.manual_seed(experts)
    logits: Any = tuple(torch.randn(tokens, experts, requires_grad=True) for _ in range(layers))
    want: Any = load_balancing_loss_func(logits, experts, chosen) / chosen
    # theirs is of all layers' tokens in one pot
    routing = route(torch.cat(logits), None, RoutingRule(chosen, "softmax"))
    got = balance_loss(routing.score_TE, routing.counts_E, chosen)
    assert got.item() == pytest.approx(want.item(), rel=1e-6)
    wants, gots = torch.autograd.grad(want, logits), torch.autograd.grad(got, logits)
    # d loss / d logit = p * (g - sum(p g)) with g = E f / T: near balance g hardly varies, and what
    # is left (nothing, with one token or every expert) is small beside the rounding of p * g
    rounded_at_TE = routing.score_TE.detach() * experts * routing.counts_E / routing.counts_E.sum()
    bound = 1e-6 * float(rounded_at_TE.max()) / (tokens * layers)
    for a, b in zip(wants, gots, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=bound)
