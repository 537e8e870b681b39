"""A stream of diffusion losses as a healthy training gives them, and judges that read it."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from moescope.platform import catalogue

Values = dict[str, NDArray[np.float32]]


class LossStream:
    """Per-sample flow losses of a small model: they fall fast at first and depend on sigma (high
    near 0 and 1).

    Noise is heavy-tailed, a clip's difficulty is common to its modalities, and a tenth of the clips
    have no sound.
    """

    def __init__(self, seed: int, num_samples: int = 8, fall_steps: float = 50.0) -> None:
        self._rng = np.random.default_rng(seed)
        self._num_samples = num_samples
        self._fall_steps = fall_steps

    def step(self, step: int, factors: tuple[float, float] = (1.0, 1.0)) -> Values:
        """Values of a step; `factors` multiply the losses of video and audio."""
        rng, n = self._rng, self._num_samples
        sigma_MB = np.stack([(rng.permutation(n) + rng.random(n)) / n for _ in range(2)])
        learnt = 1 - np.exp(-max(step - 15, 0) / self._fall_steps)
        end_MB = np.stack(
            [
                0.15 + 0.9 * (1 - sigma_MB[0]) ** 6 + 0.25 * sigma_MB[0] ** 3,
                0.25 + 0.8 * (1 - sigma_MB[1]) ** 8 + 0.5 * sigma_MB[1] ** 2,
            ]
        )
        mean_MB = np.array([[1.3], [1.8]]) * (1 - learnt) + end_MB * learnt
        noise_MB = 0.2 * rng.standard_t(5, (2, n)) * (0.5 + sigma_MB)
        loss_MB = mean_MB * np.exp(noise_MB + 0.15 * rng.standard_normal(n))
        loss_MB *= np.array(factors)[:, None]
        loss_MB[1, rng.random(n) < 0.1] = 0.0
        return {
            catalogue.LOSS_PER_SAMPLE: loss_MB.astype(np.float32),
            catalogue.LOSS_SIGMA: sigma_MB.astype(np.float32),
            catalogue.LOSS_TOTAL: np.array(loss_MB.mean(), np.float32),
            catalogue.GRAD_NORM: np.array(np.exp(0.3 * rng.standard_normal()), np.float32),
            catalogue.DATA_BATCH: np.array(step + 1000, np.float32),
        }


@pytest.fixture
def loss_stream() -> Callable[..., LossStream]:
    return LossStream
