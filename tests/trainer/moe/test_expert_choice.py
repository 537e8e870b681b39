"""Routers with which experts pick tokens: who picks in which mode, and when thresholds move."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from moescope.kernels.compare import relative_error
from moescope.kernels.routing.reference import ExpertChoice, choose_tokens_reference
from moescope.trainer.moe.expert_choice import BatchChoiceRouter, ExpertChoiceRouter

# B batch  S stream tokens  T tokens (B*S)  D width  E experts  N picks of experts

WIDTH, EXPERTS, CHOSEN = 16, 4, 2
KEEP, HOLD = torch.ones(()), torch.zeros(())


def _by_sample() -> ExpertChoiceRouter:
    torch.manual_seed(0)
    return ExpertChoiceRouter(WIDTH, EXPERTS, CHOSEN, "softmax", 2.0)


def _by_batch() -> BatchChoiceRouter:
    torch.manual_seed(0)
    return BatchChoiceRouter(WIDTH, EXPERTS, CHOSEN, "softmax", 2.0)


def _batch(seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, 8, WIDTH, generator=generator)


def _picked(choice: ExpertChoice) -> Tensor:
    """(E, T) bool, from the rows."""
    expert_N = torch.arange(EXPERTS).repeat_interleave(choice.counts_E)
    is_picked_ET = torch.zeros(EXPERTS, choice.score_TE.shape[0], dtype=torch.bool)
    is_picked_ET[expert_N, choice.token_N] = True
    return is_picked_ET


def _predicted(router: BatchChoiceRouter, x_BSD: Tensor) -> Tensor:
    logit_TE: Tensor = router.last(F.silu(router.first(x_BSD.flatten(0, 1))))
    return logit_TE.sigmoid().detach()


def test_each_sample_gives_every_expert_its_share() -> None:
    router, x_BSD = _by_sample(), _batch()
    choice = router(x_BSD)
    want = choose_tokens_reference(x_BSD @ router.weight_ED.t(), CHOSEN, "softmax", 2.0, "sample")
    assert torch.equal(choice.token_N, want.token_N)
    assert relative_error("weight_N", want.weight_N, choice.weight_N) < 1e-6
    # 8 tokens * 2 / 4 experts = 4 of each of 3 samples
    assert choice.counts_E.tolist() == [12] * EXPERTS
    assert _picked(choice).view(EXPERTS, 3, 8).sum(2).tolist() == [[4, 4, 4]] * EXPERTS


def test_a_sample_is_routed_alike_in_any_company_and_mode() -> None:
    router, x_BSD = _by_sample(), _batch()
    together, alone = _picked(router(x_BSD)), _picked(router(x_BSD[1:2]))
    assert torch.equal(together[:, 8:16], alone)
    assert torch.equal(_picked(router.eval()(x_BSD)), together)
    with torch.no_grad():
        assert torch.equal(_picked(router(x_BSD)), together)


def test_the_router_learns_from_the_weights_of_picks() -> None:
    for router in (_by_sample(), _by_batch()):
        x_BSD = _batch().requires_grad_()
        choice = router(x_BSD)
        (choice.weight_N * torch.randn(choice.weight_N.shape)).sum().backward()
        assert router.weight_ED.grad is not None
        assert float(router.weight_ED.grad.norm()) > 0
        assert x_BSD.grad is not None
        assert float(x_BSD.grad.norm()) > 0


def test_a_forward_of_a_sample_s_router_changes_no_state() -> None:
    router = _by_sample()
    before = {name: value.clone() for name, value in router.state_dict().items()}
    router(_batch())
    assert set(before) == {"weight_ED"}
    assert torch.equal(router.weight_ED, before["weight_ED"])


@pytest.mark.parametrize("make", [_by_sample, _by_batch])
def test_experts_pick_in_fp32_whatever_comes_in(
    make: Callable[[], ExpertChoiceRouter | BatchChoiceRouter],
) -> None:
    router, x_BSD = make(), _batch().bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        choice = router(x_BSD)
    assert choice.weight_N.dtype is choice.score_TE.dtype is torch.float32
    assert torch.equal(choice.logit_TE, router(x_BSD.float()).logit_TE)
    assert torch.equal(choice.token_N, router(x_BSD.float()).token_N)


def test_the_numbers_of_parameters_are_as_written() -> None:
    assert sum(p.numel() for p in _by_sample().parameters()) == EXPERTS * WIDTH
    want = EXPERTS * WIDTH + WIDTH**2 + WIDTH + WIDTH * EXPERTS + EXPERTS
    assert sum(p.numel() for p in _by_batch().parameters()) == want


@pytest.mark.parametrize("kind", [ExpertChoiceRouter, BatchChoiceRouter])
def test_more_experts_per_token_than_there_are_is_refused(
    kind: type[ExpertChoiceRouter] | type[BatchChoiceRouter],
) -> None:
    with pytest.raises(ValueError, match="can reach 4 experts"):
        kind(WIDTH, EXPERTS, 5, "softmax", 1.0)


def test_in_training_experts_pick_from_the_whole_batch() -> None:
    router, x_BSD = _by_batch(), _batch()
    choice = router(x_BSD)
    want = choose_tokens_reference(x_BSD @ router.weight_ED.t(), CHOSEN, "softmax", 2.0, "batch")
    assert torch.equal(choice.token_N, want.token_N)
    # 24 tokens * 2 / 4 experts
    assert choice.counts_E.tolist() == [12] * EXPERTS
    # samples get unequal shares, which is the point
    assert _picked(choice).view(EXPERTS, 3, 8).sum(2).unique().numel() > 1


def test_the_predictor_learns_what_was_picked_and_nothing_else_learns_from_it() -> None:
    router, x_BSD = _by_batch(), _batch().requires_grad_()
    choice = router(x_BSD)
    loss = router.predictor_loss
    assert loss is not None
    p_TE, is_picked_TE = _predicted(router, x_BSD), _picked(choice).t()
    want = -torch.where(is_picked_TE, p_TE, 1 - p_TE).log().mean()
    assert loss.item() == pytest.approx(want.item(), rel=1e-5)
    loss.backward()
    predictor = {"first.weight", "first.bias", "last.weight", "last.bias"}
    learning = {name for name, p in router.named_parameters() if p.grad is not None}
    assert learning == predictor
    assert x_BSD.grad is None
    # and the other way round, the weights teach the predictor nothing
    router.zero_grad()
    router(x_BSD).weight_N.sum().backward()
    assert {name for name, p in router.named_parameters() if p.grad is not None} == {"weight_ED"}


def test_only_a_training_forward_with_gradients_leaves_a_predictor_loss() -> None:
    router, x_BSD = _by_batch(), _batch()
    router(x_BSD)
    assert router.predictor_loss is not None
    with torch.no_grad():
        router(x_BSD)
    assert router.predictor_loss is None
    router(x_BSD)
    router.eval()(x_BSD)
    assert router.predictor_loss is None


def test_thresholds_move_in_their_update_and_nowhere_else() -> None:
    router = _by_batch()
    before = {name: value.clone() for name, value in router.state_dict().items()}
    router(_batch())
    with torch.no_grad():
        router(_batch(2))
    router.eval()(_batch(3))
    assert all(torch.equal(value, before[name]) for name, value in router.state_dict().items())
    router.update_thresholds(KEEP)
    # of the one forward that trained; 12 of 24 tokens
    want_E = _predicted(router, _batch()).sort(dim=0, descending=True).values[11]
    torch.testing.assert_close(router.threshold_E, want_E)
    assert router.num_updates.item() == 1
    # without a training forward since, nothing moves
    router(_batch(2))
    router.update_thresholds(KEEP)
    assert torch.equal(router.threshold_E, want_E)
    assert router.num_updates.item() == 1


def test_forwards_that_do_not_train_are_not_in_the_thresholds() -> None:
    router = _by_batch()
    with torch.no_grad():
        router(_batch(2))
    router.eval()(_batch(3))
    router.update_thresholds(KEEP)
    assert router.num_updates.item() == 0
    assert bool((router.threshold_E == 0).all())


def test_a_step_that_is_held_back_leaves_the_thresholds_alone() -> None:
    router = _by_batch()
    router(_batch())
    router.update_thresholds(KEEP)
    before_E = router.threshold_E.clone()
    # such a step may be one of NaN
    router(torch.full((1, 8, WIDTH), float("nan")))
    router.update_thresholds(HOLD)
    assert torch.equal(router.threshold_E, before_E)
    assert router.num_updates.item() == 1
    # and what it left behind is not in the next
    router(_batch())
    router.update_thresholds(KEEP)
    torch.testing.assert_close(router.threshold_E, before_E)


def test_thresholds_are_a_plain_mean_at_first_and_then_a_moving_average() -> None:
    router = _by_batch()
    cutoffs, want_E = [], torch.zeros(EXPERTS)
    for step in range(30):
        x_BSD = _batch(step)
        cutoffs.append(_predicted(router, x_BSD).sort(dim=0, descending=True).values[11])
        router(x_BSD)
        router.update_thresholds(KEEP)
        # n / (n + 1) is below .95 until 19 steps are past
        decay = min(0.95, step / (step + 1))
        want_E = decay * want_E + (1 - decay) * cutoffs[-1]
        torch.testing.assert_close(router.threshold_E, want_E)
        if step == 18:
            torch.testing.assert_close(want_E, torch.stack(cutoffs).mean(0))
    assert router.num_updates.item() == 30


def test_micro_batches_of_a_step_count_as_one() -> None:
    router = _by_batch()
    for seed in (1, 2):
        router(_batch(seed))
    router.update_thresholds(KEEP)
    both = [_predicted(router, _batch(seed)).sort(0, True).values[11] for seed in (1, 2)]
    torch.testing.assert_close(router.threshold_E, torch.stack(both).mean(0))
    assert router.num_updates.item() == 1


def test_in_evaluation_a_token_goes_where_its_prediction_passes() -> None:
    router, x_BSD = _by_batch(), _batch()
    router(x_BSD)
    router.update_thresholds(KEEP)
    router.eval()
    choice = router(_batch(5))
    is_picked_ET = _picked(choice)
    assert torch.equal(is_picked_ET, (_predicted(router, _batch(5)) >= router.threshold_E).t())
    assert choice.counts_E.tolist() == is_picked_ET.sum(1).tolist()
    # rows by expert, tokens ascending
    expert_N, token_N = is_picked_ET.nonzero(as_tuple=True)
    assert torch.equal(choice.token_N, token_N)
    want_N = 2.0 * choice.score_TE[token_N, expert_N]
    assert torch.equal(choice.weight_N, want_N)
    torch.testing.assert_close(choice.score_TE.sum(1), torch.ones(24))


def test_in_evaluation_a_sample_is_routed_alike_in_any_company() -> None:
    router, x_BSD = _by_batch(), _batch()
    router(x_BSD)
    router.update_thresholds(KEEP)
    router.eval()
    together, alone = _picked(router(x_BSD)), _picked(router(x_BSD[1:2]))
    assert torch.equal(together[:, 8:16], alone)


def test_before_any_update_evaluation_takes_the_capacity_of_the_batch() -> None:
    router = _by_batch().eval()
    choice = router(_batch())
    assert choice.counts_E.tolist() == [12] * EXPERTS


def test_evaluation_may_pick_everything_or_nothing() -> None:
    router = _by_batch().eval()
    router.num_updates.fill_(1)
    everything = router(_batch())
    assert everything.counts_E.tolist() == [24] * EXPERTS
    router.threshold_E.fill_(1.0)
    nothing = router(_batch())
    assert nothing.counts_E.tolist() == [0] * EXPERTS
    assert nothing.token_N.shape == nothing.weight_N.shape == (0,)
    assert router(torch.zeros(2, 0, WIDTH)).token_N.shape == (0,)


def test_no_tokens_train_nothing() -> None:
    router = _by_batch()
    assert router(torch.zeros(2, 0, WIDTH)).token_N.shape == (0,)
    assert router.predictor_loss is None
    router.update_thresholds(KEEP)
    assert router.num_updates.item() == 0


def test_thresholds_are_saved_and_restored() -> None:
    router, other = _by_batch(), _by_batch()
    router(_batch())
    router.update_thresholds(KEEP)
    other.load_state_dict(router.state_dict())
    router.eval()
    other.eval()
    assert torch.equal(_picked(router(_batch(7))), _picked(other(_batch(7))))


def test_a_trained_predictor_picks_about_what_training_would_have_picked() -> None:
    router = _by_batch()
    router.weight_ED.data.mul_(50)  # a router that has learned to tell tokens apart
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam([*router.first.parameters(), *router.last.parameters()], lr=0.01)
    for _ in range(300):
        router(torch.randn(16, 8, WIDTH, generator=generator))
        optimizer.zero_grad()
        assert router.predictor_loss is not None
        router.predictor_loss.backward()
        optimizer.step()
        router.update_thresholds(KEEP)
    x_BSD = torch.randn(64, 8, WIDTH, generator=generator)
    trained = _picked(router(x_BSD))
    evaluated = _picked(router.eval()(x_BSD))
    # as many as the capacity of 256 within sampling error, and mostly the same ones, where chance
    # would agree on half
    assert evaluated.sum(1).float().div(256).tolist() == pytest.approx([1.0] * EXPERTS, abs=0.12)
    assert float((trained == evaluated).float().mean()) > 0.9
