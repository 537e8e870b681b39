"""Balance losses, the loss that keeps experts apart, and the counts of a whole optimizer step."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from moescope.kernels.compare import relative_error
from moescope.kernels.routing.op import route, route_heads
from moescope.kernels.routing.reference import RoutingRule
from moescope.trainer.moe.balance import balance_loss, contrast_loss, sum_over_ranks, z_loss
from moescope.trainer.moe.router import LinearRouter

# B batch  S stream tokens  T tokens (B*S)  D width  E experts  K chosen experts  H heads

WIDTH, EXPERTS, CHOSEN = 16, 8, 2


def test_perfect_balance_costs_one_whatever_k_is() -> None:
    score_TE = torch.full((12, 6), 1 / 6)
    for chosen in (1, 2, 3, 6):
        counts_E = torch.full((6,), 12 * chosen // 6)
        # E * sum_e (1/E) (1/E) = 1
        assert balance_loss(score_TE, counts_E, chosen).item() == pytest.approx(1.0)


def test_collapse_onto_k_experts_costs_e_over_k() -> None:
    score_TE = torch.tensor([[0.5, 0.5, 0.0, 0.0, 0.0, 0.0]]).repeat(10, 1)
    counts_E = torch.tensor([10, 10, 0, 0, 0, 0])
    # 6 * (1/2 * 1/2 + 1/2 * 1/2) = 3 = 6 / 2
    assert balance_loss(score_TE, counts_E, 2).item() == pytest.approx(3.0)


def test_sigmoid_scores_are_brought_to_a_sum_of_one() -> None:
    score_TE = torch.tensor([[0.6, 0.2], [0.9, 0.3]])
    # both rows are 3/4, 1/4; f = 3/4, 1/4: 2 * (9/16 + 1/16)
    assert balance_loss(score_TE, torch.tensor([3, 1]), 2).item() == pytest.approx(1.25)


def test_the_balance_gradient_lowers_busy_experts_and_raises_idle_ones() -> None:
    logit_TE = torch.zeros(4, 2, requires_grad=True)
    loss = balance_loss(logit_TE.softmax(1), torch.tensor([4, 0]), 1)
    loss.backward()
    # d/dlogit = p (g - sum p g), g = E f / T = (.5, 0): .5 * (.5 - .25), .5 * (0 - .25)
    assert logit_TE.grad is not None
    torch.testing.assert_close(logit_TE.grad, torch.tensor([[0.125, -0.125]]).repeat(4, 1))


def test_descending_the_balance_loss_balances() -> None:
    torch.manual_seed(0)
    x_TD = torch.randn(256, WIDTH) * 0.5 + torch.randn(WIDTH)
    weight_ED = torch.randn(EXPERTS, WIDTH, requires_grad=True)

    def violation() -> float:
        counts_E = route(F.linear(x_TD, weight_ED), None, RoutingRule(CHOSEN)).counts_E.float()
        return float(counts_E.max() / counts_E.mean()) - 1

    before = violation()
    optimizer = torch.optim.Adam([weight_ED], lr=0.02)
    for _ in range(200):
        routing = route(F.linear(x_TD, weight_ED), None, RoutingRule(CHOSEN))
        optimizer.zero_grad()
        balance_loss(routing.score_TE, routing.counts_E, CHOSEN).backward()
        optimizer.step()
    assert before > 1.0
    assert violation() < 0.3


def test_each_head_or_sequence_is_balanced_by_itself_and_the_mean_is_taken() -> None:
    torch.manual_seed(0)
    routing = route_heads(torch.randn(3, 10, 4), torch.zeros(3, 4), 2)
    each = [
        balance_loss(score_TE, counts_E, 2).item()
        for score_TE, counts_E in zip(routing.score_TE, routing.counts_E, strict=True)
    ]
    together = balance_loss(routing.score_TE, routing.counts_E, 2)
    assert together.item() == pytest.approx(sum(each) / 3)
    z_each = [z_loss(logit_TE).item() for logit_TE in routing.logit_TE]
    assert z_loss(routing.logit_TE).item() == pytest.approx(sum(z_each) / 3)


def test_the_counts_that_are_given_as_total_stand_for_f() -> None:
    score_TE = torch.tensor([[0.75, 0.25]])
    total_E = torch.tensor([1, 3])
    # 2 * (1/4 * 3/4 + 3/4 * 1/4) = 3/4
    loss = balance_loss(score_TE, torch.tensor([1, 0]), 1, total_E)
    assert loss.item() == pytest.approx(0.75)


def test_no_tokens_cost_nothing() -> None:
    empty_TE = torch.zeros(0, 4, requires_grad=True)
    nothing_E = torch.zeros(4, dtype=torch.int64)
    losses = [
        balance_loss(empty_TE, nothing_E, 2),
        balance_loss(empty_TE, nothing_E, 2, nothing_E),
        z_loss(empty_TE),
    ]
    assert [loss.item() for loss in losses] == [0.0, 0.0, 0.0]


def test_the_z_loss_is_the_mean_squared_log_of_the_sum() -> None:
    # ln 8 squared
    assert z_loss(torch.zeros(5, 8)).item() == pytest.approx(2.0794415**2)
    logit_TE = torch.randn(5, 8, dtype=torch.float64, requires_grad=True)
    (got,) = torch.autograd.grad(z_loss(logit_TE), logit_TE)
    lse_T1 = logit_TE.exp().sum(1, keepdim=True).log()
    torch.testing.assert_close(got, 2 * lse_T1 * logit_TE.softmax(1) / 5)


def test_orthogonal_experts_cost_nothing_and_identical_ones_one() -> None:
    assert contrast_loss(torch.eye(4) * torch.tensor([1.0, 5.0, 0.1, 3.0])).item() == 0.0
    same = torch.randn(1, 3, 5)
    for factors in ([1.0, 1.0, 1.0], [1.0, 2.0, 0.01], [1.0, -1.0, 1.0]):
        clones = same * torch.tensor(factors)[:, None, None]
        assert contrast_loss(clones).item() == pytest.approx(1.0)


def test_the_contrast_loss_is_the_mean_squared_cosine_of_pairs() -> None:
    # 60 degrees between one and two, both orthogonal to three: (1/2)^2 / 3 pairs
    experts_EN = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.75**0.5, 0.0], [0.0, 0.0, 2.0]])
    assert contrast_loss(experts_EN).item() == pytest.approx(0.25 / 3)
    torch.manual_seed(0)
    weights_EDG = torch.randn(5, 4, 6)
    flat_EN = weights_EDG.flatten(1)
    cosines = [
        F.cosine_similarity(flat_EN[i], flat_EN[j], dim=0).item() ** 2
        for i in range(5)
        for j in range(i)
    ]
    assert contrast_loss(weights_EDG).item() == pytest.approx(sum(cosines) / 10, rel=1e-5)


def test_the_contrast_gradient_passes_a_numerical_check() -> None:
    torch.manual_seed(0)
    experts_EN = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(contrast_loss, experts_EN)


@pytest.mark.parametrize("size", [1e-8, 1.0, 1e8])
def test_the_contrast_loss_does_not_depend_on_the_size_of_experts(size: float) -> None:
    torch.manual_seed(0)
    experts_EN = torch.randn(3, 4)
    want = contrast_loss(experts_EN).item()
    assert contrast_loss(experts_EN * size).item() == pytest.approx(want, rel=1e-5)


def test_the_contrast_loss_is_computed_in_fp32_where_products_run_in_bf16() -> None:
    torch.manual_seed(0)
    experts_EN = torch.randn(4, 30)
    want = contrast_loss(experts_EN).item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert contrast_loss(experts_EN).item() == want


def test_an_idle_expert_s_zero_answer_is_unlike_all_others() -> None:
    experts_EN = torch.tensor([[1.0, 2.0], [0.0, 0.0], [2.0, 4.0]], requires_grad=True)
    loss = contrast_loss(experts_EN)
    # one of three pairs is alike
    assert loss.item() == pytest.approx(1 / 3)
    loss.backward()
    assert experts_EN.grad is not None
    assert bool(experts_EN.grad.isfinite().all())


def test_a_lone_expert_has_nobody_to_be_alike() -> None:
    assert contrast_loss(torch.randn(1, 4)).item() == 0.0


def test_near_clones_part_but_exact_ones_are_at_rest() -> None:
    torch.manual_seed(0)
    dense_1N = torch.randn(1, 50)
    clones_EN = dense_1N.repeat(4, 1).requires_grad_()
    (gradient,) = torch.autograd.grad(contrast_loss(clones_EN), clones_EN)
    assert float(gradient.norm()) < 1e-6
    near_EN = (dense_1N + 0.01 * torch.randn(4, 50)).requires_grad_()
    optimizer = torch.optim.Adam([near_EN], lr=0.02)
    for _ in range(200):
        optimizer.zero_grad()
        contrast_loss(near_EN).backward()
        optimizer.step()
    assert contrast_loss(near_EN).item() < 0.1


def test_without_other_ranks_the_sum_is_a_copy_without_gradient() -> None:
    values = torch.ones(3, requires_grad=True)
    total = sum_over_ranks(values)
    assert not total.requires_grad
    total.add_(1)
    assert values.tolist() == [1.0, 1.0, 1.0]


def _router() -> LinearRouter:
    torch.manual_seed(0)
    return LinearRouter(WIDTH, EXPERTS, RoutingRule(CHOSEN), std=1.0, has_bias=True)


def _loss_and_gradient(router: LinearRouter, x_BSD: Tensor) -> tuple[float, Tensor]:
    routing = router(x_BSD)
    loss = balance_loss(routing.score_TE, routing.counts_E, CHOSEN)
    (gradient,) = torch.autograd.grad(loss, router.weight_ED)
    return loss.item(), gradient


def test_so_far_is_the_first_batch_first_and_the_whole_at_last() -> None:
    router = _router()
    torch.manual_seed(1)
    micro = [torch.randn(4, 6, WIDTH) + shift for shift in torch.randn(3, WIDTH)]
    losses, so_far_E = [], torch.zeros(EXPERTS, dtype=torch.int64)
    for x_BSD in micro:
        routing = router(x_BSD)
        so_far_E = so_far_E + routing.counts_E
        losses.append(balance_loss(routing.score_TE, routing.counts_E, CHOSEN, so_far_E).item())
    whole = router(torch.cat(micro)).counts_E
    assert torch.equal(so_far_E, whole)
    # the first loss knows its own micro-batch alone, the last one what the exact way knows
    assert losses[0] == pytest.approx(_loss_and_gradient(router, micro[0])[0])
    last = router(micro[-1])
    assert losses[-1] == balance_loss(last.score_TE, last.counts_E, CHOSEN, whole).item()
    # and that is why the mean differs from the joined batch's: it punishes what evens out
    assert sum(losses) / 3 > _loss_and_gradient(router, torch.cat(micro))[0]


def test_micro_batches_that_know_all_counts_are_the_joined_batch() -> None:
    router = _router()
    torch.manual_seed(1)
    micro = [torch.randn(4, 6, WIDTH) + shift for shift in torch.randn(3, WIDTH)]
    with torch.no_grad():
        total_E = torch.stack([router(x_BSD).counts_E for x_BSD in micro]).sum(0)
    loss = 0.0
    for x_BSD in micro:
        routing = router(x_BSD)
        part = balance_loss(routing.score_TE, routing.counts_E, CHOSEN, total_E) / len(micro)
        part.backward()
        loss += part.item()
    want_loss, want_gradient = _loss_and_gradient(router, torch.cat(micro))
    assert loss == pytest.approx(want_loss, rel=1e-6)
    assert router.weight_ED.grad is not None
    assert relative_error("d_weight_ED", want_gradient, router.weight_ED.grad) < 1e-5
    # each by itself is another loss
    alone = sum(_loss_and_gradient(router, x_BSD)[0] for x_BSD in micro) / len(micro)
    assert alone > want_loss + 0.1


Found = dict[str, dict[str, Tensor]]


@pytest.fixture(scope="module")
def of_two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What two processes find that share a batch, in two micro-batches each, and what one finds."""
    folder = tmp_path_factory.mktemp("ranks")
    script = Path(__file__).with_name("balance_of_a_rank.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-W", "error", str(script), str(rank), "2", str(folder)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        errors = [rank.communicate(timeout=120)[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], errors
    found: Found = torch.load(folder / "found.pt")
    return found


def test_ranks_that_know_all_counts_are_the_joined_batch(of_two_ranks: Found) -> None:
    split, joined = of_two_ranks["split"], of_two_ranks["joined"]
    assert torch.equal(split["total"], joined["total"])
    assert split["loss"].item() == pytest.approx(joined["loss"].item(), rel=1e-6)
    assert relative_error("d_weight_ED", joined["gradient"], split["gradient"]) < 1e-5


def test_the_bias_of_ranks_moves_by_the_counts_of_all(of_two_ranks: Found) -> None:
    assert torch.equal(of_two_ranks["split"]["bias"], of_two_ranks["joined"]["bias"])


def test_so_far_counts_all_ranks_of_every_micro_batch(of_two_ranks: Found) -> None:
    so_far_ME, joined_E = of_two_ranks["split"]["so_far"], of_two_ranks["joined"]["total"]
    # eight samples of six tokens on two experts each; half of them after the first micro-batches
    assert so_far_ME.sum(1).tolist() == [48, 96]
    assert torch.equal(so_far_ME[-1], joined_E)


def test_thresholds_are_averaged_over_ranks_and_micro_batches(of_two_ranks: Found) -> None:
    torch.testing.assert_close(
        of_two_ranks["split"]["threshold"], of_two_ranks["joined"]["threshold"]
    )
