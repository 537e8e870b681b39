"""How experts share the noise levels: weights, boundaries, and what a step is said to have had."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moescope.trainer.moe.noise_experts import (
    Blend,
    blend_weights,
    boundaries_of,
    lower_edges,
    shares,
    theta_of,
)
from moescope.trainer.sampling.generate import noise_schedule

# X experts  J boundaries  B batch

BLENDS: tuple[Blend, ...] = ("linear", "smooth")


def weights(sigmas: list[float], taus: list[float], transition: float, blend: Blend) -> Tensor:
    sigma_B = torch.tensor(sigmas, dtype=torch.float64)
    return blend_weights(sigma_B, torch.tensor(taus, dtype=torch.float64), transition, blend)


def test_in_the_middle_of_a_zone_both_answer_and_elsewhere_one() -> None:
    got_XB = weights([0.5, 0.65, 0.7, 0.75, 0.9], [0.7], 0.2, "linear")
    # ramp = (sigma - 0.7) / 0.2 + 1/2: -0.5 -> 0, 0.25, 0.5, 0.75, 1.5 -> 1
    assert got_XB[1].tolist() == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    assert got_XB[0].tolist() == pytest.approx([1, 0.75, 0.5, 0.25, 0])
    # smoothstep of the same: 3 / 16 - 2 / 64 = 0.15625
    smooth_XB = weights([0.65, 0.7, 0.75], [0.7], 0.2, "smooth")
    assert smooth_XB[1].tolist() == pytest.approx([0.15625, 0.5, 0.84375])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_level_at_a_hard_boundary_belongs_to_the_expert_of_more_noise(dtype: torch.dtype) -> None:
    tau_J = torch.tensor([0.9], dtype=dtype)
    sigma_B = torch.stack([tau_J[0].nextafter(torch.zeros((), dtype=dtype)), tau_J[0]])
    assert blend_weights(sigma_B, tau_J, 0.0, "linear").tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize("taus", [[0.7], [0.3, 0.6], [0.2, 0.4, 0.8]])
def test_the_weights_are_continuous_at_both_ends_of_every_zone(
    blend: Blend, taus: list[float]
) -> None:
    delta, step = 0.1, 1e-7
    for tau in taus:
        for edge in (tau - delta / 2, tau + delta / 2):
            left_X, right_X = weights([edge - step, edge + step], taus, delta, blend).unbind(1)
            # the slope is at most 1.5 / delta, on one of the two sides
            assert float((left_X - right_X).abs().max()) <= 1.5 * step / delta * 1.01 < 1e-5


@pytest.mark.parametrize("blend", BLENDS)
def test_a_narrow_zone_is_the_hard_switch(blend: Blend) -> None:
    sigmas = np.linspace(0, 1, 400).tolist()
    hard_XB = weights(sigmas, [0.3, 0.61], 0.0, blend)
    assert torch.equal(weights(sigmas, [0.3, 0.61], 1e-6, blend), hard_XB)
    assert sorted({tuple(column) for column in hard_XB.T.tolist()}) == [
        (0, 0, 1), (0, 1, 0), (1, 0, 0),
    ]  # fmt: skip


thetas = st.lists(st.floats(-200, 200, width=32), min_size=1, max_size=6)
levels = st.lists(st.floats(0, 1, width=32), min_size=1, max_size=20)


@settings(max_examples=60, deadline=None)
@given(thetas, levels, st.sampled_from([0.0, 0.01, 0.15, 0.9]), st.sampled_from(BLENDS))
def test_weights_sum_to_one_and_none_is_below_zero(
    theta: list[float], sigmas: list[float], transition: float, blend: Blend
) -> None:
    tau_J = boundaries_of(torch.tensor(theta))
    weight_XB = blend_weights(torch.tensor(sigmas), tau_J, transition, blend)
    assert weight_XB.shape == (len(theta) + 1, len(sigmas))
    assert float((weight_XB.sum(0) - 1).abs().max()) <= 1e-6
    assert float(weight_XB.min()) >= -1e-6  # smoothstep rounds neighbouring ramps apart


@settings(max_examples=60, deadline=None)
@given(thetas)
def test_learned_boundaries_ascend_whatever_the_parameters_are(theta: list[float]) -> None:
    theta_J = torch.tensor(theta, requires_grad=True)
    tau_J = boundaries_of(theta_J)
    edges = [0, *tau_J.tolist(), 1]
    assert edges == sorted(edges)
    tau_J.sum().backward()
    assert theta_J.grad is not None
    assert bool(torch.isfinite(theta_J.grad).all())


def test_a_boundary_is_moved_by_the_samples_around_it_alone() -> None:
    theta_J = theta_of([0.3, 0.7]).requires_grad_()
    for sigma, moved in ((0.32, [True, False]), (0.66, [False, True]), (0.5, [False, False])):
        weight_XB = blend_weights(torch.tensor([sigma]), boundaries_of(theta_J), 0.1, "linear")
        (got_J,) = torch.autograd.grad(weight_XB[1].sum(), theta_J)
        assert (got_J != 0).tolist() == moved
    # crossed, each goes on as the other one's boundary
    assert boundaries_of(theta_J.detach().flip(0)).tolist() == pytest.approx([0.3, 0.7])


def test_learned_boundaries_start_where_they_are_told_to() -> None:
    for boundaries in ([0.875], [0.3, 0.6, 0.99], [1e-4, 0.5]):
        got = boundaries_of(theta_of(boundaries)).tolist()
        assert got == pytest.approx(boundaries, abs=2e-7)
    # one boundary: the plain sigmoid
    assert theta_of([0.875]).item() == pytest.approx(math.log(7))  # ln(0.875 / 0.125)


@pytest.mark.parametrize("blend", BLENDS)
def test_the_gradient_of_a_boundary_equals_differences_and_is_zero_outside(blend: Blend) -> None:
    delta, taus = 0.2, [0.35, 0.7]
    sigmas = [0.1, 0.249, 0.26, 0.35, 0.44, 0.5, 0.61, 0.7, 0.78, 0.81, 1.0]
    upstream_XB = torch.randn(3, len(sigmas), dtype=torch.float64, generator=_seeded())
    tau_J = torch.tensor(taus, dtype=torch.float64, requires_grad=True)
    sigma_B = torch.tensor(sigmas, dtype=torch.float64)
    weight_XB = blend_weights(sigma_B, tau_J, delta, blend)
    (got_J,) = torch.autograd.grad((weight_XB * upstream_XB).sum(), tau_J)
    for j in range(2):
        there = [
            (weights(sigmas, _moved(taus, j, by), delta, blend) * upstream_XB).sum()
            for by in (1e-6, -1e-6)
        ]
        assert got_J[j].item() == pytest.approx(float(there[0] - there[1]) / 2e-6, rel=1e-6)
    for place, sigma in enumerate(sigmas):
        (of_one_J,) = torch.autograd.grad(
            blend_weights(sigma_B[place : place + 1], tau_J, delta, blend)[-1].sum(), tau_J
        )
        is_inside = abs(sigma - taus[1]) < delta / 2
        assert bool(of_one_J[1] != 0) == is_inside, sigma
        if is_inside and blend == "linear":
            assert of_one_J[1].item() == pytest.approx(-1 / delta)


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _moved(taus: list[float], index: int, by: float) -> list[float]:
    return [tau + by * (j == index) for j, tau in enumerate(taus)]


def test_a_steps_shares_are_those_of_its_samples() -> None:
    weight_XB = weights([0.1, 0.2, 0.75, 0.9], [0.7], 0.2, "linear").float()
    got = shares(weight_XB, torch.tensor([1.0, 3.0, 2.0, 0.5]))
    # the third sample is 0.25 of the first expert and 0.75 of the second
    assert got.share_X.tolist() == pytest.approx([2.25 / 4, 1.75 / 4])
    assert got.loss_X.tolist() == pytest.approx([4.5 / 2.25, 2.0 / 1.75])
    assert got.blended.item() == 0.25


def test_a_loss_that_is_no_number_is_only_its_experts_and_an_idle_one_has_none() -> None:
    weight_XB = weights([0.1, 0.5], [0.3, 0.8], 0.0, "linear").float()
    got = shares(weight_XB, torch.tensor([math.nan, 2.0]))
    assert math.isnan(got.loss_X[0])
    assert got.loss_X[1].item() == 2.0
    assert math.isnan(got.loss_X[2])
    assert got.share_X.tolist() == [0.5, 0.5, 0]


def test_an_expert_is_in_charge_from_the_boundary_below_it() -> None:
    assert lower_edges(torch.tensor([0.25, 0.5])).tolist() == [0, 0.25, 0.5]


@pytest.mark.parametrize(
    ("boundary", "shift", "num_high"),
    [
        pytest.param(0.875, 12.0, 26, id="text-to-video"),
        pytest.param(0.9, 5.0, 15, id="picture-to-video"),
    ],
)
def test_wans_forty_steps_are_shared_out_as_published(
    boundary: float, shift: float, num_high: int
) -> None:
    """facts: model.md 3.5: 26 of 40 and 15 of 40 steps use the expert of more noise."""
    sigma_B = torch.tensor(noise_schedule(40, shift)[:-1], dtype=torch.float32)
    weight_XB = blend_weights(sigma_B, torch.tensor([boundary]), 0.0, "linear")
    assert weight_XB.sum(1).tolist() == [40 - num_high, num_high]
    assert weight_XB[1].tolist() == [1.0] * num_high + [0.0] * (40 - num_high)
