"""What adds up on the host between two sampled steps: losses by noise level, biases that turn
round.

Q parts of the noise level  M modalities  L MoE layers  E experts
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..platform import catalogue

Array = NDArray[np.float32]


class SinceSample:
    """Takes the values of every step, and gives the sampled tier its means.

    For the eye alone: nothing that computes reads it, and a rollback leaves it as it is.
    """

    def __init__(self, *, has_bias: bool) -> None:
        """has_bias: whether routers balance by a bias, which is what turns round."""
        self._has_bias = has_bias
        size = (len(catalogue.MODALITIES), catalogue.NUM_NOISE_BINS)
        self._sum_MQ, self._num_MQ = np.zeros((2, *size))
        self._held_MQ = np.zeros(size)
        self._sign_LE: NDArray[Any] | None = None
        self._turns_L: NDArray[Any] = np.zeros(0)
        self._num_turns = 0

    def take(self, values: Mapping[str, NDArray[Any]]) -> None:
        """Takes a step's losses, noise levels and expert counts."""
        loss_MB = values[catalogue.LOSS_PER_SAMPLE].astype(np.float64)
        bin_MB = noise_bins(values[catalogue.LOSS_SIGMA])
        # a loss of exactly 0 is a clip without sound
        is_there_MB = np.isfinite(loss_MB) & (loss_MB != 0)
        for m in range(len(loss_MB)):
            place = bin_MB[m][is_there_MB[m]]
            np.add.at(self._sum_MQ[m], place, loss_MB[m][is_there_MB[m]])
            np.add.at(self._num_MQ[m], place, 1)
        if self._has_bias and catalogue.EXPERT_TOKENS in values:
            self._take_signs(values[catalogue.EXPERT_TOKENS])

    def read(self) -> dict[str, Array]:
        """Returns the means since the last call, and begins anew."""
        is_hit = self._num_MQ > 0
        self._held_MQ[is_hit] = self._sum_MQ[is_hit] / self._num_MQ[is_hit]
        self._sum_MQ[:], self._num_MQ[:] = 0, 0
        found = {catalogue.LOSS_NOISE_BIN: self._held_MQ.astype(np.float32)}
        if self._num_turns:
            rate_L = self._turns_L / self._num_turns
            found[catalogue.BIAS_FLIP_RATE] = rate_L.astype(np.float32)
            self._turns_L, self._num_turns = np.zeros_like(self._turns_L), 0
        return found

    def _take_signs(self, tokens_LE: NDArray[Any]) -> None:
        """Which way each bias went follows from the counts: up below the mean, down above it."""
        sign_LE = np.sign(tokens_LE.mean(axis=1, keepdims=True) - tokens_LE)
        before, self._sign_LE = self._sign_LE, sign_LE
        if before is None or before.shape != sign_LE.shape:
            self._turns_L, self._num_turns = np.zeros(len(sign_LE)), 0
            return
        self._turns_L = self._turns_L + (before * sign_LE < 0).mean(axis=1)
        self._num_turns += 1


def noise_bins(sigma: NDArray[Any]) -> NDArray[np.intp]:
    """Which of NUM_NOISE_BINS parts of equal width each noise level lies in; 1 is in the last."""
    last = catalogue.NUM_NOISE_BINS - 1
    bins: NDArray[np.intp] = np.clip(sigma * catalogue.NUM_NOISE_BINS, 0, last).astype(np.intp)
    return bins
