"""Many values at once, each against its own past: rises, falls, and multiples of what was usual.

n entries  W window
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..windows import MAD_TO_SIGMA, Floats


class OwnBaseline:
    """Median and spread of the accepted values of each entry, over a window of its own.

    Where fixed thresholds fail (a layer's imbalance is 2 here and 30 there), an entry is compared
    with itself. A value that the caller rejects, or that is not finite, is not learnt; after as
    many rejections in a row as the window is long an entry is learnt anew: it has settled
    elsewhere. Another number of entries begins anew. Source: facts, health.md sections 4, 1 and 5.
    """

    def __init__(self, window: int, min_count: int, floor: float) -> None:
        """floor: the least spread."""
        self._size, self._min_count, self._floor = window, min_count, floor
        self._values_Wn: Floats = np.full((window, 0), np.nan)
        self._rejected_n: NDArray[np.int64] = np.zeros(0, np.int64)
        self._next_n: NDArray[np.int64] = np.zeros(0, np.int64)
        self.is_learnt_anew = False
        """Whether, with the newest values, some entry was rejected once too often."""

    @property
    def is_ready(self) -> bool:
        """Whether some entry could be judged."""
        return bool((self._counts() >= self._min_count).any())

    def level_and_spread(self, num: int) -> tuple[Floats, Floats]:
        """Returns median and 1.4826 MAD, or the floor, of each entry; NaN below min_count."""
        self._fit(num)
        count_n = self._counts()
        level_n = _medians(self._values_Wn, count_n)
        level_n[count_n < self._min_count] = np.nan
        distance_Wn = np.abs(self._values_Wn - level_n)
        spread_n = np.maximum(MAD_TO_SIGMA * _medians(distance_Wn, count_n), self._floor)
        return level_n, spread_n

    def learn(self, value_n: Floats, is_rejected_n: NDArray[np.bool_]) -> None:
        """Takes the values that were not rejected."""
        self._fit(len(value_n))
        # one that is not finite is neither: it says nothing of where the entry is
        is_rejected_n = is_rejected_n & np.isfinite(value_n)
        learnt = np.flatnonzero(np.isfinite(value_n) & ~is_rejected_n)
        self._values_Wn[self._next_n[learnt], learnt] = value_n[learnt]
        self._next_n[learnt] = (self._next_n[learnt] + 1) % self._size
        self._rejected_n = np.where(is_rejected_n, self._rejected_n + 1, self._rejected_n)
        self._rejected_n[learnt] = 0
        is_elsewhere_n = self._rejected_n >= self._size
        self._values_Wn[:, is_elsewhere_n] = np.nan
        self._rejected_n[is_elsewhere_n] = 0
        self.is_learnt_anew = bool(is_elsewhere_n.any())

    def clear(self) -> None:
        self._values_Wn[:] = np.nan
        self._rejected_n[:] = 0
        self.is_learnt_anew = False

    def _counts(self) -> NDArray[np.int64]:
        counts: NDArray[np.int64] = np.isfinite(self._values_Wn).sum(axis=0)
        return counts

    def _fit(self, num: int) -> None:
        if self._values_Wn.shape[1] != num:
            self._values_Wn = np.full((self._size, num), np.nan)
            self._rejected_n, self._next_n = np.zeros((2, num), np.int64)

    def state_dict(self) -> dict[str, Any]:
        return {
            "values_Wn": self._values_Wn.copy(),
            "rejected_n": self._rejected_n.copy(),
            "next_n": self._next_n.copy(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._values_Wn = np.array(state["values_Wn"], dtype=np.float64)
        self._rejected_n = np.array(state["rejected_n"], dtype=np.int64)
        self._next_n = np.array(state["next_n"], dtype=np.int64)


def _medians(values_Wn: Floats, count_n: NDArray[np.int64]) -> Floats:
    """The median of each column's values that are not NaN, count_n of them; NaN without any.
    np.nanmedian costs many times as much on small arrays."""
    # NaN is sorted to the end
    sorted_Wn = np.sort(values_Wn, axis=0)
    columns = np.arange(len(count_n))
    high_n = sorted_Wn[np.minimum(count_n // 2, len(values_Wn) - 1), columns]
    low_n = sorted_Wn[np.maximum(count_n - 1, 0) // 2, columns]
    medians: Floats = (low_n + high_n) / 2
    return medians


class Change:
    """z of each entry against its own accepted values; positive where it is worse.

    z = sign * (x - median) / max(1.4826 MAD, floor), of the logarithm with is_log, as befits what
    varies by factors: with a floor of 0.1 a z of 8 is at least a factor e^0.8 = 2.2. 0 for an entry
    that is still being learnt or is not finite. Above `reject` a value is not learnt.
    """

    def __init__(
        self,
        sign: float,
        window: int = 64,
        min_count: int = 16,
        floor: float = 0.1,
        reject: float = 4.0,
        is_log: bool = False,
    ) -> None:
        """sign: 1 where rises are bad, -1 where falls are."""
        self._sign, self._reject, self._is_log = sign, reject, is_log
        self.baseline = OwnBaseline(window, min_count, floor)

    def update(self, value_n: Floats) -> Floats:
        """Returns z (n,) and learns."""
        x_n = value_n
        if self._is_log:
            x_n = np.log(np.where(value_n > 0, value_n, np.nan))
        level_n, spread_n = self.baseline.level_and_spread(len(x_n))
        z_n = np.nan_to_num(self._sign * (x_n - level_n) / spread_n, posinf=0.0, neginf=0.0)
        self.baseline.learn(x_n, z_n > self._reject)
        return z_n


class Multiple:
    """Each entry over the median of its own past, `lag` values ago: 2 is twice the usual.

    The lag keeps a slow change out of its own baseline; the median is taken anew every `lag`
    values. 0 for an entry that is still being learnt
    or is not finite. A value above `reject` times the median is not learnt.
    """

    def __init__(
        self, window: int = 200, min_count: int = 100, lag: int = 20, reject: float = 1.5
    ) -> None:
        self._lag, self._reject = lag, reject
        self.baseline = OwnBaseline(window, min_count, 0.0)
        self._recent: list[Floats] = []
        self._level_n: Floats = np.zeros(0)
        self._num_since = 0

    def update(self, value_n: Floats) -> Floats:
        """Returns the multiples (n,) and learns."""
        if self._recent and len(self._recent[0]) != len(value_n):
            self._recent.clear()
        # a median over the window is dear beside a step of the judge, and moves slowly
        if self._num_since % max(1, self._lag) == 0 or len(self._level_n) != len(value_n):
            self._level_n, _ = self.baseline.level_and_spread(len(value_n))
        self._num_since += 1
        level_n = self._level_n
        with np.errstate(divide="ignore", invalid="ignore"):
            multiple_n = np.nan_to_num(value_n / level_n, nan=0.0, posinf=0.0)
        self._recent.append(value_n)
        if len(self._recent) > self._lag:
            old_n = self._recent.pop(0)
            with np.errstate(invalid="ignore"):
                self.baseline.learn(old_n, old_n > self._reject * level_n)
            if self.baseline.is_learnt_anew:
                self._num_since = 0  # the median of before is given up with it
        return multiple_n

    def clear(self) -> None:
        self.baseline.clear()
        self._recent.clear()
        self._level_n, self._num_since = np.zeros(0), 0

    def state_dict(self) -> dict[str, Any]:
        return {
            "baseline": self.baseline.state_dict(),
            "recent": [value_n.copy() for value_n in self._recent],
            "level_n": self._level_n.copy(),
            "num_since": self._num_since,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.baseline.load_state_dict(state["baseline"])
        self._recent = [np.array(value_n, dtype=np.float64) for value_n in state["recent"]]
        self._level_n = np.array(state["level_n"], dtype=np.float64)
        self._num_since = int(state["num_since"])
