"""Pure: the mean of a group of runs at each place of the axis, and how far they lie apart."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
MOST_POINTS = 400


@dataclass(frozen=True, slots=True)
class Spread:
    """Of `num` runs at P places of the axis, all of them measured there."""

    num: int
    x: Floats
    mean: Floats
    low: Floats
    """The lowest of the runs' lines; with `high`, between which all of them lie."""
    high: Floats
    error: Floats
    """Standard error of the mean: the standard deviation over the root of `num`; 0 of one run."""


def spread_of(lines: Sequence[tuple[Floats, Floats]], is_log_x: bool = False) -> Spread | None:
    """Returns the spread of lines, (x, y) each, between the last of their beginnings and the first
    of their ends: so it is of all of them everywhere. None where they share no place.

    Between its points a line goes straight; points that are not finite are passed over. is_log_x:
    the places lie evenly in the logarithm.
    """
    kept = [(x[ok], y[ok]) for x, y in lines for ok in [np.isfinite(x) & np.isfinite(y)]]
    if not kept or not all(len(x) for x, _ in kept):
        return None
    first = max(float(x[0]) for x, _ in kept)
    last = min(float(x[-1]) for x, _ in kept)
    if first > last:
        return None
    number = min(MOST_POINTS, max(len(x) for x, _ in kept)) if last > first else 1
    if is_log_x and first <= 0:
        first = min(last, max(1.0, first))
    places = np.geomspace(first, last, number) if is_log_x else np.linspace(first, last, number)
    # a root of a power is not quite the number that it came from
    places = np.clip(places, first, last)
    values_RP = np.stack([np.interp(places, x, y) for x, y in kept])
    num = len(kept)
    error = values_RP.std(0, ddof=1) / math.sqrt(num) if num > 1 else np.zeros(number)
    return Spread(num, places, values_RP.mean(0), values_RP.min(0), values_RP.max(0), error)
