"""Windows of accepted values and what is robust about them: median, MAD, and k-of-n persistence.

A flagged value never enters the window that it is judged by.
"""

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MAD_TO_SIGMA = 1.4826
"""1 / Phi^-1(3/4): for normal values 1.4826 * MAD is the standard deviation."""


def median(values: Floats) -> float:
    """The median of a non-empty vector; np.median costs several times as much on short ones."""
    half, odd = divmod(values.size, 2)
    if odd:
        return float(np.partition(values, half)[half])
    parted = np.partition(values, (half - 1, half))
    return float((parted[half - 1] + parted[half]) / 2)


class AcceptedWindow:
    """The last `size` accepted values; `score` compares a new one with their median and MAD.

    z = (x - median) / max(1.4826 * MAD, floor); None below `min_count` values. Source: facts,
    health.md section 4, 1.
    """

    def __init__(self, size: int, min_count: int, floor: float) -> None:
        self._values = np.zeros(size)
        self._min_count = min_count
        self._floor = floor
        self.count = 0
        self._next = 0
        self._level_and_scale: tuple[float, float] | None = None

    @property
    def is_ready(self) -> bool:
        """Whether there are values enough to judge by."""
        return self.count >= self._min_count

    def level_and_scale(self) -> tuple[float, float] | None:
        """Returns (median, 1.4826 MAD or the floor) of the accepted values, or None while there are
        too few."""
        if not self.is_ready:
            return None
        if self._level_and_scale is None:
            values = self._values[: self.count]
            level = median(values)
            spread = MAD_TO_SIGMA * median(np.abs(values - level))
            self._level_and_scale = level, max(spread, self._floor)
        return self._level_and_scale

    def score(self, value: float) -> float | None:
        baseline = self.level_and_scale()
        return None if baseline is None else (value - baseline[0]) / baseline[1]

    def push(self, value: float) -> None:
        self._values[self._next] = value
        self._next = (self._next + 1) % self._values.size
        self.count = min(self.count + 1, self._values.size)
        self._level_and_scale = None

    def clear(self) -> None:
        self.count = self._next = 0
        self._level_and_scale = None

    def state_dict(self) -> dict[str, Any]:
        return {"values": self._values.copy(), "count": self.count, "next": self._next}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._values[:] = np.asarray(state["values"], dtype=np.float64)
        self.count, self._next = int(state["count"]), int(state["next"])
        self._level_and_scale = None


class Persistence:
    """Says when at least `patience` of the last `of_last` scores exceed a threshold, and since
    when.

    The onset is the change point, not the alarm: from the earliest exceeding score of the alarm's
    stretch it walks back over the scores that were already above `raised`. A raised stretch has
    ended after `calm_steps` scores in a row that do not exceed the threshold.
    """

    MEMORY = 64
    """Scores that the onset may walk back over."""

    def __init__(
        self, threshold: float, patience: int, of_last: int, calm_steps: int, raised: float
    ) -> None:
        self._threshold = threshold
        self._patience = patience
        self._of_last = of_last
        self._calm_steps = calm_steps
        self._raised = raised
        self._recent: deque[tuple[int, float]] = deque(maxlen=max(self.MEMORY, of_last))
        self.is_active = False
        """Between the alarm and the end of the raised stretch."""
        self.is_raised = False
        """Whether the newest score exceeds the threshold."""
        self._num_calm = 0

    def update(self, step: int, score: float, is_held: bool = False) -> int | None:
        """Takes the next score; returns the onset step at the moment the condition begins to hold,
        else None. is_held: whether a low score is no sign of calm yet."""
        self._recent.append((step, score))
        self.is_raised = score > self._threshold
        if self.is_active:
            self._num_calm = 0 if self.is_raised or is_held else self._num_calm + 1
            if self._num_calm >= self._calm_steps:
                self.is_active = False
                self._recent.clear()
            return None
        last = list(self._recent)[-self._of_last :]
        if sum(value > self._threshold for _, value in last) < self._patience:
            return None
        self.is_active = True
        self._num_calm = 0
        return self._onset(len(self._recent) - len(last))

    def clear(self) -> None:
        self._recent.clear()
        self.is_active = self.is_raised = False
        self._num_calm = 0

    def _onset(self, start: int) -> int:
        recent = list(self._recent)
        index = next(i for i in range(start, len(recent)) if recent[i][1] > self._threshold)
        while index > 0 and recent[index - 1][1] > self._raised:
            index -= 1
        return recent[index][0]

    def state_dict(self) -> dict[str, Any]:
        return {
            "recent": [list(pair) for pair in self._recent],
            "is_active": self.is_active,
            "is_raised": self.is_raised,
            "num_calm": self._num_calm,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._recent.clear()
        self._recent.extend((int(step), float(score)) for step, score in state["recent"])
        self.is_active, self.is_raised = bool(state["is_active"]), bool(state["is_raised"])
        self._num_calm = int(state["num_calm"])
