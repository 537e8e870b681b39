"""How far runs lie apart that differ in their seed alone, and what that leaves of a difference."""

# S seeds
from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]
How = Literal["paired by seed", "Welch", "one run each"]

LEVEL = 0.95


class Spread(NamedTuple):
    """Of the losses of one configuration. What a single run cannot tell is NaN."""

    num: int
    mean: float
    std: float
    low: float
    """Of the 95% interval of the mean, by Student's t."""
    high: float


class Difference(NamedTuple):
    """A loss minus the one that it is compared with, and its 95% interval."""

    how: How
    value: float
    low: float
    high: float

    @property
    def is_told_apart(self) -> bool:
        """Whether the interval leaves 0 out."""
        return bool(self.low > 0 or self.high < 0)


def spread(losses: Array) -> Spread:
    """Returns mean, standard deviation and the interval of the mean."""
    loss_S = np.asarray(losses, float)
    if len(loss_S) < 2:
        mean = float(loss_S.mean()) if len(loss_S) else np.nan
        return Spread(len(loss_S), mean, np.nan, np.nan, np.nan)
    mean, std = float(loss_S.mean()), float(loss_S.std(ddof=1))
    reach = _t(len(loss_S) - 1) * std / np.sqrt(len(loss_S))
    return Spread(len(loss_S), mean, std, mean - reach, mean + reach)


def difference(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Difference:
    """Returns mean(ours) - mean(theirs), each {seed: loss}.

    paired by seed: where both were run with the same seeds, two or more: a seed draws weights and
    batches, so that a pair shares its luck. Welch: where the seeds differ (variances need not be
    equal; Welch 1947). one run each: no interval can be given.
    """
    if set(ours) == set(theirs) and len(ours) > 1:
        gap_S = np.array([ours[seed] - theirs[seed] for seed in sorted(ours)])
        found = spread(gap_S)
        return Difference("paired by seed", found.mean, found.low, found.high)
    a_S, b_S = (np.array(list(side.values()), float) for side in (ours, theirs))
    value = float(a_S.mean() - b_S.mean())
    if min(len(a_S), len(b_S)) < 2:
        return Difference("one run each", value, np.nan, np.nan)
    of_a, of_b = a_S.var(ddof=1) / len(a_S), b_S.var(ddof=1) / len(b_S)
    if of_a + of_b == 0:
        return Difference("Welch", value, value, value)
    freedom = (of_a + of_b) ** 2 / (of_a**2 / (len(a_S) - 1) + of_b**2 / (len(b_S) - 1))
    reach = _t(freedom) * np.sqrt(of_a + of_b)
    return Difference("Welch", value, value - reach, value + reach)


def noise_of_seeds(frame: pd.DataFrame) -> float | None:
    """Returns the standard deviation of log loss between runs of one point, pooled over points;
    None where no point was repeated."""
    squares, freedom = 0.0, 0
    for _, rows in frame.groupby("point", sort=False):
        log_S = np.log(rows["loss"].to_numpy(float))
        squares += float(((log_S - log_S.mean()) ** 2).sum())
        freedom += len(log_S) - 1
    return float(np.sqrt(squares / freedom)) if freedom else None


def interval_of_std(std: float, num: int) -> tuple[float, float]:
    """Returns the 95% interval of a standard deviation of `num` normal values, by chi squared."""
    ends = stats.chi2.ppf([(1 + LEVEL) / 2, (1 - LEVEL) / 2], num - 1)
    low, high = std * np.sqrt((num - 1) / ends)
    return float(low), float(high)


def _t(freedom: float) -> float:
    return float(stats.t.ppf((1 + LEVEL) / 2, freedom))
