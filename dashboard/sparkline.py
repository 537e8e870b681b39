"""A run's loss as a line of a few pixels: its mean by buckets of steps, and how far it went.

Pure: buckets in, paths of SVG out, which hold digits and letters only. A step that stands out is in
the band however long the run is; the scale is logarithmic, or the first steps would flatten all
others.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..platform.records import Bands, Segment, Series
from ..platform.series import is_living

WIDTH, HEIGHT = 192, 48
"""Twice the pixels that it takes: whole numbers are short, and fine enough."""
MOST_BUCKETS = 40
_MARGIN = 3
"""As wide as the line, which would be cut off at the edges."""


@dataclass(frozen=True, slots=True)
class Sparkline:
    line: str
    """Path of the mean."""
    band: str
    """Path around lowest and highest; empty where they are the mean."""


def sparkline(bands: Bands, segments: Sequence[Segment] = ()) -> Sparkline | None:
    """Draws the branch that training is on; None where there is no finite value. Buckets without
    one part the line."""
    is_there = _is_living(bands, segments)
    steps, finite = bands.steps[is_there], bands.num_finite[is_there, 0] > 0
    low, mean, high = (a[is_there, 0].astype(float) for a in (bands.low, bands.mean, bands.high))
    if not finite.any():
        return None
    bottom, top = float(low[finite].min()), float(high[finite].max())
    if bottom > 0:
        low, mean, high = (np.log(np.where(finite, a, 1.0)) for a in (low, mean, high))
        bottom, top = float(np.log(bottom)), float(np.log(top))
    x = _placed(steps.astype(float), float(steps[0]), float(steps[-1]), WIDTH)
    y = [
        HEIGHT - _placed(np.where(finite, a, bottom), bottom, top, HEIGHT)
        for a in (low, mean, high)
    ]
    line, band = [], []
    for part in _stretches(finite):
        line.append(_path(x[part], y[1][part]))
        if np.any(y[0][part] - y[2][part] >= 2.0):
            back = part[::-1]
            band.append(_path(np.r_[x[part], x[back]], np.r_[y[2][part], y[0][back]]) + "Z")
    return Sparkline("".join(line), "".join(band))


def _is_living(bands: Bands, segments: Sequence[Segment]) -> NDArray[np.bool_]:
    if len(segments) < 2:
        return np.ones(len(bands.steps), bool)
    no_times = np.zeros(len(bands.steps))
    where = Series(bands.signal, bands.segments, bands.steps, no_times, bands.mean)
    return is_living(where, segments)


def _placed(
    values: NDArray[np.float64], first: float, last: float, size: int
) -> NDArray[np.float64]:
    """From 0 to the size, less the margin; a single value lies in the middle."""
    if last <= first:
        return np.full(len(values), size / 2)
    return _MARGIN + (values - first) / (last - first) * (size - 2 * _MARGIN)


def _stretches(is_there: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    """Indices of neighbours that are there."""
    at = np.flatnonzero(is_there)
    return np.split(at, np.flatnonzero(np.diff(at) > 1) + 1)


def _path(x: NDArray[np.float64], y: NDArray[np.float64]) -> str:
    """`M3 45l5-2 5-1`: where it begins, then how far from point to point."""
    points = np.rint(np.column_stack([x, y])).astype(int)
    # a line that leads nowhere is drawn as a dot, by its round ends
    ways = np.diff(points, axis=0) if len(points) > 1 else np.zeros((1, 2), int)
    said = " ".join(f"{a}{b}" if b < 0 else f"{a} {b}" for a, b in ways)
    return f"M{points[0, 0]} {points[0, 1]}l{said}"
