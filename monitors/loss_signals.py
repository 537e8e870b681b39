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
        self._weight_MN = np.zeros((num_modalities, NUM_KNOTS))
        self._sum_MN = np.zeros((num_modalities, NUM_KNOTS))
        self._spread_MN = np.zeros((num_modalities, NUM_KNOTS))
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
        error_MB = log_MB - mean_MB - level_M[:, None]
        z_MB = np.clip(error_MB / scale_MB, -CLIP_SIGMA, CLIP_SIGMA)
        z_MB = np.where(is_there_MB, z_MB, np.nan)
        weight_MB = np.where(is_there_MB, scale_MB**-2.0, 0.0)
        total_M = weight_MB.sum(axis=1)
        moved_MB = np.where(is_there_MB, np.clip(z_MB, -4.0, 4.0) * scale_MB, 0.0)
        with np.errstate(invalid="ignore", divide="ignore"):
            log_level_M = level_M + (weight_MB * moved_MB).sum(axis=1) / total_M
        sum_M, num_M = np.nansum(z_MB, axis=1), is_there_MB.sum(axis=1)
        of_modality_M = np.where(num_M > 0, sum_M / np.sqrt(np.maximum(num_M, FEWEST)), np.nan)
        pooled = float(sum_M.sum() / math.sqrt(max(num_samples, FEWEST)))
        return Residuals(z_MB, pooled, of_modality_M, log_level_M)

    def learn(
        self,
        loss_MB: NDArray[np.generic],
        sigma_MB: NDArray[np.generic],
        residuals: Residuals,
        level_weight_M: Floats,
    ) -> None:
        """Takes an accepted step into level, curve and scale. `residuals` is what was said of the
        same losses before.

        level_weight_M: 1, or less for a modality whose level shall follow this step only in part.
        """
        log_MB, place_MB = _log_loss(loss_MB), np.asarray(sigma_MB, dtype=np.float64)
        z_MB = residuals.per_sample_MB
        is_there_MB = np.isfinite(z_MB)
        level_M = self._levels(log_MB, is_there_MB)
        mean_MB, scale_MB = self._read(place_MB)
        memory = min(max(self._num_steps / 2, SHORTEST_MEMORY), LONGEST_MEMORY)
        keep = 1.0 - 1.0 / memory
        low_MB, part_MB = _knots(np.where(is_there_MB, place_MB, 0.0))
        # winsorised distance from the level of today
        shape_MB = np.where(is_there_MB, np.clip(z_MB, -4, 4) * scale_MB + mean_MB, 0.0)
        spread_MB = np.where(is_there_MB, np.minimum(np.abs(z_MB), 4.0) * scale_MB, 0.0)
        for m in range(log_MB.shape[0]):
            if not is_there_MB[m].any():
                continue
            for sums, values in (
                (self._weight_MN[m], is_there_MB[m].astype(np.float64)),
                (self._sum_MN[m], shape_MB[m]),
                (self._spread_MN[m], spread_MB[m]),
            ):
                sums *= keep
                sums += np.bincount(low_MB[m], values * (1 - part_MB[m]), NUM_KNOTS)
                sums += np.bincount(low_MB[m] + 1, values * part_MB[m], NUM_KNOTS)
        self._num_steps += 1
        self._num_since_level += 1
        rate = max(LEVEL_RATE, 1.0 / (self._num_since_level + 1))
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
        for sums in (self._weight_MN, self._sum_MN, self._spread_MN):
            sums *= 0.1
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
            weight_MN, sum_MN, spread_MN = (
                _smooth(x_MN) for x_MN in (self._weight_MN, self._sum_MN, self._spread_MN)
            )
            # one sample's worth of prior: no deviation from the level, PRIOR_SCALE around it
            mean_MN = sum_MN / (weight_MN + 1.0)
            mean_MN -= mean_MN.mean(axis=1, keepdims=True)
            scale_MN = (_MEAN_ABS_TO_SIGMA * spread_MN + PRIOR_SCALE) / (weight_MN + 1.0)
            self._curves = mean_MN, np.maximum(scale_MN, SCALE_FLOOR)
        mean_MN, scale_MN = self._curves
        low_MB, part_MB = _knots(np.nan_to_num(sigma_MB))
        rows_M1 = np.arange(sigma_MB.shape[0])[:, None]
        high_MB = np.minimum(low_MB + 1, NUM_KNOTS - 1)
        return (
            mean_MN[rows_M1, low_MB] * (1 - part_MB) + mean_MN[rows_M1, high_MB] * part_MB,
            scale_MN[rows_M1, low_MB] * (1 - part_MB) + scale_MN[rows_M1, high_MB] * part_MB,
        )

    def state_dict(self) -> dict[str, Any]:
        return {
            "level_M": self._level_M.copy(),
            "weight_MN": self._weight_MN.copy(),
            "sum_MN": self._sum_MN.copy(),
            "spread_MN": self._spread_MN.copy(),
            "num_steps": self._num_steps,
            "num_since_level": self._num_since_level,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._level_M = np.array(state["level_M"], dtype=np.float64)
        self._weight_MN = np.array(state["weight_MN"], dtype=np.float64)
        self._sum_MN = np.array(state["sum_MN"], dtype=np.float64)
        self._spread_MN = np.array(state["spread_MN"], dtype=np.float64)
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


def _smooth(sums_MN: Floats) -> Floats:
    padded = np.pad(sums_MN, ((0, 0), (1, 1)), mode="edge")
    return np.asarray((padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]) / 4)
