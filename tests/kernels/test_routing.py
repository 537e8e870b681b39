"""Routing: the fast paths against their definitions, golden numbers, and what always holds."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moescope.kernels.compare import relative_error
from moescope.kernels.routing.op import choose_tokens, count, route, route_heads
from moescope.kernels.routing.reference import (
    ExpertChoice,
    Routing,
    RoutingRule,
    Scope,
    Scores,
    capacity,
    choose_tokens_reference,
    route_heads_reference,
    route_reference,
)

# B batch  S stream tokens  T tokens (B*S)  E experts  K chosen experts  N picks of experts  H heads

RULES = [
    pytest.param(RoutingRule(2, scale=2.0), id="sigmoid"),
    pytest.param(RoutingRule(2, scale=2.5, num_groups=4, num_chosen_groups=2), id="2-of-4-groups"),
    # one expert in each group: its score is the group's, there is no second one to add
    pytest.param(RoutingRule(3, num_groups=8, num_chosen_groups=3), id="groups-of-one"),
    # two groups, both kept, as in DSMoE: nothing is masked
    pytest.param(RoutingRule(2, num_groups=2, num_chosen_groups=2), id="all-groups"),
    # as many as the groups hold: every expert of the best groups
    pytest.param(RoutingRule(4, num_groups=4, num_chosen_groups=2), id="groups-exhausted"),
    pytest.param(RoutingRule(2, is_normalised=False, scale=2.0), id="sigmoid-as-they-are"),
    pytest.param(RoutingRule(2, "softmax"), id="softmax"),
    pytest.param(RoutingRule(2, "softmax", is_normalised=False), id="softmax-as-they-are"),
    pytest.param(RoutingRule(2, "softmax", num_groups=2, scale=3.0), id="softmax-1-of-2-groups"),
    # a lone weight: the gradient comes from dividing by a constant
    pytest.param(RoutingRule(1, scale=2.0), id="lone"),
    pytest.param(RoutingRule(1, "softmax"), id="lone-softmax"),
    pytest.param(RoutingRule(1, is_normalised=False), id="lone-as-it-is"),
    pytest.param(RoutingRule(8), id="every-expert"),
]


def assert_same(want: Routing | ExpertChoice, got: Routing | ExpertChoice, logit: Tensor) -> None:
    """Values, and the gradient to the logits of each output that has one."""
    for name, a, b in zip(want._fields, want, got, strict=True):
        if a.dtype is torch.int64:
            assert torch.equal(a, b), name
            continue
        assert a.dtype is b.dtype
        assert relative_error(name, a, b) < 1e-6
        if a.requires_grad:
            upstream = torch.randn_like(a)
            (a_grad,) = torch.autograd.grad(a, logit, upstream, retain_graph=True)
            (b_grad,) = torch.autograd.grad(b, logit, upstream, retain_graph=True)
            assert relative_error(f"d_logit of {name}", a_grad, b_grad) < 1e-5


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    "tokens",
    [
        pytest.param(0, id="T0"),  # no tokens at all
        pytest.param(1, id="T1"),  # a single token: seven experts or more stay idle
        pytest.param(33, id="T33"),
    ],
)
@pytest.mark.usefixtures("unwritten_is_nan")
def test_the_fast_path_routes_as_the_definition_does(rule: RoutingRule, tokens: int) -> None:
    torch.manual_seed(tokens)
    logit_TE = torch.randn(tokens, 8, requires_grad=True)
    bias_E = torch.randn(8) * 0.1
    for bias in (bias_E, None):
        want, got = route_reference(logit_TE, bias, rule), route(logit_TE, bias, rule)
        assert_same(want, got, logit_TE)
        assert got.weight_TK.requires_grad
        assert not got.counts_E.requires_grad


@pytest.mark.parametrize(
    ("heads", "tokens", "experts", "chosen"),
    [
        pytest.param(1, 5, 4, 2, id="one-head"),
        pytest.param(3, 7, 5, 2, id="odd-numbers"),
        pytest.param(4, 1, 6, 6, id="every-expert-of-a-head"),
        pytest.param(2, 0, 4, 2, id="no-tokens"),
    ],
)
@pytest.mark.usefixtures("unwritten_is_nan")
def test_heads_route_as_the_definition_does(
    heads: int, tokens: int, experts: int, chosen: int
) -> None:
    torch.manual_seed(heads)
    logit_HTE = torch.randn(heads, tokens, experts, requires_grad=True)
    bias_HE = torch.randn(heads, experts)
    got = route_heads(logit_HTE, bias_HE, chosen)
    assert_same(route_heads_reference(logit_HTE, bias_HE, chosen), got, logit_HTE)
    assert got.chosen_TK.shape == (tokens * heads, chosen)
    assert got.counts_E.shape == (heads, experts)
    assert got.counts_E.sum(1).tolist() == [tokens * chosen] * heads
    # row t * H + h is part h of token t, and its experts are those of head h
    head_of_row_N = torch.arange(tokens * heads) % heads
    assert torch.equal(got.chosen_TK // experts, head_of_row_N[:, None].expand(-1, chosen))
    torch.testing.assert_close(got.weight_TK.sum(1), torch.ones(tokens * heads))


@pytest.mark.parametrize("scope", ["sample", "batch"])
@pytest.mark.parametrize("scores", ["sigmoid", "softmax"])
@pytest.mark.parametrize(
    ("samples", "tokens", "experts", "chosen"),
    [
        pytest.param(1, 6, 3, 1, id="one-sample"),
        pytest.param(3, 7, 4, 2, id="7-tokens-for-8-places"),  # 3.5 is rounded to 4
        pytest.param(2, 3, 8, 1, id="fewer-tokens-than-experts"),  # at least one token each
        pytest.param(2, 5, 4, 4, id="every-token"),
        pytest.param(2, 0, 4, 2, id="no-tokens"),
        pytest.param(0, 5, 4, 2, id="no-samples"),
    ],
)
@pytest.mark.usefixtures("unwritten_is_nan")
def test_experts_choose_as_the_definition_says(
    scope: Scope, scores: Scores, samples: int, tokens: int, experts: int, chosen: int
) -> None:
    torch.manual_seed(samples)
    logit_BSE = torch.randn(samples, tokens, experts, requires_grad=True)
    want = choose_tokens_reference(logit_BSE, chosen, scores, 1.5, scope)
    got = choose_tokens(logit_BSE, chosen, scores, 1.5, scope)
    assert_same(want, got, logit_BSE)


def test_the_bias_chooses_but_does_not_weigh() -> None:
    logit_TE = torch.tensor([[2.0, 1.0, 0.0]])
    routing = route(logit_TE, torch.tensor([0.0, -1.0, 0.5]), RoutingRule(2))
    # sigmoid: .8808, .7311, .5; with bias: .8808, -.2689, 1.0: experts 2 and 0
    assert routing.chosen_TK.tolist() == [[2, 0]]
    # without bias .5 / (.5 + .8808) = .36211
    assert routing.weight_TK[0].tolist() == pytest.approx([0.36211, 0.63789], abs=1e-5)


def test_softmax_weights_are_those_of_all_experts_or_of_the_chosen_ones() -> None:
    logit_TE = torch.log(torch.tensor([[4.0, 1.0, 3.0]]))
    # p = 4/8, 1/8, 3/8
    as_they_are = route(logit_TE, None, RoutingRule(2, "softmax", is_normalised=False))
    assert as_they_are.chosen_TK.tolist() == [[0, 2]]
    assert as_they_are.weight_TK[0].tolist() == pytest.approx([0.5, 0.375])
    normalised = route(logit_TE, None, RoutingRule(2, "softmax", scale=2.0))
    # 2 * 4/7, 2 * 3/7
    assert normalised.weight_TK[0].tolist() == pytest.approx([8 / 7, 6 / 7])


def test_an_excluded_group_loses_even_to_negative_choices() -> None:
    # group 0 holds experts 0, 1 and group 1 experts 2, 3; masked with 0 in place of -inf, group 1
    # would beat the biased group 0
    bias_E = torch.tensor([-0.7, -0.7, -3.0, -0.9])
    # choices with p = .5 each: -.2, -.2 | -2.5, -.4; group scores -.4 and -2.9
    routing = route(torch.zeros(1, 4), bias_E, RoutingRule(2, num_groups=2))
    assert sorted(routing.chosen_TK[0].tolist()) == [0, 1]


def test_a_group_is_judged_by_its_two_best_experts() -> None:
    bias_E = torch.tensor([0.9, 0.0, 0.0, 0.5, 0.5, 0.0])
    # with p = .5: best two of group 0 are 1.4 + .5 = 1.9, of group 1 are 1 + 1 = 2
    routing = route(torch.zeros(1, 6), bias_E, RoutingRule(1, num_groups=2))
    assert routing.chosen_TK.tolist() == [[3]]


def test_a_lone_normalised_weight_is_the_scale_and_still_has_a_gradient() -> None:
    logit_TE = torch.tensor([[0.0, math.log(3)]], requires_grad=True)
    routing = route(logit_TE, None, RoutingRule(1, scale=2.0))
    assert routing.weight_TK.tolist() == [[2.0]]
    routing.weight_TK.sum().backward()
    # d (s * p / p0) / d logit = s * (1 - p) = 2 * (1 - 3/4) for a sigmoid
    assert logit_TE.grad is not None
    assert logit_TE.grad[0].tolist() == pytest.approx([0.0, 0.5])


@pytest.mark.parametrize("scores", ["sigmoid", "softmax"])
def test_a_score_of_zero_gives_a_weight_of_zero(scores: Scores) -> None:
    logit_TE = torch.tensor([[-200.0, 0.0, -300.0]], requires_grad=True)
    bias_E = torch.tensor([2.0, 0.0, 2.0])
    for chosen in (1, 2):
        routing = route(logit_TE, bias_E, RoutingRule(chosen, scores))
        assert routing.weight_TK.tolist() == [[0.0] * chosen]
        (gradient,) = torch.autograd.grad(routing.weight_TK.sum(), logit_TE)
        assert bool(gradient.isfinite().all())


@pytest.mark.parametrize("rule", RULES)
def test_of_equal_choices_the_lower_index_wins(rule: RoutingRule) -> None:
    routing = route(torch.zeros(5, 8), torch.zeros(8), rule)
    assert routing.chosen_TK.tolist() == [list(range(rule.num_chosen))] * 5
    choice_TE = torch.tensor([[0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0]])
    assert route(choice_TE, None, RoutingRule(3)).chosen_TK.tolist() == [[1, 3, 4]]


@pytest.mark.parametrize("experts", [16, 256])
def test_a_tie_at_the_last_place_goes_to_the_lower_index(experts: int) -> None:
    # a wide row: torch.topk takes the highest or the middle indices of such a tie on a CPU
    logit_TE = torch.zeros(3, experts)
    logit_TE[:, experts // 2] = 1.0
    routing = route(logit_TE, None, RoutingRule(8, "softmax"))
    assert routing.chosen_TK.tolist() == [[experts // 2, 0, 1, 2, 3, 4, 5, 6]] * 3


def test_of_equal_scores_an_expert_picks_the_earlier_token() -> None:
    for scope, want in (("sample", [0, 1, 6, 7]), ("batch", [0, 1, 2, 3])):
        choice = choose_tokens(torch.zeros(2, 6, 3), 1, "sigmoid", 1.0, scope)  # type: ignore[arg-type]
        assert choice.token_N.tolist() == want * 3


def test_picks_are_sorted_by_expert_and_then_by_token() -> None:
    # expert 0 likes token 2 best, then token 0; expert 1 likes 1, then 2
    logit_BSE = torch.tensor([[[1.0, -1.0], [0.0, 3.0], [2.0, 2.0], [-1.0, -2.0]]])
    choice = choose_tokens(logit_BSE, 1, "sigmoid", 2.0, "sample")
    # C = 4 * 1 / 2 = 2
    assert choice.token_N.tolist() == [0, 2, 1, 2]
    assert choice.counts_E.tolist() == [2, 2]
    want = [2 / (1 + math.exp(-logit)) for logit in (1.0, 2.0, 3.0, 2.0)]
    assert choice.weight_N.tolist() == pytest.approx(want)


@pytest.mark.parametrize(
    ("tokens", "experts", "chosen", "want"),
    [
        (256, 16, 2, 32),
        (7, 4, 2, 4),  # 3.5, halves to even
        (5, 4, 2, 2),  # 2.5, halves to even
        (3, 16, 1, 1),  # 0.19, but at least one
        (0, 16, 1, 0),  # none to pick
        (9, 4, 4, 9),
    ],
)
def test_the_capacity_is_an_experts_even_share(
    tokens: int, experts: int, chosen: int, want: int
) -> None:
    assert capacity(tokens, experts, chosen) == want


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_routing_refuses_half_precision(dtype: torch.dtype) -> None:
    logit_TE = torch.zeros(2, 4, dtype=dtype)
    with pytest.raises(TypeError, match="float32, not torch"):
        route(logit_TE, None, RoutingRule(2))
    with pytest.raises(TypeError, match="with"):
        route(logit_TE.float(), torch.zeros(4, dtype=dtype), RoutingRule(2))
    with pytest.raises(TypeError, match="float32"):
        route_heads(logit_TE[None], torch.zeros(1, 4), 2)
    with pytest.raises(TypeError, match="float32"):
        choose_tokens(logit_TE[None], 2, "sigmoid", 1.0, "sample")


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"num_chosen": 0}, "needs an expert"),
        ({"num_chosen": 9}, "can reach 8 experts"),
        ({"num_chosen": 3, "num_groups": 4}, "can reach 2 experts"),
        ({"num_chosen": 1, "num_groups": 3}, "3 groups of one size"),
        ({"num_chosen": 1, "num_groups": 2, "num_chosen_groups": 3}, "from 1 to num_groups"),
    ],
)
def test_a_rule_that_cannot_be_is_refused(rule: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        route(torch.zeros(2, 8), None, RoutingRule(**rule))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("rule", RULES)
def test_logits_that_are_no_numbers_still_give_valid_experts(
    rule: RoutingRule, value: float
) -> None:
    logit_TE = torch.randn(3, 8)
    logit_TE[0] = value
    logit_TE[1, 3:] = value
    for bias in (torch.zeros(8), torch.full((8,), value)):
        chosen_TK = route(logit_TE, bias, rule).chosen_TK
        assert int(chosen_TK.min()) >= 0
        assert int(chosen_TK.max()) < 8
        assert all(len(set(row)) == rule.num_chosen for row in chosen_TK.tolist())


@pytest.mark.parametrize("value", [float("nan"), -float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("scope", ["sample", "batch"])
def test_logits_that_are_no_numbers_still_give_different_tokens(scope: Scope, value: float) -> None:
    logit_BSE = torch.randn(2, 6, 3)
    logit_BSE[0, 1] = value
    logit_BSE[1, :, 2] = value
    for scores in ("sigmoid", "softmax"):
        choice = choose_tokens(logit_BSE, 2, scores, 1.0, scope)  # type: ignore[arg-type]
        assert choice.counts_E.tolist() == [8] * 3
        for row in choice.token_N.view(3, 8).tolist():
            assert row == sorted(set(row))
            assert 0 <= row[0] <= row[-1] < 12


@pytest.mark.parametrize("rule", RULES)
def test_routing_never_waits_for_the_device(rule: RoutingRule) -> None:
    # a meta tensor has no values: whatever needs one on the host raises
    logit_TE = torch.zeros(12, 8, device="meta", requires_grad=True)
    bias_E = torch.zeros(8, device="meta")
    routing = route(logit_TE, bias_E, rule)
    routing.weight_TK.sum().backward()
    assert routing.chosen_TK.shape == (12, rule.num_chosen)
    with pytest.raises(RuntimeError, match="meta"):
        routing.counts_E.max().item()


def test_heads_and_experts_never_wait_for_the_device() -> None:
    logit_HTE = torch.zeros(3, 4, 8, device="meta")
    assert route_heads(logit_HTE, torch.zeros(3, 8, device="meta"), 2).counts_E.shape == (3, 8)
    for scope in ("sample", "batch"):
        choice = choose_tokens(logit_HTE, 2, "softmax", 1.0, scope)  # type: ignore[arg-type]
        # one token of 4 for each of 8 experts in each of 3 samples: 12 * 2 / 8 in all
        assert choice.token_N.shape == (24,)


@pytest.mark.parametrize("rule", RULES)
def test_weights_pass_a_numerical_check_of_their_gradient(rule: RoutingRule) -> None:
    torch.manual_seed(0)
    logit_TE = torch.randn(3, 8, dtype=torch.float64, requires_grad=True)
    if rule.num_chosen == 1 and rule.is_normalised:
        # its gradient is not that of its value, on purpose, but that of scale * ln p
        weight_TK = route(logit_TE, None, rule).weight_TK
        (got,) = torch.autograd.grad(weight_TK.sum(), logit_TE)
        chosen_TK = route(logit_TE, None, rule).chosen_TK
        score_TE = logit_TE.sigmoid() if rule.scores == "sigmoid" else logit_TE.softmax(1)
        log_p = score_TE.gather(1, chosen_TK).log().sum() * rule.scale
        (want,) = torch.autograd.grad(log_p, logit_TE)
        assert relative_error("d_logit_TE", want, got) < 1e-12
    else:
        assert torch.autograd.gradcheck(
            lambda logit_TE: route(logit_TE, None, rule).weight_TK, logit_TE
        )


def test_picks_and_heads_pass_a_numerical_check_of_their_gradient() -> None:
    torch.manual_seed(0)
    logit_BSE = torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda logit: choose_tokens(logit, 2, "softmax", 2.0, "batch").weight_N, logit_BSE
    )
    bias_HE = torch.randn(2, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda logit: route_heads(logit, bias_HE, 2).weight_TK, logit_BSE
    )


@st.composite
def routings(draw: st.DrawFn) -> tuple[Tensor, Tensor, RoutingRule]:
    """Logits on a coarse grid, so that many of them tie, a bias, and a rule that fits."""
    num_groups = draw(st.integers(1, 4))
    size = draw(st.integers(1, 4))
    num_chosen_groups = draw(st.integers(1, num_groups))
    rule = RoutingRule(
        draw(st.integers(1, num_chosen_groups * size)),
        draw(st.sampled_from(["sigmoid", "softmax"])),
        draw(st.booleans()),
        draw(st.sampled_from([1.0, 2.5])),
        num_groups,
        num_chosen_groups,
    )
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    shape = (draw(st.integers(0, 12)), num_groups * size)
    logit_TE = torch.randint(-3, 4, shape, generator=generator).float()
    bias_E = torch.randint(-2, 3, shape[1:], generator=generator) / 4
    return logit_TE, bias_E, rule


@settings(max_examples=200, deadline=None)
@given(routings())
def test_what_holds_for_every_routing(case: tuple[Tensor, Tensor, RoutingRule]) -> None:
    logit_TE, bias_E, rule = case
    routing = route(logit_TE, bias_E, rule)
    tokens, experts = logit_TE.shape
    assert int(routing.counts_E.sum()) == tokens * rule.num_chosen
    assert torch.equal(count(routing.chosen_TK, experts), routing.counts_E)
    assert torch.equal(routing.chosen_TK, route_reference(*case).chosen_TK)
    assert bool((routing.weight_TK >= 0).all())
    if rule.is_normalised:
        sums_T = routing.weight_TK.sum(1)
        torch.testing.assert_close(sums_T, torch.full((tokens,), rule.scale))
    size = experts // rule.num_groups
    for row in routing.chosen_TK.tolist():
        assert len(set(row)) == rule.num_chosen
        assert len({expert // size for expert in row}) <= rule.num_chosen_groups


def test_groups_that_tie_in_fp32_only_are_chosen_alike() -> None:
    """softmax gives equal logits s, and s + s + 0.5 is not quite s + 0.25 + s + 0.25 in fp64."""
    logit_TE = torch.tensor([[-3.0, 3, 3, -3, 3, 3, -1, 3, 2]])
    bias_E = torch.tensor([0.0, 0.5, 0, 0.25, 0.25, 0.25, -0.5, 0.25, -0.25])
    rule = RoutingRule(1, "softmax", num_groups=3, num_chosen_groups=1)
    assert route(logit_TE, bias_E, rule).chosen_TK.tolist() == [[1]]
    assert route_reference(logit_TE, bias_E, rule).chosen_TK.tolist() == [[1]]


@settings(max_examples=60, deadline=None)
@given(routings(), st.randoms(use_true_random=False))
def test_a_token_is_routed_alike_twice_and_wherever_it_stands(
    case: tuple[Tensor, Tensor, RoutingRule], random: Any
) -> None:
    logit_TE, bias_E, rule = case
    order_T = torch.tensor(random.sample(range(len(logit_TE)), len(logit_TE)), dtype=torch.int64)
    once, again = route(logit_TE, bias_E, rule), route(logit_TE, bias_E, rule)
    moved = route(logit_TE[order_T], bias_E, rule)
    for name in ("chosen_TK", "weight_TK"):
        assert torch.equal(getattr(once, name), getattr(again, name))
        assert torch.equal(getattr(once, name)[order_T], getattr(moved, name))
    assert torch.equal(once.counts_E, moved.counts_E)


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 4),
    st.integers(1, 9),
    st.integers(1, 5),
    st.data(),
    st.sampled_from(["sample", "batch"]),
)
def test_every_expert_picks_its_capacity_of_different_tokens(
    samples: int, tokens: int, experts: int, data: st.DataObject, scope: Scope
) -> None:
    chosen = data.draw(st.integers(1, experts))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**16)))
    logit_BSE = torch.randint(-2, 3, (samples, tokens, experts), generator=generator).float()
    choice = choose_tokens(logit_BSE, chosen, "softmax", 1.0, scope)
    per_expert = (
        samples * capacity(tokens, experts, chosen)
        if scope == "sample"
        else capacity(samples * tokens, experts, chosen)
    )
    assert choice.counts_E.tolist() == [per_expert] * experts
    for row in choice.token_N.view(experts, per_expert).tolist():
        assert row == sorted(set(row))
        assert 0 <= row[0] <= row[-1] < samples * tokens
    assert torch.equal(
        choice.token_N, choose_tokens_reference(logit_BSE, chosen, "softmax", 1.0, scope).token_N
    )
