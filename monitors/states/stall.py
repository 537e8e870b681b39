"""How much of a training its snapshots take."""

import math

MOST = 0.01
"""Share of training that snapshots may take before that is said."""
LEAST_S = 0.1
"""Of a snapshot: a shorter one is no matter, however short the steps are."""
JUDGED = 5
"""The snapshot that is looked at: the first ones may wait for memory."""


class Stall:
    """Looks once at what a snapshot takes."""

    def __init__(self, every_steps: int, now_s: float) -> None:
        """every_steps: between two snapshots. now_s: as of what `taken` is given."""
        self._every_steps, self._last_s = every_steps, now_s
        self._num = 0

    def taken(self, start_s: float, end_s: float) -> str:
        """Takes a snapshot's beginning and end; returns a line where it takes too much of the time
        since the one before, with the interval that would not, else nothing."""
        took_s, since_s = end_s - start_s, end_s - self._last_s
        self._num, self._last_s = self._num + 1, end_s
        share = took_s / since_s
        if self._num != JUDGED or took_s < LEAST_S or share <= MOST:
            return ""
        every = math.ceil(self._every_steps * share / MOST)
        return (
            f"a snapshot takes {took_s:.1f} s, {share:.1%} of training: "
            f"memory_every_steps={every} makes it {MOST:.0%}"
        )
