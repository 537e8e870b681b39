"""What the horizontal axis of a run's charts counts: steps, tokens, FLOPs or the wall's time.

Series are kept by step. A clock turns (segment, step) into the measure and back; each segment has
its own, since a step that was trained twice had two moments but one place.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..platform.records import Bands, Segment, Series

Axis = Literal["step", "tokens", "FLOPs", "wall time"]

Anchors = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Steps and the measure there, both increasing."""


@dataclass(frozen=True, slots=True)
class Clock:
    axis: Axis = "step"
    anchors: Mapping[int, Anchors] = field(default_factory=dict)
    """{segment: anchors}; between them the measure goes evenly. Empty: steps are the measure."""
    living: Anchors | None = None
    """Of the branch that training is on, to find the way back."""

    @property
    def is_steps(self) -> bool:
        return not self.anchors

    @property
    def title(self) -> str:
        return {
            "step": "step",
            "tokens": "tokens seen",
            "FLOPs": "model FLOPs",
            "wall time": "time (UTC)",
        }[self.axis]

    def x(
        self, segments: NDArray[np.int32] | NDArray[np.int64], steps: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Returns the measure at steps of segments; all three are (points,).

        Past the outermost anchors of a segment it stays what it is there; of a segment without any
        it is NaN. Wall time is in milliseconds since 1970, as plotly's date axes want it.
        """
        if self.is_steps:
            return steps.astype(np.float64)
        out = np.full(len(steps), np.nan)
        for segment in np.unique(segments):
            known = self.anchors.get(int(segment))
            if known is not None:
                here = segments == segment
                out[here] = np.interp(steps[here], *known)
        return out

    def x_of(self, segment: int, step: float) -> float:
        """Returns the measure at one step."""
        return float(self.x(np.array([segment]), np.array([step], np.float64))[0])

    def step_at(self, x: float) -> int:
        """Returns the step of the living branch at a measure."""
        if self.is_steps or self.living is None:
            return round(x)
        steps, measure = self.living
        return round(float(np.interp(x, measure, steps)))


STEPS = Clock()


def counting(axis: Axis, per_step: Bands, segments: Sequence[Segment]) -> Clock:
    """Makes a clock that adds up what each step has: its tokens, its FLOPs.

    per_step: that number of every step, all segments. A segment goes on from where its parent was
    at the step that it left it; steps whose number is missing add nothing.
    """
    anchors: dict[int, Anchors] = {}
    for segment in sorted(segments, key=lambda s: s.index):
        here = per_step.segments == segment.index
        if not here.any():
            continue
        total = np.where(per_step.num_finite[here, 0] > 0, per_step.mean[here, 0], 0).astype(float)
        total = np.cumsum(total * per_step.num_finite[here, 0])
        ends = _ends(per_step, here, segment.start_step)
        begin = 0.0
        parent = anchors.get(-1 if segment.parent_segment is None else segment.parent_segment)
        if parent is not None and segment.parent_step is not None:
            begin = float(np.interp(segment.parent_step, *parent))
        anchors[segment.index] = ends, begin + np.append(0.0, total)
    return Clock(axis, anchors, _living(anchors, segments))


def _ends(per_step: Bands, here: NDArray[np.bool_], start_step: int) -> NDArray[np.float64]:
    """Returns where nothing of a segment's first bucket is had yet, and where all of each is.

    The bucket in which a branch leaves a segment comes in two parts, one after the other, that
    begin at the same step; how far the first and the newest go is told by their points.
    """
    starts = per_step.steps[here].astype(np.float64)
    number = per_step.num_points[here]
    again = np.flatnonzero(np.diff(starts) == 0) + 1
    starts[0] = min(max(starts[0], start_step), starts[0] + per_step.width - 1)
    starts[again] = starts[again - 1] + number[again - 1]
    return np.append(starts, starts[-1] + number[-1]) - 1


def telling_time(times: Series, segments: Sequence[Segment]) -> Clock:
    """Makes a clock of the moments at which a scalar was measured."""
    anchors = {}
    for index in np.unique(times.segments):
        here = times.segments == index
        # a clock that was set back must not turn the axis round
        moments = np.maximum.accumulate(times.times_s[here]) * 1000.0
        anchors[int(index)] = times.steps[here].astype(np.float64), moments
    return Clock("wall time", anchors, _living(anchors, segments))


def _living(anchors: Mapping[int, Anchors], segments: Sequence[Segment]) -> Anchors | None:
    """Joins the anchors from the newest segment back to its first ancestor."""
    by_index = {segment.index: segment for segment in segments}
    index = max(anchors, default=None)
    until, parts = np.inf, []
    while index is not None:
        if index in anchors:
            steps, measure = anchors[index]
            parts.append((steps[steps <= until], measure[steps <= until]))
        segment = by_index.get(index)
        if segment is None:
            break
        until = min(until, segment.start_step - 1)
        parent = segment.parent_segment
        index = parent if parent is not None and parent < index else None
    if not parts:
        return None
    steps = np.concatenate([part[0] for part in reversed(parts)])
    measure = np.concatenate([part[1] for part in reversed(parts)])
    return steps, np.maximum.accumulate(measure) if measure.size else measure
