"""Levels that moved and stayed: the median of the newest values against that of much older ones."""

import math
from collections import deque
from collections.abc import Mapping
from itertools import islice
from typing import Any

import numpy as np

from ..windows import AcceptedWindow, median


class LevelShift:
    """How far the median of the newest values lies above a lagged baseline, in sigmas of such a
    median.

    z_t = (median(last n) - median(old)) / (max(1.4826 MAD(old), floor) * sqrt(pi / (2 n))), where
    old are the `window` accepted values before the newest `lag` of them. A median of n normal
    values spreads by sqrt(pi / (2 n)) of their sigmas; a few extreme ones among the n move it by
    little.
    While z > `reject` nothing enters the baseline, and the n values by which it was first exceeded
    are taken out of what waits for it. After as many such steps in a row as the window is long
    everything is learnt anew: the level has shifted for good. A value that is not finite changes
    nothing. The score is 0 until `min_count` values are older than the lag.
    """

    def __init__(
        self,
        num_recent: int = 32,
        window: int = 128,
        min_count: int = 64,
        lag: int = 48,
        floor: float = 0.004,
        reject: float = 4.5,
    ) -> None:
        if lag < num_recent:
            raise ValueError(
                f"lag is {lag}, but the newest {num_recent} values must not be in their own "
                f"baseline: use at least {num_recent}"
            )
        self._old = AcceptedWindow(window, min_count, floor)
        self._recent: deque[float] = deque(maxlen=num_recent)
        self._waiting: deque[float] = deque()
        self._lag = lag
        self._window = window
        self._reject = reject
        self._sigma_of_median = math.sqrt(math.pi / (2 * num_recent))
        self._num_rejected = 0
        self.score = 0.0
        self.is_learnt_anew = False
        """Whether the newest value was one too many above the baseline."""

    @property
    def is_ready(self) -> bool:
        """Whether a shift would be seen."""
        return self._old.is_ready

    def update(self, value: float) -> float:
        """Returns z with this value counted."""
        self.is_learnt_anew = False
        if not math.isfinite(value):
            return self.score
        self._recent.append(value)
        baseline = self._old.level_and_scale()
        self.score = 0.0
        if baseline is not None and len(self._recent) == self._recent.maxlen:
            level, scale = baseline
            self.score = (median(np.array(self._recent)) - level) / (scale * self._sigma_of_median)
        reached = self.score
        if reached > self._reject:
            self._hold_back()
        else:
            self._num_rejected = 0
            self._waiting.append(value)
            if len(self._waiting) > self._lag:
                self._old.push(self._waiting.popleft())
        return reached

    def _hold_back(self) -> None:
        if self._num_rejected == 0:
            # all but the newest of the values that this median is of are waiting
            kept = max(0, len(self._waiting) - (len(self._recent) - 1))
            self._waiting = deque(islice(self._waiting, kept))
        self._num_rejected += 1
        self.is_learnt_anew = self._num_rejected >= self._window
        if self.is_learnt_anew:
            self.rebaseline()

    def rebaseline(self) -> None:
        self._old.clear()
        self._recent.clear()
        self._waiting.clear()
        self._num_rejected = 0
        self.score = 0.0

    def state_dict(self) -> dict[str, Any]:
        return {
            "old": self._old.state_dict(),
            "recent": list(self._recent),
            "waiting": list(self._waiting),
            "num_rejected": self._num_rejected,
            "score": self.score,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._old.load_state_dict(state["old"])
        self._recent.clear()
        self._recent.extend(float(value) for value in state["recent"])
        self._waiting = deque(float(value) for value in state["waiting"])
        self._num_rejected, self.score = int(state["num_rejected"]), float(state["score"])
