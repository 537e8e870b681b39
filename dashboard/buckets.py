"""Thinning that a one-step spike survives and that stands still while a run grows.

Buckets lie at absolute multiples of a power of two steps.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Buckets:
    """A line and its band; the arrays have one element per bucket that holds a finite value."""

    steps: NDArray[np.float64]
    """The middle of each bucket."""
    low: NDArray[np.float32]
    middle: NDArray[np.float32]
    """Lower median of the bucket's finite values."""
    high: NDArray[np.float32]
    width: int
    """Steps per bucket; 1 where nothing was thinned."""
    non_finite_steps: NDArray[np.int64]


def bucket_width(first_step: int, last_step: int, most: int) -> int:
    """Returns the smallest power of two of which `most` cover the steps, partial ends aside."""
    width = 1
    while (last_step - first_step + 1) > width * most:
        width *= 2
    return width


def bucketed(steps: NDArray[np.int64], values: NDArray[np.float32], most: int = 400) -> Buckets:
    """Gathers a series into buckets [k*width, (k+1)*width) with their minimum, median, maximum.

    steps: (points,), increasing. values: (points,). A closed bucket never changes while the run
    grows, unless the width doubles; so a picture does not jump at every refresh.
    """
    is_finite = np.isfinite(values)
    non_finite = steps[~is_finite]
    steps, values = steps[is_finite], values[is_finite]
    if not steps.size:
        empty = np.empty(0, np.float32)
        return Buckets(np.empty(0), empty, empty, empty, 1, non_finite)
    # a sparse series needs no thinning, however far it reaches
    width = 1 if steps.size <= most else bucket_width(int(steps[0]), int(steps[-1]), most)
    if width == 1:
        return Buckets(steps.astype(np.float64), values, values, values, 1, non_finite)
    key = steps // width
    order = np.lexsort((values, key))
    key, sorted_values = key[order], values[order]
    first = np.flatnonzero(np.r_[True, key[1:] != key[:-1]])
    last = np.r_[first[1:], key.size] - 1
    return Buckets(
        steps=(key[first] * width + (width - 1) / 2).astype(np.float64),
        low=sorted_values[first],
        middle=sorted_values[(first + last) // 2],
        high=sorted_values[last],
        width=width,
        non_finite_steps=non_finite,
    )


def column_means(
    steps: NDArray[np.int64], rows: NDArray[np.float32], most: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Averages a vector series over aligned buckets, for a heat map.

    rows: (points, n). Returns first steps (columns,) and means (columns, n). Non-finite
    values are left out; a bucket without a finite one is NaN.
    """
    if not steps.size:
        return steps, rows
    width = bucket_width(int(steps[0]), int(steps[-1]), most)
    key = steps // width
    first = np.flatnonzero(np.r_[True, key[1:] != key[:-1]])
    is_finite = np.isfinite(rows)
    total = np.add.reduceat(np.where(is_finite, rows, 0).astype(np.float64), first, axis=0)
    count = np.add.reduceat(is_finite, first, axis=0, dtype=np.int64)
    means = np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)
    return (steps[first] if width == 1 else key[first] * width), means
