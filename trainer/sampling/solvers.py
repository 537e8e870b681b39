"""Steps along a flow from noise to data."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
from torch import Tensor

from ..objective.laws import shifted

Sampler = Literal["euler", "heun"]
State = tuple[Tensor, ...]
"""What moves together: video and sound."""


def noise_schedule(steps: int, shift: float) -> list[float]:
    """Returns steps + 1 noise levels from 1 to 0, moved towards noise by `shift` as the
    training's are. Source: facts: model.md 6.1 (Wan's get_sampling_sigmas, and 0)."""
    levels = shifted(np.linspace(1.0, 0.0, steps + 1), shift)
    return [float(level) for level in levels]


def solve(
    flow: Callable[[State, float], State],
    start: State,
    levels: Sequence[float],
    sampler: Sampler = "euler",
) -> State:
    """Follows a flow through these noise levels, which fall, and returns where it ends.

    euler: z += (sigma_next - sigma) * v(z, sigma), an error that falls with the step.
    heun: the mean of v at both ends of an Euler step, an error that falls with its square; the last
    step is Euler's, since a flow at 0 need not exist. 2 N - 1 evaluations for N steps.
    Source: facts: model.md 6.1 (JiT, and FlowMatchHeunDiscreteScheduler of diffusers).
    """
    state = start
    for index, (sigma, after) in enumerate(pairwise(levels)):
        slope = flow(state, sigma)
        tried = _moved(state, slope, after - sigma)
        if sampler == "heun" and index < len(levels) - 2:
            ends = zip(slope, flow(tried, after), strict=True)
            slope = tuple((first + last) / 2 for first, last in ends)
            tried = _moved(state, slope, after - sigma)
        state = tried
    return state


def _moved(state: State, slope: State, step: float) -> State:
    return tuple(z + step * v for z, v in zip(state, slope, strict=True))
