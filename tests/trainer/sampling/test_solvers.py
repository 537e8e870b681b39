"""Solvers against a flow that is known, and against diffusers' schedulers."""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler
from torch import Tensor

from moescope.trainer.sampling.solvers import Sampler, State, noise_schedule, solve

SPREAD = 0.6
"""Of Gaussian data."""
ROUNDED = 1e-5
"""Theirs computes in fp32, up to twenty steps on values of up to 3: found at most 2.9e-6."""


def _flow(state: State, sigma: float) -> State:
    """The true flow of data N(0, SPREAD^2), E[noise - data | z]: z = (1 - sigma) x + sigma eps has
    variance (1 - sigma)^2 s^2 + sigma^2, and covariance sigma - (1 - sigma) s^2 with eps - x."""
    variance = (1 - sigma) ** 2 * SPREAD**2 + sigma**2
    return tuple(z * (sigma - (1 - sigma) * SPREAD**2) / variance for z in state)


def _error(steps: int, sampler: Sampler, shift: float) -> float:
    start = torch.ones(1, dtype=torch.float64)
    (end,) = solve(_flow, (start,), noise_schedule(steps, shift), sampler)
    # what was one standard deviation of noise is one of data
    return abs(float(end) - SPREAD)


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize(("sampler", "order"), [("euler", 1), ("heun", 2)])
def test_a_solver_converges_at_its_order(sampler: Sampler, order: int, shift: float) -> None:
    errors = [_error(steps, sampler, shift) for steps in (80, 160, 320, 640)]
    orders = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert orders == pytest.approx([order] * 3, abs=0.15)


def test_heun_asks_twice_a_step_but_once_in_the_last() -> None:
    asked: list[float] = []

    def flow(state: State, sigma: float) -> State:
        asked.append(sigma)
        return _flow(state, sigma)

    solve(flow, (torch.ones(1),), noise_schedule(5, 1.0), "heun")
    assert len(asked) == 2 * 5 - 1
    assert min(asked) > 0


def test_video_and_sound_move_together_and_do_not_mix() -> None:
    both = (torch.randn(3, 4), torch.randn(2))
    levels = noise_schedule(6, 2.0)
    for sampler in ("euler", "heun"):
        alone = [solve(_flow, (part,), levels, sampler)[0] for part in both]
        for got, want in zip(solve(_flow, both, levels, sampler), alone, strict=True):
            assert torch.equal(got, want)


def _field(z: Tensor, sigma: float) -> Tensor:
    return torch.sin(3 * z) - sigma * z + 0.3


@pytest.mark.parametrize("shift", [1.0, 3.0, 12.0])
def test_levels_and_euler_steps_are_those_of_diffusers(shift: float) -> None:
    steps = 12
    scheduler: Any = FlowMatchEulerDiscreteScheduler(shift=shift)
    # without sigmas it would start from a sigma_min that is shifted already, and shift it again
    scheduler.set_timesteps(sigmas=np.linspace(1, 0, steps + 1)[:steps])
    levels = noise_schedule(steps, shift)
    assert scheduler.sigmas.tolist() == pytest.approx(levels, abs=1e-6)
    torch.manual_seed(0)
    start = torch.randn(2, 3, 5)
    want = start
    for timestep, sigma in zip(scheduler.timesteps, scheduler.sigmas.tolist(), strict=False):
        want = scheduler.step(_field(want, sigma), timestep, want).prev_sample
    (got,) = solve(lambda state, sigma: (_field(state[0], sigma),), (start,), levels)
    torch.testing.assert_close(got, want, atol=ROUNDED, rtol=0)


@pytest.mark.parametrize("steps", [1, 5, 20])
def test_heun_steps_are_those_of_diffusers(steps: int) -> None:
    scheduler: Any = FlowMatchHeunDiscreteScheduler()
    scheduler.set_timesteps(steps)
    assert len(scheduler.timesteps) == 2 * steps - 1
    sigmas = scheduler.sigmas.tolist()
    # each level between the ends stands there twice
    levels = [sigmas[0], *sigmas[1:-1:2], sigmas[-1]] if steps > 1 else sigmas
    torch.manual_seed(0)
    start = torch.randn(2, 3, 5)
    want = start
    for index, timestep in enumerate(scheduler.timesteps):
        want = scheduler.step(_field(want, sigmas[index]), timestep, want).prev_sample
    (got,) = solve(lambda state, sigma: (_field(state[0], sigma),), (start,), levels, "heun")
    # theirs takes the slope out of a difference that it divides by sigma, 0.001 in the last step:
    # 3 * 6e-8 / 1e-3 of the slope, of which an eighth is gone along
    torch.testing.assert_close(got, want, atol=1e-4, rtol=0)
