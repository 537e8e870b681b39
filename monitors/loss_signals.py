"""Loss residuals: what is odd about a sample's loss once its noise level is accounted for.

M modalities  B batch  N knots over sigma
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .windows import Floats

NUM_KNOTS = 24
"""Knots of the curve over sigma: with 8 samples a step each is met about every third step, and
neighbours lend evidence."""
CLIP_SIGMA = 6.0
"""One odd sample among eight moves the pooled residual by at most 6 / sqrt(8) = 2.1 of its sigmas:
no spike alone."""
LEARN_SIGMA = 4.0
"""What is learnt from a sample reaches no further than this."""
FEWEST = 4
"""Fewer samples are pooled as if they were four: one odd sample alone has the weight that it has
among four."""
LEVEL_RATE = 0.1
SHORTEST_MEMORY, LONGEST_MEMORY = 10.0, 100.0
"""Steps over which the curve forgets: half of the steps seen so far, within these bounds."""
PRIOR_SCALE = 0.3
"""Spread of log loss between samples at one sigma before anything was seen."""
SCALE_FLOOR = 0.02
_MEAN_ABS_TO_SIGMA = 1.2533
"""sqrt(pi / 2): for normal values the standard deviation over the mean absolute deviation."""


def _smoothing() -> Floats:
    """(N, N): each knot takes a quarter of its neighbours' sums and half of its own; at the ends
    the missing neighbour is the knot itself."""
    matrix = (
        0.5 * np.eye(NUM_KNOTS) + 0.25 * np.eye(NUM_KNOTS, k=1) + 0.25 * np.eye(NUM_KNOTS, k=-1)
    )
    matrix[0, 0] = matrix[-1, -1] = 0.75
    return matrix


_SMOOTH_NN = _smoothing()


@dataclass(frozen=True, slots=True)
class Residuals:
    """A step's losses against the normaliser's curve."""

    per_sample_MB: Floats
    """Standard units, clipped; NaN where a loss is masked or not finite."""
    pooled: float
    """Sum over samples and modalities over the root of their number: about unit spread; FEWEST
    counts at least."""
    of_modality_M: Floats
    """The same within each modality; NaN where absent."""
    log_level_M: Floats
    """Log loss of each modality with sigma accounted for, but not the level: what a drift moves.
    NaN where absent."""
    sigma_MB: Floats
    level_M: Floats
    """The level that was measured against."""
    from_level_MB: Floats
    """Winsorised distance of log loss from the level, curve included; 0 where masked."""
    spread_MB: Floats
    """Winsorised distance of log loss from the curve; 0 where masked."""


class LossNormaliser:
    """A smooth mean and scale of log loss over sigma, per modality, plus a level that follows the
    training quickly.

    ln loss = level_m + curve_m(sigma) + scale_m(sigma) * residual
    The level is fast (about ten steps) and common to all sigmas, so that knots that are hit only
    now and then do not lag behind a falling loss; the curve is slow, is measured against the level
    of its day, and has mean zero over sigma. Mean and scale are sums at NUM_KNOTS knots with linear
    (hat) weights, exponential forgetting, and one pass of (1, 2, 1) / 4 smoothing over the knots;
    between them they are read by linear interpolation. Losses <= 0 are masked (a clip without
    sound), non-finite ones are passed over. A spike must not be learnt: the caller decides
    (`learn`).
    """

    def __init__(self, num_modalities: int = 2) -> None:
        self._level_M = np.full(num_modalities, np.nan)
        # of each knot: samples, sum of their distances from the level, of those from the curve
        self._sums_M3N = np.zeros((num_modalities, 3, NUM_KNOTS))
        self._num_steps = 0
        self._num_since_level = 0
        self._curves: tuple[Floats, Floats] | None = None

    def residuals(
        self, loss_MB: NDArray[np.generic], sigma_MB: NDArray[np.generic]
    ) -> Residuals | None:
        """Judges losses by what is known so far; changes nothing. None where no sample has a usable
        loss."""
        log_MB, place_MB = _log_loss(loss_MB), np.asarray(sigma_MB, dtype=np.float64)
        is_there_MB = np.isfinite(log_MB) & np.isfinite(place_MB)
        num_samples = int(is_there_MB.sum())
        if not num_samples:
            return None
        level_M = self._levels(log_MB, is_there_MB)
        mean_MB, scale_MB = self._read(place_MB)
        raw_MB = np.where(is_there_MB, (log_MB - mean_MB - level_M[:, None]) / scale_MB, 0.0)
        z_MB = np.clip(raw_MB, -CLIP_SIGMA, CLIP_SIGMA)
        spread_MB = np.clip(raw_MB, -LEARN_SIGMA, LEARN_SIGMA) * scale_MB
        weight_MB = np.where(is_there_MB, scale_MB**-2.0, 0.0)
        num_M = is_there_MB.sum(axis=1)
        is_in_M = num_M > 0
        shift_M = (weight_MB * spread_MB).sum(axis=1) / np.where(is_in_M, weight_MB.sum(axis=1), 1)
        sum_M = z_MB.sum(axis=1)
        return Residuals(
            per_sample_MB=np.where(is_there_MB, z_MB, np.nan),
            pooled=float(sum_M.sum() / math.sqrt(max(num_samples, FEWEST))),
            of_modality_M=np.where(is_in_M, sum_M / np.sqrt(np.maximum(num_M, FEWEST)), np.nan),
            log_level_M=np.where(is_in_M, level_M + shift_M, np.nan),
            sigma_MB=place_MB,
            level_M=level_M,
            from_level_MB=np.where(is_there_MB, spread_MB + mean_MB, 0.0),
            spread_MB=spread_MB,
        )

    def learn(self, residuals: Residuals, level_weight_M: Floats) -> None:
        """Takes an accepted step into level, curve and scale.

        residuals: the answer to the same step. level_weight_M: 1, or less for a modality whose
        level shall follow this step only in part.
        """
        is_there_MB = np.isfinite(residuals.per_sample_MB)
        memory = min(max(self._num_steps / 2, SHORTEST_MEMORY), LONGEST_MEMORY)
        keep = 1.0 - 1.0 / memory
        low_MB, part_MB = _knots(np.where(is_there_MB, residuals.sigma_MB, 0.0))
        for m in np.flatnonzero(is_there_MB.any(axis=1)):
            hat_BN = np.zeros((part_MB.shape[1], NUM_KNOTS))
            rows_B = np.arange(part_MB.shape[1])
            hat_BN[rows_B, low_MB[m]] = 1 - part_MB[m]
            hat_BN[rows_B, low_MB[m] + 1] = part_MB[m]
            learnt_3B = np.stack(
                (is_there_MB[m], residuals.from_level_MB[m], np.abs(residuals.spread_MB[m]))
            )
            self._sums_M3N[m] = keep * self._sums_M3N[m] + learnt_3B @ hat_BN
        self._num_steps += 1
        self._num_since_level += 1
        rate = max(LEVEL_RATE, 1.0 / (self._num_since_level + 1))
        level_M = residuals.level_M
        moved_M = level_M + rate * level_weight_M * (residuals.log_level_M - level_M)
        self._level_M = np.where(np.isfinite(residuals.log_level_M), moved_M, level_M)
        self._curves = None

    def hasten(self) -> None:
        """Lets the level move fast for the next steps, from where it is."""
        self._num_since_level = 0

    def forget(self) -> None:
        """Learns the level anew from the next step; curve and scale yield to new evidence
        quickly."""
        self._level_M[:] = np.nan
        self._num_steps = self._num_since_level = 0
        self._sums_M3N *= 0.1
        self._curves = None

    def _levels(self, log_MB: Floats, is_there_MB: NDArray[np.bool_]) -> Floats:
        """The level of each modality; one that was never seen starts at the median of its first
        losses."""
        level_M = self._level_M.copy()
        for m in np.flatnonzero(np.isnan(level_M)):
            if is_there_MB[m].any():
                level_M[m] = np.median(log_MB[m][is_there_MB[m]])
        return level_M

    def _read(self, sigma_MB: Floats) -> tuple[Floats, Floats]:
        """Mean (relative to the level) and scale of log loss at each sigma."""
        if self._curves is None:
            weight_MN, sum_MN, spread_MN = np.moveaxis(self._sums_M3N @ _SMOOTH_NN, 1, 0)
            # one sample's worth of prior: no deviation from the level, PRIOR_SCALE around it
            mean_MN = sum_MN / (weight_MN + 1.0)
            mean_MN -= mean_MN.mean(axis=1, keepdims=True)
            scale_MN = (_MEAN_ABS_TO_SIGMA * spread_MN + PRIOR_SCALE) / (weight_MN + 1.0)
            self._curves = mean_MN, np.maximum(scale_MN, SCALE_FLOOR)
        mean_MN, scale_MN = self._curves
        low_MB, part_MB = _knots(np.where(np.isfinite(sigma_MB), sigma_MB, 0.0))
        rows_M1 = np.arange(sigma_MB.shape[0])[:, None]
        high_MB = np.minimum(low_MB + 1, NUM_KNOTS - 1)
        return (
            mean_MN[rows_M1, low_MB] * (1 - part_MB) + mean_MN[rows_M1, high_MB] * part_MB,
            scale_MN[rows_M1, low_MB] * (1 - part_MB) + scale_MN[rows_M1, high_MB] * part_MB,
        )

    def state_dict(self) -> dict[str, Any]:
        return {
            "level_M": self._level_M.copy(),
            "sums_M3N": self._sums_M3N.copy(),
            "num_steps": self._num_steps,
            "num_since_level": self._num_since_level,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._level_M = np.array(state["level_M"], dtype=np.float64)
        self._sums_M3N = np.array(state["sums_M3N"], dtype=np.float64)
        self._num_steps = int(state["num_steps"])
        self._num_since_level = int(state["num_since_level"])
        self._curves = None


def _log_loss(loss_MB: NDArray[np.generic]) -> Floats:
    loss = np.asarray(loss_MB, dtype=np.float64)
    is_usable = np.isfinite(loss) & (loss > 0)
    return np.where(is_usable, np.log(np.where(is_usable, loss, 1.0)), np.nan)


def _knots(sigma_MB: Floats) -> tuple[NDArray[np.intp], Floats]:
    """The knot below each sigma and how far it is on the way to the next."""
    place_MB = np.clip(sigma_MB, 0.0, 1.0) * (NUM_KNOTS - 1)
    low_MB = np.minimum(place_MB.astype(np.intp), NUM_KNOTS - 2)
    return low_MB, place_MB - low_MB
