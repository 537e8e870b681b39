"""Divergence from the start: a loss that is above where the training began."""

import math
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..windows import median


class DivergenceScore:
    """The least of the last `num_last` values over the median of the first `num_first`.

    A training begins at the loss of a model that knows nothing: whatever stays above that has
    diverged. It needs no baseline of many steps, so that it sees what happens in the warm-up.
    The score is 0 until both are known, and for a start that is not positive. A value that is not
    finite changes nothing.
    """

    is_learnt_anew = False

    def __init__(self, num_first: int = 3, num_last: int = 3) -> None:
        self._num_first = num_first
        self._first: list[float] = []
        self._last: deque[float] = deque(maxlen=num_last)

    @property
    def is_ready(self) -> bool:
        """Whether a divergence would be seen."""
        return len(self._first) >= self._num_first and len(self._last) == self._last.maxlen

    def update(self, value: float) -> float:
        """Returns the score with this value counted."""
        if math.isfinite(value):
            self._last.append(value)
            if len(self._first) < self._num_first:
                self._first.append(value)
        if not self.is_ready:
            return 0.0
        start = median(np.array(self._first))
        return min(self._last) / start if start > 0 else 0.0

    def rebaseline(self) -> None:
        self._first.clear()
        self._last.clear()

    def state_dict(self) -> dict[str, Any]:
        return {"first": list(self._first), "last": list(self._last)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._first = [float(value) for value in state["first"]]
        self._last.clear()
        self._last.extend(float(value) for value in state["last"])
