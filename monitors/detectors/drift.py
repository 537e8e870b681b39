"""Slow divergence: a one-sided, lagged, winsorised CUSUM."""

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..windows import AcceptedWindow, median

NEWEST = 8
"""Values whose median says whether a level has come back."""


class DriftScore:
    """S_t = max(0, S_{t-1} + clip(r_t, -3, 3) - slack), with r_t against median and MAD of values
    at least `lag` steps old.

    The lag keeps a slow rise out of its own baseline; the clip lets one spike add at most 3 -
    slack. After S > `restart` baseline and S are learnt anew: the level has shifted. The onset is
    the step after S last left zero. The score is 0 until `min_count` values are older than the lag.
    Source: facts, health.md section 4, 3 (lag 32, slack 1, restart 80; alarm at 20).
    """

    def __init__(
        self,
        window: int = 128,
        min_count: int = 64,
        lag: int = 32,
        slack: float = 1.0,
        floor: float = 0.004,
        restart: float = 80.0,
    ) -> None:
        self._old = AcceptedWindow(window, min_count, floor)
        self._lag = lag
        self._recent: deque[float] = deque()
        self._slack = slack
        self._restart = restart
        self.score = 0.0
        self.onset_step: int | None = None
        self.is_learnt_anew: bool | None = None
        """True where S went beyond `restart` with the newest value, or the newest values lie by
        more than `slack` above the baseline of the onset: a level that stays enters its own
        baseline after the lag, and S falls though nothing has come back. None without an onset."""
        self._before: tuple[float, float] | None = None

    @property
    def is_ready(self) -> bool:
        """Whether a drift would be seen."""
        return self._old.is_ready

    def update(self, step: int, value: float) -> float:
        """Returns S with this value counted."""
        r = self._old.score(value)
        if r is not None:
            self.score = max(0.0, self.score + min(max(r, -3.0), 3.0) - self._slack)
            if self.score == 0.0:
                self.onset_step = None
            elif self.onset_step is None:
                self.onset_step = step
                self._before = self._old.level_and_scale()
        self._recent.append(value)
        if len(self._recent) > self._lag:
            self._old.push(self._recent.popleft())
        reached = self.score
        if reached > self._restart:
            self.rebaseline()
            self.is_learnt_anew = True
        elif self._before is None:
            self.is_learnt_anew = None
        else:
            level, scale = self._before
            newest = np.array([*self._recent][-NEWEST:])
            self.is_learnt_anew = median(newest) > level + self._slack * scale
        return reached

    def rebaseline(self) -> None:
        self._old.clear()
        self._recent.clear()
        self.score = 0.0
        self.onset_step = None
        self._before = None

    def state_dict(self) -> dict[str, Any]:
        return {
            "old": self._old.state_dict(),
            "recent": list(self._recent),
            "score": self.score,
            "onset_step": self.onset_step,
            "before": None if self._before is None else list(self._before),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._old.load_state_dict(state["old"])
        self._recent = deque(float(value) for value in state["recent"])
        self.score = float(state["score"])
        self.onset_step = None if state["onset_step"] is None else int(state["onset_step"])
        before = state.get("before")
        self._before = None if before is None else (float(before[0]), float(before[1]))
