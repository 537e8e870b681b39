"""Thins a long series for drawing without losing what matters in it.

Steps fall into buckets of a power of two, aligned to its multiples, so that a closed bucket never
changes and a picture stays still while a run grows. Of each bucket the lowest and the highest
finite value are kept, and the first and the last non-finite one; of each segment the first and the
last point.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .records import Series

Indices = NDArray[np.intp]


def thinned(series: Series, max_points: int, always: Sequence[int] = ()) -> Series:
    """Returns at most `max_points` points of the series (two per segment and those at the steps in
    `always` at the least); all where it is short enough.

    Of vectors, the lowest is the one with the lowest finite element, the highest that with the
    highest; non-finite is one with any such element.
    """
    return thinned_from(series, max_points, 1, always)[0]


def thinned_from(
    series: Series, max_points: int, width: int, always: Sequence[int] = ()
) -> tuple[Series, int]:
    """Thins with buckets of `width` steps or wider; returns the series and the width that it took.

    A series may be thinned while it is read: what comes of the parts is what would have come of the
    whole, if each time the width of the time before is given and the early times allow more points.
    """
    num_points, max_points = len(series.steps), max(max_points, 1)
    if num_points == 0 or (num_points <= max_points and width == 1):
        return series, width
    flat = series.values.reshape(num_points, -1)
    is_finite = np.isfinite(flat)
    low = np.where(is_finite, flat, np.inf).min(axis=1, initial=np.inf)
    high = np.where(is_finite, flat, -np.inf).max(axis=1, initial=-np.inf)
    odd = np.flatnonzero(~is_finite.all(axis=1))
    edges = np.flatnonzero(np.diff(series.segments) != 0)
    starts, ends = np.append(0, edges + 1), np.append(edges, num_points - 1)
    named = np.flatnonzero(np.isin(series.steps, always)) if len(always) else starts[:0]
    stay = np.concatenate([starts, ends, named])
    longest = int((series.steps[ends] - series.steps[starts]).max()) + 1
    # a bucket holds at most `width` points and keeps at least one, so no smaller width can do
    width = max(width, 1 << (-(-num_points // max_points) - 1).bit_length())
    while True:
        kept = _kept(series, low, high, odd, width, stay)
        if len(kept) <= max_points or width >= 2 * longest:
            return taken(series, kept), width
        width *= 2


def taken(series: Series, indices: Indices) -> Series:
    """The points of a series at these indices."""
    return Series(
        series.signal,
        series.segments[indices],
        series.steps[indices],
        series.times_s[indices],
        series.values[indices],
    )


def _kept(
    series: Series,
    low: NDArray[np.float32],
    high: NDArray[np.float32],
    odd: Indices,
    width: int,
    stay: Indices,
) -> Indices:
    bucket = series.steps // width
    is_new = (np.diff(bucket) != 0) | (np.diff(series.segments) != 0)
    starts = np.append(0, np.flatnonzero(is_new) + 1)
    number = np.append(0, np.cumsum(is_new))  # of the bucket that each point is in
    lowest = np.minimum.reduceat(low, starts)[number]
    highest = np.maximum.reduceat(high, starts)[number]
    return np.unique(
        np.concatenate(
            [
                stay,
                _first(np.flatnonzero((low == lowest) & (low < np.inf)), number),
                _first(np.flatnonzero((high == highest) & (high > -np.inf)), number),
                _first(odd, number),
                _first(odd[::-1], number),
            ]
        )
    )


def _first(points: Indices, number: NDArray[np.int64]) -> Indices:
    """Of the points (in this order) the first of each bucket."""
    _, first = np.unique(number[points], return_index=True)
    return points[first]
