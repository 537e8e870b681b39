"""Spikes: a value far above the accepted ones before it, measured robustly."""

from collections.abc import Mapping
from typing import Any

from ..windows import AcceptedWindow
from .hold import Hold


class SpikeScore:
    """Robust z-score of a value against a level that follows it and a window of its own accepted
    residuals.

    r_t = x_t - level;  z_t = (r_t - median(r)) / max(1.4826 MAD(r), floor);  level += level_rate *
    r_t if accepted. The level follows a falling loss within 1 / level_rate steps; a constant lag is
    in the median of r. With level_rate 0 the values are judged as they are.
    A value above `reject` is not accepted, nor is any while values stay high (`Hold`). After as
    many rejections in a row as the window is long, everything is learnt anew: the level has shifted
    for good. The score is 0 until `min_count` residuals are known.
    x must be finite. Source: facts, health.md section 4, 1 (z, window, rejection); the following
    level is ours.
    """

    def __init__(
        self,
        window: int = 128,
        min_count: int = 48,
        floor: float = 0.02,
        reject: float = 4.0,
        level_rate: float = 0.1,
    ) -> None:
        self._window = AcceptedWindow(window, min_count, floor)
        self._size = window
        self.reject_above = reject
        self.hold = Hold(reject)
        self._level_rate = level_rate
        self._level: float | None = None
        self._num_learnt = 0
        self._num_rejected = 0
        self.is_learnt_anew = False
        """Whether the newest value was one rejection too many."""

    @property
    def is_ready(self) -> bool:
        """Whether a spike would be seen."""
        return self._window.is_ready and not (self._level_rate and self._level is None)

    def score(self, value: float) -> float:
        """Returns z without changing anything."""
        z = self._window.score(value - (self._level or 0.0)) if self.is_ready else None
        return 0.0 if z is None else z

    def update(self, value: float) -> tuple[float, bool]:
        """Returns (z, whether the value was accepted) and learns from an accepted one."""
        z = self.score(value)
        is_rejected = self.hold.update(z) or z > self.reject_above
        self.is_learnt_anew = is_rejected and self.reject()
        if is_rejected:
            return z, False
        self.learn(value)
        return z, True

    def learn(self, value: float) -> None:
        """Takes an accepted value into the window and the level."""
        self._num_rejected = 0
        if self._level is None:
            self._level = value if self._level_rate else 0.0
        residual = value - self._level
        self._window.push(residual)
        if self._level_rate:
            self._num_learnt += 1
            # the first values move it fast: 1/2, 1/3, ... down to the rate
            self._level += max(self._level_rate, 1.0 / (self._num_learnt + 1)) * residual

    def reject(self) -> bool:
        """Counts a value that is not learnt; returns whether it was one too many, and all is learnt
        anew."""
        self._num_rejected += 1
        if self._num_rejected < self._size:
            return False
        self.rebaseline()
        return True

    def rebaseline(self, forgets_spread: bool = True) -> None:
        """Learns the level anew; also the residuals' window, unless the noise is known to be what
        it was."""
        self._level = None
        self._num_learnt = self._num_rejected = 0
        self.hold.clear()
        if forgets_spread:
            self._window.clear()

    def state_dict(self) -> dict[str, Any]:
        return {
            "window": self._window.state_dict(),
            "level": self._level,
            "num_learnt": self._num_learnt,
            "num_rejected": self._num_rejected,
            "hold": self.hold.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._window.load_state_dict(state["window"])
        self._level = None if state["level"] is None else float(state["level"])
        self._num_learnt, self._num_rejected = int(state["num_learnt"]), int(state["num_rejected"])
        if "hold" in state:  # states of before there were holds have none
            self.hold.load_state_dict(state["hold"])
