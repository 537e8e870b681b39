"""The routers: their logits, the bias that balances them, and what changes no state."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moescope.kernels.compare import relative_error
from moescope.kernels.routing.reference import RoutingRule
from moescope.trainer.moe.router import (
    CrossAttentionRouter,
    HeadRouters,
    LinearRouter,
    MlpRouter,
    TokenRouter,
)

# B batch  S stream tokens  T tokens (B*S)  D width  E experts  K chosen experts  H heads

WIDTH, EXPERTS = 16, 4
RULE = RoutingRule(2, scale=2.0)
KEEP, HOLD = torch.ones(()), torch.zeros(())

Make = Callable[[RoutingRule, bool], TokenRouter]
MAKERS: dict[str, Make] = {
    "linear": lambda rule, bias: LinearRouter(WIDTH, EXPERTS, rule, has_bias=bias),
    "mlp": lambda rule, bias: MlpRouter(WIDTH, EXPERTS, rule, 32, has_bias=bias),
    "cross_attention": lambda rule, bias: CrossAttentionRouter(WIDTH, EXPERTS, rule, has_bias=bias),
}


@pytest.fixture(params=list(MAKERS))
def make(request: pytest.FixtureRequest) -> Make:
    torch.manual_seed(0)
    return MAKERS[request.param]


def _linear() -> LinearRouter:
    torch.manual_seed(0)
    return LinearRouter(WIDTH, EXPERTS, RULE, has_bias=True)


def test_every_router_answers_for_all_tokens_of_all_samples(make: Make) -> None:
    router = make(RULE, True)
    x_BSD, told_BSD = torch.randn(3, 5, WIDTH), torch.randn(3, 2, WIDTH)
    routing = router(x_BSD, told_BSD)
    assert routing.chosen_TK.shape == (15, 2)
    assert routing.score_TE.shape == routing.logit_TE.shape == (15, EXPERTS)
    torch.testing.assert_close(routing.weight_TK.sum(1), torch.full((15,), 2.0))
    # sample after sample: a sample by itself is routed as in its batch
    alone = router(x_BSD[1:2], told_BSD[1:2])
    assert torch.equal(alone.chosen_TK, routing.chosen_TK[5:10])


def test_every_router_learns_all_its_parameters_from_the_weights(make: Make) -> None:
    for scores in ("sigmoid", "softmax"):
        router = make(RoutingRule(2, scores), True)
        routing = router(torch.randn(3, 5, WIDTH), torch.randn(3, 4, WIDTH))
        (routing.weight_TK * torch.randn(15, 2)).sum().backward()
        for name, parameter in router.named_parameters():
            if name == "key_value.bias":
                continue  # half of it is of the keys, which a softmax does not see: looked at below
            assert parameter.grad is not None, name
            assert float(parameter.grad.norm()) > 0, name


def test_a_lone_expert_leaves_every_router_a_gradient(make: Make) -> None:
    router = make(RoutingRule(1), False)
    routing = router(torch.randn(3, 5, WIDTH))
    torch.testing.assert_close(routing.weight_TK, torch.ones(15, 1))
    (routing.weight_TK * torch.randn(15, 1)).sum().backward()
    first = next(iter(router.parameters()))
    assert first.grad is not None
    assert float(first.grad.norm()) > 0


def test_a_forward_changes_no_state(make: Make) -> None:
    router = make(RULE, True)
    before = {name: value.clone() for name, value in router.state_dict().items()}
    router(torch.randn(2, 8, WIDTH))
    assert all(torch.equal(value, before[name]) for name, value in router.state_dict().items())
    assert "bias_E" in before


def test_names_in_checkpoints_stay() -> None:
    assert set(_linear().state_dict()) == {"weight_ED", "bias_E"}


def test_a_router_without_bias_has_none_to_save_or_move(make: Make) -> None:
    router = make(RULE, False)
    assert router.bias_E is None
    assert "bias_E" not in router.state_dict()
    with pytest.raises(ValueError, match="has_bias=True"):
        router.update_bias(torch.ones(EXPERTS), 0.01, KEEP)


def test_without_bias_is_with_a_bias_of_zero(make: Make) -> None:
    x_BSD = torch.randn(2, 8, WIDTH)
    torch.manual_seed(1)
    with_bias = make(RULE, True)
    torch.manual_seed(1)
    without = make(RULE, False)
    assert torch.equal(with_bias(x_BSD).chosen_TK, without(x_BSD).chosen_TK)


def test_routing_is_done_in_fp32_whatever_comes_in(make: Make) -> None:
    router = make(RULE, True)
    x_BSD, told_BSD = torch.randn(2, 4, WIDTH).bfloat16(), torch.randn(2, 3, WIDTH).bfloat16()
    # as inside the model on a GPU, where products run in bf16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        routing = router(x_BSD, told_BSD)
    assert routing.score_TE.dtype is routing.weight_TK.dtype is torch.float32
    assert torch.equal(routing.logit_TE, router(x_BSD.float(), told_BSD.float()).logit_TE)


def test_close_experts_that_tie_in_half_precision_are_told_apart() -> None:
    router = LinearRouter(2, 3, RoutingRule(1), has_bias=False)
    # logits 1, 1.001, .5: in bf16 the first two are the same, and the first would win
    router.weight_ED.data = torch.tensor([[1.0, 0.0], [1.0, 0.001], [0.5, 0.0]])
    x_BSD = torch.ones(1, 1, 2, dtype=torch.bfloat16)
    half_TE = F.linear(x_BSD[0], router.weight_ED.bfloat16())
    assert half_TE[0, 0] == half_TE[0, 1]
    assert router(x_BSD).chosen_TK.tolist() == [[1]]


@pytest.mark.parametrize(
    ("make_router", "want"),
    [
        # E D
        (lambda: LinearRouter(24, 8, RULE, has_bias=True), 8 * 24),
        # D h + h + h E + E
        (
            lambda: MlpRouter(24, 8, RULE, has_bias=True),
            24 * 256 + 256 + 256 * 8 + 8,
        ),
        # 4 D^2 + 4 D + D E + E
        (
            lambda: CrossAttentionRouter(24, 8, RULE, heads=2, has_bias=True),
            4 * 24**2 + 4 * 24 + 24 * 8 + 8,
        ),
        # H E d
        (lambda: HeadRouters(6, 4, 8, 2), 4 * 8 * 6),
    ],
)
def test_the_number_of_parameters_is_as_written(
    make_router: Callable[[], nn.Module], want: int
) -> None:
    assert sum(p.numel() for p in make_router().parameters()) == want


def test_the_paper_s_cross_attention_gates_are_about_a_billion() -> None:
    # 30 layers of width 3072 and two experts: facts: model.md section 9
    with torch.device("meta"):
        router = CrossAttentionRouter(3072, 2, RULE, has_bias=False)
    assert 30 * sum(p.numel() for p in router.parameters()) == pytest.approx(1.133e9, rel=1e-3)


def test_the_mlp_router_starts_close_to_a_tie_but_not_at_one() -> None:
    torch.manual_seed(0)
    router = MlpRouter(64, 16, RULE, has_bias=False)
    # N(0, .002^2) over 256 * 16 weights: the spread is known to 1 / sqrt(2 * 4096) = 1.1%
    assert router.last.weight.std().item() == pytest.approx(0.002, rel=0.05)
    assert bool((router.last.bias == 0).all())
    routing = router(torch.randn(4, 100, 64))
    assert float(routing.logit_TE.detach().abs().max()) < 0.2
    # at an exact tie every token would go to experts 0 and 1
    assert bool((routing.counts_E > 0).all())


def _multihead_attention(router: CrossAttentionRouter) -> nn.MultiheadAttention:
    attention = nn.MultiheadAttention(WIDTH, router.heads, batch_first=True)
    weights = (router.query.weight, router.key_value.weight)
    biases = (router.query.bias, router.key_value.bias)
    attention.in_proj_weight.data = torch.cat(weights).detach().clone()
    attention.in_proj_bias.data = torch.cat(biases).detach().clone()
    attention.out_proj.weight.data = router.mix.weight.detach().clone()
    attention.out_proj.bias.data = router.mix.bias.detach().clone()
    return attention


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("told", [None, 0, 1, 5])
def test_the_cross_attention_router_is_torch_s_multihead_attention(
    heads: int, told: int | None
) -> None:
    torch.manual_seed(0)
    router = CrossAttentionRouter(WIDTH, EXPERTS, RULE, heads, has_bias=False)
    for bias in (router.query.bias, router.key_value.bias, router.mix.bias, router.last.bias):
        bias.data.normal_()
    x_BSD = torch.randn(3, 7, WIDTH, requires_grad=True)
    told_BSD = None if told is None else torch.randn(3, told, WIDTH)
    attention = _multihead_attention(router)
    source_BSD = told_BSD if told_BSD is not None and told else x_BSD
    answer_BSD, _ = attention(x_BSD, source_BSD, source_BSD, need_weights=False)
    want_TE = router.last(answer_BSD).flatten(0, 1)
    got_TE = router(x_BSD, told_BSD).logit_TE
    assert relative_error("logit_TE", want_TE, got_TE) < 1e-6
    upstream_TE = torch.randn_like(want_TE)
    want = torch.autograd.grad(
        want_TE,
        [x_BSD, attention.in_proj_weight, attention.in_proj_bias, attention.out_proj.weight],
        upstream_TE,
    )
    query_w, key_value_w, query_b, key_value_b, x, mix_w = torch.autograd.grad(
        got_TE,
        [
            router.query.weight,
            router.key_value.weight,
            router.query.bias,
            router.key_value.bias,
            x_BSD,
            router.mix.weight,
        ],
        upstream_TE,
    )
    got = (x, torch.cat((query_w, key_value_w)), torch.cat((query_b, key_value_b)), mix_w)
    names = ("d_x_BSD", "d_in_weight", "d_in_bias", "d_out_weight")
    for name, a, b in zip(names, want, got, strict=True):
        assert relative_error(name, a, b) < 1e-5


def test_the_cross_attention_router_starts_as_multihead_attention_does() -> None:
    torch.manual_seed(0)
    router = CrossAttentionRouter(128, EXPERTS, RULE, has_bias=False)
    theirs = nn.MultiheadAttention(128, 2)
    ours_in = torch.cat((router.query.weight, router.key_value.weight)).detach()
    for ours, want in (
        (ours_in, theirs.in_proj_weight),
        (router.mix.weight.detach(), theirs.out_proj.weight),
    ):
        assert ours.std().item() == pytest.approx(want.std().item(), rel=0.02)
        assert ours.abs().max().item() == pytest.approx(want.abs().max().item(), rel=0.01)
    biases = (router.query.bias, router.key_value.bias, router.mix.bias, router.last.bias)
    assert all(bool((bias == 0).all()) for bias in biases)


def test_a_router_s_heads_must_divide_its_width() -> None:
    with pytest.raises(ValueError, match="3 heads do not divide the width 16"):
        CrossAttentionRouter(WIDTH, EXPERTS, RULE, heads=3, has_bias=False)


def test_a_rule_that_the_experts_do_not_fit_is_refused_when_made(make: Make) -> None:
    with pytest.raises(ValueError, match="can reach 4 experts"):
        make(RoutingRule(5), True)


def test_the_bias_rises_for_idle_experts_and_falls_for_busy_ones() -> None:
    router = _linear()
    router.update_bias(torch.tensor([10, 0, 5, 5]), 0.01, KEEP)
    # mean 5: above, below, equal, equal
    assert router.bias_E is not None
    assert torch.equal(router.bias_E, torch.tensor([-0.01, 0.01, 0.0, 0.0]))


def test_a_step_that_is_held_back_leaves_the_bias_alone() -> None:
    router = _linear()
    router.update_bias(torch.tensor([10, 0, 5, 5]), 0.01, HOLD)
    assert router.bias_E is not None
    assert bool((router.bias_E == 0).all())


def test_the_bias_balances_what_the_scores_do_not() -> None:
    router = _linear()
    torch.manual_seed(1)
    # a common part in every token makes some experts everybody's favourites
    x_BSD = torch.randn(4, 128, WIDTH) * 0.5 + torch.randn(WIDTH)

    def max_violation() -> float:
        counts_E = router(x_BSD).counts_E.float()
        return float(counts_E.max() / counts_E.mean()) - 1

    router.weight_ED.data.mul_(20)
    before = max_violation()
    for _ in range(300):
        router.update_bias(router(x_BSD).counts_E, 0.01, KEEP)
    assert before > 0.5
    assert max_violation() < 0.1


def test_several_forwards_and_one_update_are_one_forward_of_the_joined_batch() -> None:
    torch.manual_seed(1)
    x_BSD = torch.randn(8, 6, WIDTH)
    joined, split = _linear(), _linear()
    assert joined.bias_E is not None
    assert split.bias_E is not None
    largest = 0.0
    for _ in range(20):
        joined.update_bias(joined(x_BSD).counts_E, 0.01, KEEP)
        counts_ME = torch.stack([split(part_BSD).counts_E for part_BSD in x_BSD.split([1, 4, 3])])
        split.update_bias(counts_ME.sum(0), 0.01, KEEP)
        assert torch.equal(joined.bias_E, split.bias_E)
        largest = max(largest, float(joined.bias_E.abs().max()))
    assert largest > 0


def _heads() -> HeadRouters:
    torch.manual_seed(0)
    return HeadRouters(head_width=6, num_heads=3, num_experts=4, num_chosen=2)


def test_each_head_routes_its_parts_by_itself() -> None:
    heads = _heads()
    heads.bias_HE.normal_(std=0.1)
    z_THD = torch.randn(5, 3, 6, requires_grad=True)
    routing = heads(z_THD)
    for head in range(3):
        logit_TE = z_THD[:, head] @ heads.weight_HED[head].t()
        chosen_TK = (logit_TE + heads.bias_HE[head]).topk(2, dim=1).indices
        weight_TK = logit_TE.gather(1, chosen_TK).softmax(1)
        # row t * H + h
        assert torch.equal(routing.chosen_TK[head::3], chosen_TK + 4 * head)
        torch.testing.assert_close(routing.weight_TK[head::3], weight_TK)
        torch.testing.assert_close(routing.logit_TE[head], logit_TE)
        torch.testing.assert_close(routing.score_TE[head], logit_TE.softmax(1))
        assert torch.equal(routing.counts_E[head], chosen_TK.flatten().bincount(minlength=4))


def test_a_head_does_not_hear_of_the_others() -> None:
    heads = _heads()
    z_THD = torch.randn(5, 3, 6, requires_grad=True)
    routing = heads(z_THD)
    (d_z_THD, d_weight_HED) = torch.autograd.grad(
        (routing.weight_TK[1::3] * torch.randn(5, 2)).sum(), [z_THD, heads.weight_HED]
    )
    assert float(d_z_THD[:, 1].norm()) > 0
    assert float(d_weight_HED[1].norm()) > 0
    assert bool((d_z_THD[:, [0, 2]] == 0).all())
    assert bool((d_weight_HED[[0, 2]] == 0).all())


def test_heads_are_balanced_each_against_its_own_mean() -> None:
    heads = _heads()
    counts_HE = torch.tensor([[4, 0, 1, 3], [2, 2, 2, 2], [0, 0, 0, 8]])
    heads.update_bias(counts_HE, 0.01, HOLD)
    assert bool((heads.bias_HE == 0).all())
    heads.update_bias(counts_HE, 0.01, KEEP)
    want = [[-1.0, 1.0, 1.0, -1.0], [0.0] * 4, [1.0, 1.0, 1.0, -1.0]]
    assert torch.equal(heads.bias_HE, torch.tensor(want) * 0.01)


def test_heads_route_in_fp32_and_change_no_state() -> None:
    heads = _heads()
    before = {name: value.clone() for name, value in heads.state_dict().items()}
    z_THD = torch.randn(5, 3, 6).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        routing = heads(z_THD)
    assert routing.weight_TK.dtype is torch.float32
    assert torch.equal(routing.logit_TE, heads(z_THD.float()).logit_TE)
    assert set(before) == {"weight_HED", "bias_HE"}
    assert all(torch.equal(value, before[name]) for name, value in heads.state_dict().items())


def test_a_lone_expert_per_head_is_refused() -> None:
    with pytest.raises(ValueError, match="no gradient with fewer than 2"):
        HeadRouters(6, 3, 4, 1)


def test_weights_of_a_softmax_over_the_chosen_ones_equal_a_normalised_softmax() -> None:
    # e^a / (e^a + e^b), whichever sum over all experts both were divided by before
    torch.manual_seed(0)
    heads = HeadRouters(WIDTH, 1, EXPERTS, 2)
    linear = LinearRouter(WIDTH, EXPERTS, RoutingRule(2, "softmax"), has_bias=False)
    linear.weight_ED.data.copy_(heads.weight_HED.data[0])
    x_TD: Tensor = torch.randn(9, WIDTH)
    a, b = heads(x_TD[:, None]), linear(x_TD)
    assert torch.equal(a.chosen_TK, b.chosen_TK)
    torch.testing.assert_close(a.weight_TK, b.weight_TK)
