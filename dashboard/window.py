"""What of a run a person looks at, and the points of a series that lie in it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..platform.records import Series

StepRange = tuple[int, int] | None
"""First and last step, both included; None is the whole run."""


@dataclass(frozen=True, slots=True)
class Window:
    step_range: StepRange = None
    is_log: bool = False
    is_zoomable: bool = False
    """Whether dragging zooms; while a chart lives, its next refresh would undo the zoom."""


def kept(series: Series, is_kept: NDArray[np.bool_]) -> Series:
    """Returns the points of a series where the mask is true. is_kept: (points,)."""
    return Series(
        series.signal,
        series.segments[is_kept],
        series.steps[is_kept],
        series.times_s[is_kept],
        series.values[is_kept],
    )


def with_values(series: Series, values: NDArray[np.float32]) -> Series:
    """Returns the same points with other values. values: (points, ...)."""
    return Series(series.signal, series.segments, series.steps, series.times_s, values)


def in_range(series: Series, step_range: StepRange) -> Series:
    """Returns the points whose step lies in the range."""
    if step_range is None:
        return series
    return kept(series, (series.steps >= step_range[0]) & (series.steps <= step_range[1]))


@dataclass(frozen=True, slots=True)
class Branches:
    """A signal's points: those that count, and those of branches that a rollback abandoned."""

    living: Series
    ghosts: Series

    @property
    def steps(self) -> NDArray[np.int64]:
        return np.concatenate([self.living.steps, self.ghosts.steps])


def branches(series: Series, is_living: NDArray[np.bool_]) -> Branches:
    """Parts a series by the mask that `platform.series.is_living` gives. is_living: (points,)."""
    return Branches(kept(series, is_living), kept(series, ~is_living))


def is_in(step: int, step_range: StepRange) -> bool:
    return step_range is None or step_range[0] <= step <= step_range[1]
