"""The expert-load table: a file for each segment, written rarely and in place."""

from collections.abc import Iterator

from ..catalogue import EXPERT_LOAD
from ..records import Frame
from .pages import load_page

EVERY_S = 300.0
"""Seconds of training between two writings; also written when the segment ends."""


class ExpertLoads:
    """Remembers each segment's newest table until it is written."""

    def __init__(self) -> None:
        self._newest: dict[int, Frame] = {}
        self._written_s: dict[int, float] = {}

    def take(self, frame: Frame) -> None:
        load = frame.values.get(EXPERT_LOAD)
        if load is not None and load.ndim == 2:
            self._newest[frame.segment] = frame

    def due(self, newest_segment: int, *, is_closing: bool = False) -> Iterator[tuple[str, str]]:
        """Yields (name, text) of each table that is to be written now: the first, one that is old,
        the last of a segment that has ended."""
        for segment, frame in list(self._newest.items()):
            last_s = self._written_s.get(segment)
            if (
                is_closing
                or segment < newest_segment
                or last_s is None
                or not 0.0 <= frame.time_s - last_s < EVERY_S
            ):
                self._written_s[segment] = frame.time_s
                del self._newest[segment]
                text = load_page(frame.step, frame.values[EXPERT_LOAD])
                yield f"expert_load/segment_{segment}.csv", text
