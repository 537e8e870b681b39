"""What the store tells of a trial's run: its first loss, and when its signals began to grow."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...platform.engines import UnknownRun
from ...platform.records import Segment, Series, Trial
from ...platform.series import read_series
from ...platform.store import Store
from .frontier import LOSS, WATCHED, onset_step

MOST_POINTS = 4000
"""Of a signal: a longer one is thinned, which keeps its extremes."""


class Story(NamedTuple):
    first_loss: float
    """Of the first step, with the weights that it began with; NaN where it is not there."""
    grew_at: dict[str, int]
    """{what: the step at which it began to grow}, of those that did."""


def story_of(store: Store, trial: Trial) -> Story:
    """Reads a trial's run up to its first rollback: what came after that had another cause."""
    nothing = Story(float("nan"), {})
    if not trial.run_id:
        return nothing
    try:
        segments = store.segments(trial.run_id)
        first_loss, grew_at = float("nan"), {}
        for watched in (LOSS, *WATCHED):
            series = read_series(store, trial.run_id, watched.signal, max_points=MOST_POINTS)
            steps, values = until_rollback(series, segments)
            if watched is LOSS and len(values) and not trial.branch_at:
                first_loss = float(values[0])
            step = onset_step(steps.tolist(), values, watched.floor)
            if step is not None:
                grew_at[watched.word] = step
    except UnknownRun:
        return nothing
    return Story(first_loss, grew_at)


def until_rollback(
    series: Series, segments: Sequence[Segment]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Returns steps and values before the first rollback; of a step that a resume repeated the
    newer value, of several layers the largest."""
    rollbacks = [segment.index for segment in segments if segment.reason == "rollback"]
    is_before = series.segments < min(rollbacks, default=1 << 30)
    steps, values = series.steps[is_before], series.values[is_before].astype(float)
    if not len(values):
        return steps, np.empty(0)
    if values.ndim > 1:
        flat = values.reshape(len(values), -1)
        # a layer that was not measured is NaN, which is no growth
        values = np.where(np.isnan(flat), -np.inf, flat).max(axis=1, initial=-np.inf)
        is_measured = values > -np.inf
        steps, values = steps[is_measured], values[is_measured]
    # the last of each step: np.unique keeps the first, so it looks from behind
    kept, at = np.unique(steps[::-1], return_index=True)
    return kept, values[::-1][at]
