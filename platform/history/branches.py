"""Where a history went back: a step that comes again, after later ones, is a resume or a rollback.

A tracker that knows no segments keeps both: in MLflow such a curve runs zig-zag. Here the points
are looked at in the order in which they were logged. A signal that goes back opens a new segment at
that step, if it was at the run's front before (its last step plus its usual distance reaches the
furthest step of the segment): one on another axis, as epochs, says nothing of the run. Other
signals belong to the new segment from then on. The resume lies at most one such distance before the
step that showed it; a signal that is logged more often moves the start down to where it comes in.
A step that comes twice without that keeps its last value.
"""

from dataclasses import replace

from ..records import Segment

MOST_SEGMENTS = 64


class WentBackTooOften(Exception):
    """More often than any resume explains: the source's order is not that of the training."""


class Branches:
    """Gives each point its segment. Points must come in the order in which they were logged.

    is_flat: all into one segment.
    """

    def __init__(self, run_id: str, *, is_flat: bool = False) -> None:
        self._run_id = run_id
        self._is_flat = is_flat
        self._last: dict[str, int] = {}
        """{signal: its newest step in this segment}"""
        self._before: dict[str, int] = {}
        """... in the segment before."""
        self._distance: dict[str, int] = {}
        self._front = -1
        self._lowest = 0
        """What the start of this segment may be moved down to."""
        self.segments: list[Segment] = []
        self.num_late = 0
        """Points whose step their signal had reached in their segment already: they took the place
        of the earlier one, if there was one."""

    def place(self, signal: str, step: int, time_s: float) -> int:
        """Returns the index of the point's segment. Raises WentBackTooOften."""
        if not self.segments:
            self.segments.append(Segment(self._run_id, 0, step, "start", time_s))
        last = self._last.get(signal)
        if last is None:
            self._come_in(signal, step)
        elif step > last:
            self._distance[signal] = step - last
        elif step < last and not self._is_flat and self._was_at_the_front(signal, last):
            self._go_back(signal, step, time_s)
        else:
            self.num_late += 1
            step = last
        self._last[signal] = step
        self._front = max(self._front, step)
        return self.segments[-1].index

    def _was_at_the_front(self, signal: str, last: int) -> bool:
        return last + self._distance.get(signal, 0) >= self._front

    def _go_back(self, signal: str, step: int, time_s: float) -> None:
        here = self.segments[-1]
        if len(self.segments) >= MOST_SEGMENTS:
            raise WentBackTooOften
        self.segments.append(
            Segment(self._run_id, here.index + 1, step, "resume", time_s, here.index, step - 1)
        )
        self._lowest = max(0, step - self._distance.get(signal, 1) + 1)
        self._before, self._last = {**self._before, **self._last}, {}
        self._front = step

    def _come_in(self, signal: str, step: int) -> None:
        here = self.segments[-1]
        if step >= here.start_step:
            return
        if here.parent_segment is None:
            self.segments[-1] = replace(here, start_step=step)
        elif self._lowest <= step <= self._before.get(signal, -1):
            self.segments[-1] = replace(here, start_step=step, parent_step=step - 1)
