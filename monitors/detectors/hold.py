"""When a baseline must not learn: values stay high, though not each of them is odd by itself."""

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..windows import median


class Hold:
    """From 3 of the last 5 scores above `raised` until the median of the last 9 is below 1.5.

    A level four sigmas above the old one gives scores on both sides of what is rejected one by one;
    were the lower ones learnt, it would explain itself away within some ten steps. 1.5 is out of
    the way of noise: the median of nine normal scores exceeds it once in 8,000 times, that of nine
    maxima of three such scores once in 70.
    """

    def __init__(self, raised: float) -> None:
        self._raised = raised
        self._recent: deque[float] = deque(maxlen=9)
        self.is_on = False

    def update(self, score: float) -> bool:
        """Takes the next score; returns whether the baseline is to be held."""
        self._recent.append(score)
        last = list(self._recent)
        if self.is_on:
            self.is_on = median(np.array(last)) >= 1.5
        else:
            self.is_on = sum(one > self._raised for one in last[-5:]) >= 3
        return self.is_on

    def clear(self) -> None:
        self._recent.clear()
        self.is_on = False

    def state_dict(self) -> dict[str, Any]:
        return {"recent": list(self._recent), "is_on": self.is_on}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._recent.clear()
        self._recent.extend(float(score) for score in state["recent"])
        self.is_on = bool(state["is_on"])
