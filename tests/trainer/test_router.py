"""The router's bias: what moves it, and what does not."""

import torch

from moescope.trainer.moe.router import SigmoidRouter


def _router() -> SigmoidRouter:
    torch.manual_seed(0)
    return SigmoidRouter(width=16, num_experts=4, num_chosen=2, scale=2.0)


def test_the_bias_rises_for_idle_experts_and_falls_for_busy_ones() -> None:
    router = _router()
    router.update_bias(torch.tensor([10, 0, 5, 5]), 0.01, torch.ones(()))
    # mean 5: above, below, equal, equal
    assert torch.equal(router.bias_E, torch.tensor([-0.01, 0.01, 0.0, 0.0]))


def test_a_step_that_is_held_back_leaves_the_bias_alone() -> None:
    router = _router()
    router.update_bias(torch.tensor([10, 0, 5, 5]), 0.01, torch.zeros(()))
    assert bool((router.bias_E == 0).all())


def test_the_bias_balances_what_the_scores_do_not() -> None:
    router = _router()
    torch.manual_seed(1)
    # a common part in every token makes some experts everybody's favourites
    x_TD = torch.randn(512, 16) * 0.5 + torch.randn(16)

    def max_violation() -> float:
        counts_E = router(x_TD).counts_E.float()
        return float(counts_E.max() / counts_E.mean()) - 1

    router.weight_ED.data.mul_(20)
    before = max_violation()
    for _ in range(300):
        router.update_bias(router(x_TD).counts_E, 0.01, torch.ones(()))
    assert before > 0.5
    assert max_violation() < 0.1


def test_a_forward_changes_no_state() -> None:
    router = _router()
    before = {name: value.clone() for name, value in router.state_dict().items()}
    router(torch.randn(8, 16))
    assert all(torch.equal(value, before[name]) for name, value in router.state_dict().items())
    assert set(before) == {"weight_ED", "bias_E"}


def test_routing_is_done_in_fp32_whatever_comes_in() -> None:
    routing = _router()(torch.randn(8, 16, dtype=torch.bfloat16))
    assert routing.score_TE.dtype is torch.float32
    assert routing.weight_TK.dtype is torch.float32


def test_weights_of_a_token_add_up_to_the_scale() -> None:
    routing = _router()(torch.randn(32, 16))
    torch.testing.assert_close(routing.weight_TK.sum(1), torch.full((32,), 2.0))
