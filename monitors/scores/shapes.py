"""Shapes that are planted into healthy curves: factors of the loss, step by step."""

import math
from dataclasses import dataclass

import numpy as np

from ..windows import Floats

BLOOM_LEVEL = (2.198845 + 2.220424) / 2
BLOOM_LOSSES = (2.595213, 2.241558, 2.345279, 5.098124, 3.492029, 3.213059, 2.804948)
BLOOM_LATER = 2.215699
BLOOM_GAP_STEPS = 28
"""BLOOM-176B, iterations 31216 to 31222, over the mean of the two before; then nothing is recorded
until iteration 31250. Source: facts, health.md section 5 (bigscience, chronicles of tr11)."""

WARM_UP_DIVERGENCE = (3.555, 3.869, 3.817, 3.744, 3.669, 3.559, 3.435, 3.300, 3.154, 3.008, 2.867)
"""Steps 3 to 13 of a run that diverged at warm-up, over its first loss. Source: bigscience,
gpt2-meg-ds-3d (ds-off.out)."""


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """What is planted. The loss of a step is multiplied by its factor; it is looked for as long as
    there are factors."""

    name: str
    factor: Floats
    is_wanted: bool = True
    """Whether it should be found; False for what must not raise an alarm."""
    is_early: bool = False
    """Planted into the first steps of a training, not after its warm-up."""


def bloom_spike(height: float) -> Floats:
    """The spike of BLOOM-176B with its excess over the level multiplied by `height`.

    factor = 1 + height * (loss / level - 1). Between the last recorded step and the next one 28
    later the excess falls geometrically.
    """
    excess = np.array(BLOOM_LOSSES) / BLOOM_LEVEL - 1
    end = BLOOM_LATER / BLOOM_LEVEL - 1
    later = excess[-1] * (end / excess[-1]) ** (np.arange(1, BLOOM_GAP_STEPS + 1) / BLOOM_GAP_STEPS)
    return 1 + height * np.concatenate([excess, later])


def height_of_peak(peak: float) -> float:
    """The height at which the spike of BLOOM-176B exceeds its level by `peak` at most."""
    return peak / (max(BLOOM_LOSSES) / BLOOM_LEVEL - 1)


def drift(rate: float, num_steps: int = 300) -> Floats:
    """The loss grows by `rate` a step."""
    return np.power(1 + rate, np.arange(1, num_steps + 1), dtype=np.float64)


def step_up(factor: float, num_high: int, num_steps: int) -> Floats:
    """The loss is multiplied by `factor` for `num_high` steps, and as it was until `num_steps`."""
    return np.where(np.arange(num_steps) < num_high, factor, 1.0)


SMALL_SPIKE = "spike, peak +20%"
SHAPES: tuple[Shape, ...] = (
    Shape("BLOOM spike x1", bloom_spike(1.0)),
    Shape("BLOOM spike x0.5", bloom_spike(0.5)),
    Shape("BLOOM spike x0.25", bloom_spike(0.25)),
    Shape(SMALL_SPIKE, bloom_spike(height_of_peak(0.2))),
    Shape("up 20% for 20 steps", step_up(1.2, 20, 40)),
    Shape("level +5%", step_up(1.05, 200, 200)),
    Shape("level +10%", step_up(1.1, 200, 200)),
    Shape("drift 0.05% a step", drift(0.0005)),
    Shape("drift 0.1% a step", drift(0.001)),
    Shape("drift 0.2% a step", drift(0.002)),
    Shape("one NaN", step_up(math.nan, 1, 10)),
    Shape("diverges in warm-up", np.array(WARM_UP_DIVERGENCE), is_early=True),
    Shape("one batch x1.5", step_up(1.5, 1, 40), is_wanted=False),
    Shape("one batch x3", step_up(3.0, 1, 40), is_wanted=False),
    Shape("nothing, for 40 steps", np.ones(40), is_wanted=False),
    Shape("nothing, for 300 steps", np.ones(300), is_wanted=False),
)
"""The last four must raise no alarm."""
