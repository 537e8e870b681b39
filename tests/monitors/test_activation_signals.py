import math

import pytest
import torch

from moescope.monitors.activation_signals import (
    MOST_ROUTER_TOKENS,
    rms_and_absmax,
    router_balance,
    router_entropy_nats,
    router_z,
    sampled_tokens,
)


def test_rms_and_absmax_of_known_values() -> None:
    x = torch.tensor([[3.0, -4.0], [0.0, 0.0]])
    # sqrt((9 + 16) / 4) = 2.5; the largest magnitude is a negative value's
    assert rms_and_absmax(x).tolist() == pytest.approx([2.5, 4.0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_statistics_agree_with_their_formula(dtype: torch.dtype) -> None:
    x = torch.randn(3, 7, 11, generator=torch.Generator().manual_seed(0)).to(dtype)
    rms, absmax = rms_and_absmax(x).tolist()
    assert rms == pytest.approx(x.double().square().mean().sqrt().item(), rel=1e-5)
    assert absmax == x.abs().max().item()


def test_a_nan_in_an_activation_is_seen() -> None:
    x = torch.ones(4, 4)
    x[1, 2] = math.nan
    assert rms_and_absmax(x).isnan().all()


def test_router_entropy_of_equal_and_of_certain_scores() -> None:
    equal_TE = torch.full((5, 8), 0.3)
    certain_TE = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    assert router_entropy_nats(equal_TE).item() == pytest.approx(2.0794415)  # ln 8
    assert router_entropy_nats(certain_TE).item() == pytest.approx(0.0, abs=1e-6)


def test_router_entropy_agrees_with_its_formula() -> None:
    score_TE = torch.rand(50, 6, generator=torch.Generator().manual_seed(1))
    p_TE = score_TE / score_TE.sum(1, keepdim=True)
    expected = -(p_TE * p_TE.log()).sum(1).mean().item()
    assert router_entropy_nats(score_TE).item() == pytest.approx(expected, rel=1e-5)


def test_scores_that_are_all_zero_do_not_give_nan() -> None:
    assert router_entropy_nats(torch.zeros(3, 4)).isfinite()


def test_many_tokens_are_read_in_part_and_give_nearly_the_same() -> None:
    score_TE = torch.rand(8 * MOST_ROUTER_TOKENS + 3, 4, generator=torch.Generator().manual_seed(2))
    p_TE = score_TE / score_TE.sum(1, keepdim=True)
    expected = -(p_TE * p_TE.log()).sum(1).mean().item()
    # entropy varies by about 0.2 between tokens: 0.2 / sqrt(4096) = 0.003, and three of that
    assert router_entropy_nats(sampled_tokens(score_TE)).item() == pytest.approx(expected, abs=0.01)


def test_balance_is_one_when_uniform_and_the_number_of_experts_in_collapse() -> None:
    score_RTE = torch.tensor([[[0.5, 0.5], [0.5, 0.5]], [[1.0, 0.0], [1.0, 0.0]]])
    tokens_RE = torch.tensor([[3.0, 1.0], [2.0, 0.0]])
    # 2 (3/4 * 1/2 + 1/4 * 1/2) = 1;  2 (1 * 1 + 0) = 2
    assert router_balance(score_RTE, tokens_RE).tolist() == pytest.approx([1.0, 2.0])


def test_z_is_the_mean_square_of_the_log_sum_exp() -> None:
    logit_TE = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0]])
    # (ln 2)^2 = 0.480453, (ln 4)^2 = 1.921812
    assert router_z(logit_TE[None]).tolist() == pytest.approx([1.2011326])


def test_tokens_are_read_in_part_and_heads_are_rows() -> None:
    assert sampled_tokens(torch.zeros(3 * MOST_ROUTER_TOKENS, 2)).shape == (
        1,
        MOST_ROUTER_TOKENS,
        2,
    )
    assert sampled_tokens(torch.zeros(4, 10, 2)).shape == (4, 10, 2)
