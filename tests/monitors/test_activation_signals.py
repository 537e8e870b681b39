import math

import numpy as np
import pytest
import torch
from scipy import stats

from moescope.monitors.activation_signals import (
    MOST_ROUTER_TOKENS,
    mutual_information_nats,
    rms_and_absmax,
    router_balance,
    router_entropy_nats,
    router_margin,
    router_z,
    sampled_tokens,
    shape_of_tail,
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


def test_kurtosis_is_3_for_a_gaussian_and_grows_with_an_outlying_channel() -> None:
    x_TD = torch.randn(250, 32, generator=torch.Generator().manual_seed(0))
    assert shape_of_tail(x_TD)[0].item() == pytest.approx(3.0, abs=0.2)
    # an independent reference: about the mean, which is 0 here
    symmetric_TD = torch.cat((x_TD, -x_TD)) ** 3
    want = stats.kurtosis(symmetric_TD.numpy().ravel(), fisher=False)
    # as many tokens as are read
    assert shape_of_tail(symmetric_TD.view(250, -1))[0].item() == pytest.approx(want, rel=1e-4)
    x_TD[:, 5] *= 100.0
    assert shape_of_tail(x_TD)[0].item() > 50.0
    assert shape_of_tail(torch.zeros(2, 3))[0].item() == 0.0


def test_the_tail_of_large_values_does_not_overflow() -> None:
    x_TD = 1e15 * torch.tensor([[1.0, -1.0, 1.0, -1.0]])
    assert shape_of_tail(x_TD).tolist() == pytest.approx([1.0, 0.0])


def test_saturated_values_are_those_beyond_half_of_what_the_dtype_holds() -> None:
    half = torch.tensor([[40_000.0, -40_000.0, 30_000.0, 0.0]], dtype=torch.float16)
    assert shape_of_tail(half)[1].item() == 0.5  # fp16 ends at 65,504
    assert shape_of_tail(half.float())[1].item() == 0.0


def test_the_margin_is_the_mean_distance_of_the_two_highest_logits() -> None:
    logit_RTE = torch.tensor([[[1.0, 4.0, -9.0], [2.0, 2.0, 0.0]]])
    assert router_margin(logit_RTE).tolist() == [[1.5, 9.0]]
    assert router_margin(logit_RTE[..., :1]).tolist() == [[0.0, 2.0]]


def test_mutual_information_tells_deciding_routers_from_those_that_ignore_the_token() -> None:
    undecided_RTE = torch.full((1, 6, 4), 0.25)
    same_RTE = torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(1, 6, 4)
    certain_RTE = torch.eye(4)[None]
    assert mutual_information_nats(undecided_RTE).item() == pytest.approx(0.0, abs=1e-6)
    assert mutual_information_nats(same_RTE).item() == pytest.approx(0.0, abs=1e-6)
    assert mutual_information_nats(certain_RTE).item() == pytest.approx(math.log(4))


def test_mutual_information_is_that_of_the_joint_distribution() -> None:
    score_TE = torch.rand(40, 5, generator=torch.Generator().manual_seed(3))
    joint_TE = (score_TE / score_TE.sum(1, keepdim=True) / 40).double().numpy()
    # I = H(token) + H(expert) - H(token, expert)
    parts = (joint_TE.sum(1), joint_TE.sum(0), joint_TE.ravel())
    token, expert, both = (float(stats.entropy(np.asarray(p))) for p in parts)
    found = mutual_information_nats(score_TE[None]).item()
    assert found == pytest.approx(token + expert - both, abs=1e-5)
