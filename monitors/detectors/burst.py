"""Bursts: several high values close together, none of which need be extreme."""

from collections.abc import Mapping
from typing import Any

from .spike import SpikeScore


class BurstScore:
    """S_t = max(0, S_{t-1} + clip(z_t, -3, 3) - slack), where z is a robust z-score of its own.

    The clip lets one value add at most 3 - slack, so that k values in a row, however extreme, do
    not exceed k (3 - slack): with slack 2 and a threshold of 2 or more, two outliers are no burst,
    and the aftermath of a small spike is one. It forgets fast: slack sigmas with every usual value.
    S stays below `ceiling`, so that a burst ends soon after its last high value.
    """

    CLIP = 3.0

    def __init__(self, slack: float = 2.0, ceiling: float = 6.0, **of_spike: Any) -> None:
        self._spike = SpikeScore(**of_spike)
        self._slack = slack
        self._ceiling = ceiling
        self.score = 0.0

    @property
    def is_ready(self) -> bool:
        """Whether a burst would be seen."""
        return self._spike.is_ready

    @property
    def is_learnt_anew(self) -> bool:
        return self._spike.is_learnt_anew

    def update(self, value: float) -> float:
        """Returns S with this value counted. It must be finite."""
        z, _ = self._spike.update(value)
        added = min(max(z, -self.CLIP), self.CLIP) - self._slack
        self.score = min(max(0.0, self.score + added), self._ceiling)
        return self.score

    def rebaseline(self, forgets_spread: bool = True) -> None:
        """As the spike score's; S begins at zero."""
        self._spike.rebaseline(forgets_spread)
        self.score = 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"spike": self._spike.state_dict(), "score": self.score}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._spike.load_state_dict(state["spike"])
        self.score = float(state["score"])
