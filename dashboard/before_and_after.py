"""An incident in a small table: signals before the onset, at the worst, and after recovery."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..platform import catalogue
from ..platform.incident_story import BACK_STEPS, Recovery
from ..platform.records import Alert, Segment, Series
from ..platform.series import is_living

LOOKED_AT_STEPS = 100
"""Before the onset, and after the recovery."""
MOST_POINTS = 50
SHOWN = (
    (catalogue.LOSS_TOTAL, "loss"),
    (catalogue.GRAD_NORM, "gradient norm"),
    (catalogue.LOSS_SPIKE_SCORE, "spike score"),
    (catalogue.MAX_VIOLATION, "MaxVio, worst layer"),
    (catalogue.TOKENS_PER_S, "tokens per second"),
)
"""Signals of the table with their words; the alert's own joins them where it is a scalar."""
_LOW_IS_BAD = (catalogue.TOKENS_PER_S, catalogue.MODEL_TFLOP_PER_S)


@dataclass(frozen=True, slots=True)
class Row:
    """One signal; a mean is None where nothing was measured, NaN where a value was not finite."""

    signal: str
    words: str
    before: float | None
    worst: float | None
    worst_step: int | None
    after: float | None


def row_of(
    series: Series,
    words: str,
    alert: Alert,
    segments: Sequence[Segment],
    recovery: Recovery | None,
) -> Row:
    """Takes means of up to 50 points within 100 steps, and the extreme between onset and recovery.

    series: all points, abandoned ones too, from LOOKED_AT_STEPS before the onset on. A vector
    counts by its highest entry. Without a recovery, the last ten living points stand for after.
    """
    values = _worst_entries(series.values)
    onset, segment = alert.onset_step, alert.segment
    was_living = is_living(series, [s for s in segments if s.index <= segment])
    is_known = series.segments <= segment
    before = is_known & was_living & (series.steps < onset - 2)
    before &= series.steps >= onset - LOOKED_AT_STEPS
    is_in = (series.segments > segment) | ((series.segments == segment) & (series.steps >= onset))
    living = is_living(series, segments)
    if recovery is not None and recovery.step is not None and recovery.segment is not None:
        is_later = (series.segments > recovery.segment) | (
            (series.segments == recovery.segment) & (series.steps > recovery.step)
        )
        after = living & is_later & (series.steps <= recovery.step + LOOKED_AT_STEPS)
        after_values = values[after][:MOST_POINTS]
        is_in &= ~is_later
    else:
        after_values = values[living & is_in & (series.steps > alert.fired_step)][-BACK_STEPS:]
    worst = _worst(values[is_in], series.steps[is_in], is_low_bad=series.signal in _LOW_IS_BAD)
    return Row(
        series.signal, words, _mean(values[before][-MOST_POINTS:]), *worst, _mean(after_values)
    )


def _worst_entries(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """(points,): a vector's highest entry; NaN where one is not finite."""
    if values.ndim == 1:
        return values
    flat = values.reshape(len(values), -1)
    highest: NDArray[np.float32] = flat.max(axis=1, initial=-np.inf)
    return np.where(np.isfinite(flat).all(axis=1), highest, np.float32(np.nan))


def _mean(values: NDArray[np.float32]) -> float | None:
    return float(values.mean()) if len(values) else None


def _worst(
    values: NDArray[np.float32], steps: NDArray[np.int64], *, is_low_bad: bool
) -> tuple[float | None, int | None]:
    if not len(values):
        return None, None
    odd = np.flatnonzero(~np.isfinite(values))
    if odd.size:
        return float(values[odd[0]]), int(steps[odd[0]])
    at = int(values.argmin() if is_low_bad else values.argmax())
    return float(values[at]), int(steps[at])
