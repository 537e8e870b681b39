"""Roll-ups: what a bucket of steps comes to, a record of fixed size each, so that many are read as
one array.

Buckets are 64 or 1,024 steps, aligned to their multiples. Of a scalar's bucket the record keeps
real points: the first, the last, the first lowest and the first highest finite one, the first and
the last that is not finite; and the mean. They are what `platform/thinning.py` would keep, so a
long series that is thinned out of roll-ups is the one that is thinned out of all its points. Of a
vector's bucket each element has its lowest, highest and mean (facts: tracking.md 5.6).
"""

# B buckets  N points  K numbers of each
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..packing import FLOAT
from .codec import WINDOW, Points

LEVELS = (64, WINDOW)
"""Steps of a bucket, finest first."""
FIRST, LAST, LOW, HIGH, FIRST_ODD, LAST_ODD = range(6)
"""Columns of a scalar bucket's points."""
NOWHERE = 0xFFFF
"""The offset of a point that a bucket does not have."""
SCALAR = np.dtype(
    [
        ("points", "<u2"),
        ("finite", "<u2"),
        ("mean", "<f4"),
        ("offset", "<u2", 6),  # within the window
        ("time_s", "<f8", 6),
        ("value", "<f4", 6),
    ]
)


def vector_record(num_numbers: int) -> np.dtype[np.void]:
    """The record of a vector's bucket; `offset` is where the bucket starts in its window."""
    each = (num_numbers,)
    return np.dtype(
        [
            ("offset", "<u2"),
            ("points", "<u2"),
            ("low", "<f4", each),
            ("high", "<f4", each),
            ("mean", "<f4", each),
            ("finite", "<u2", each),
        ]
    )


def scalar_buckets(
    steps_N: NDArray[np.int64],
    times_N: NDArray[np.float64],
    values_N: NDArray[np.float32],
    level: int,
) -> bytes:
    """The records of a window's buckets that have points."""
    starts_B, number_N = _parts(steps_N, level)
    out = np.zeros(len(starts_B), SCALAR)
    if len(starts_B) == 0:
        return b""
    is_finite = np.isfinite(values_N)
    low = np.minimum.reduceat(np.where(is_finite, values_N, np.inf), starts_B)
    high = np.maximum.reduceat(np.where(is_finite, values_N, -np.inf), starts_B)
    odd = np.flatnonzero(~is_finite)
    at = np.full((len(starts_B), 6), -1)
    at[:, FIRST] = starts_B
    at[:, LAST] = np.append(starts_B[1:], len(steps_N)) - 1
    for column, points in (
        (LOW, np.flatnonzero(is_finite & (values_N == low[number_N]))),
        (HIGH, np.flatnonzero(is_finite & (values_N == high[number_N]))),
        (FIRST_ODD, odd),
    ):
        at[number_N[points[::-1]], column] = points[::-1]  # the first is written last
    at[number_N[odd], LAST_ODD] = odd
    finite = np.add.reduceat(is_finite.astype(np.int64), starts_B)
    sums = np.add.reduceat(np.where(is_finite, values_N, 0).astype(np.float64), starts_B)
    out["points"] = np.diff(np.append(starts_B, len(steps_N)))
    out["finite"] = finite
    with np.errstate(invalid="ignore"):
        out["mean"] = sums / finite
    out["offset"] = np.where(at < 0, NOWHERE, steps_N[at] % WINDOW)
    out["time_s"] = np.where(at < 0, 0, times_N[at])
    out["value"] = np.where(at < 0, 0, values_N[at])
    return bytes(out.tobytes())


def vector_buckets(steps_N: NDArray[np.int64], values_NK: NDArray[np.float32], level: int) -> bytes:
    """The records of a window's buckets that have points, behind how many numbers each has (u4)."""
    num_numbers = int(values_NK.shape[1])
    head = num_numbers.to_bytes(4, "little")
    starts_B, _ = _parts(steps_N, level)
    if len(starts_B) == 0:
        return head
    out = np.zeros(len(starts_B), vector_record(num_numbers))
    is_finite = np.isfinite(values_NK)
    out["offset"] = steps_N[starts_B] % WINDOW // level * level
    out["points"] = np.diff(np.append(starts_B, len(steps_N)))
    out["low"] = np.minimum.reduceat(np.where(is_finite, values_NK, np.inf), starts_B)
    out["high"] = np.maximum.reduceat(np.where(is_finite, values_NK, -np.inf), starts_B)
    finite = np.add.reduceat(is_finite.astype(np.int64), starts_B)
    sums = np.add.reduceat(np.where(is_finite, values_NK, 0).astype(np.float64), starts_B)
    with np.errstate(invalid="ignore"):
        out["mean"] = sums / finite
    out["finite"] = finite
    return bytes(head + out.tobytes())


def vector_buckets_beyond(
    known: bytes, old: Points, new: Points, both: Points, level: int
) -> bytes:
    """The records of a window whose old steps were forgotten in part, after new points came in.

    known: its records before. old: what was left of its points. both: those and the new ones. A
    bucket that lost steps keeps its extremes and takes the new points in; one of them that was
    there before counts twice in the mean. The other buckets are made anew.
    """
    parts = [known, *(vector_buckets(p.steps_N, p.values_NK, level) for p in (both, new))]
    before, anew, added = (read_vector_buckets([0], [part]) for part in parts)
    num_numbers = max(records["low"].shape[1] for _, records in (before, anew, added))
    by_offset = {}
    for name, (_, records) in zip(("before", "anew", "added"), (before, anew, added), strict=True):
        wide = _widened(records, records["low"].shape[1], num_numbers)
        by_offset[name] = {int(record["offset"]): record for record in wide}
    held = np.bincount(old.steps_N % WINDOW // level, minlength=WINDOW // level)
    out = dict(by_offset["anew"])
    for offset, record in by_offset["before"].items():
        if held[offset // level] < record["points"]:
            more = by_offset["added"].get(offset)
            out[offset] = record if more is None else _both(record, more, level)
    found = np.array([out[offset] for offset in sorted(out)], vector_record(num_numbers))
    return bytes(num_numbers.to_bytes(4, "little") + found.tobytes())


def _both(one: np.void, other: np.void, level: int) -> np.void:
    out = one.copy()
    out["low"] = np.minimum(one["low"], other["low"])
    out["high"] = np.maximum(one["high"], other["high"])
    counts = [record["finite"].astype(np.int64) for record in (one, other)]
    sums = [
        np.where(count > 0, record["mean"], 0).astype(np.float64) * count
        for count, record in zip(counts, (one, other), strict=True)
    ]
    with np.errstate(invalid="ignore"):
        out["mean"] = (sums[0] + sums[1]) / (counts[0] + counts[1])
    out["finite"] = np.minimum(counts[0] + counts[1], level)
    out["points"] = min(int(one["points"]) + int(other["points"]), level)
    return out


def read_scalar_buckets(
    windows: Sequence[int], data: Sequence[bytes]
) -> tuple[NDArray[np.int64], NDArray[np.void]]:
    """(where each bucket's window starts, records) of many windows at once."""
    counts = [len(blob) // SCALAR.itemsize for blob in data]
    base_B = np.repeat(np.array(windows, np.int64) * WINDOW, counts)
    return base_B, np.frombuffer(b"".join(data), SCALAR)


def read_vector_buckets(
    windows: Sequence[int], data: Sequence[bytes]
) -> tuple[NDArray[np.int64], NDArray[np.void]]:
    """(where each bucket starts, records) of many windows; narrower ones are filled up with
    elements that have no finite value."""
    widths = [int.from_bytes(blob[:4], "little") for blob in data]
    widest = max(widths, default=0)
    starts, parts = [np.empty(0, np.int64)], [np.empty(0, vector_record(widest))]
    at = 0
    while at < len(data):
        end = at
        while end < len(data) and widths[end] == widths[at]:
            end += 1
        record = vector_record(widths[at])
        part = np.frombuffer(b"".join(blob[4:] for blob in data[at:end]), record)
        counts = [(len(blob) - 4) // record.itemsize for blob in data[at:end]]
        base_B = np.repeat(np.array(windows[at:end], np.int64) * WINDOW, counts)
        starts.append(base_B + part["offset"])
        parts.append(_widened(part, widths[at], widest))
        at = end
    return np.concatenate(starts), np.concatenate(parts)


def is_rollup(data: bytes) -> bool:
    """Whether these bytes are records of a scalar, or of a vector."""
    width = int.from_bytes(data[:4], "little")
    is_vector = (len(data) - 4) % vector_record(width % 2**20).itemsize == 0
    return len(data) % SCALAR.itemsize == 0 or is_vector


def kept_points(
    base_B: NDArray[np.int64], records_B: NDArray[np.void]
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float32]]:
    """(steps, times, values) of the points that the records keep, in their order and each once."""
    order = np.argsort(records_B["offset"], axis=1, kind="stable")
    offset = np.take_along_axis(records_B["offset"], order, 1)
    is_there = offset != NOWHERE
    is_there[:, 1:] &= offset[:, 1:] != offset[:, :-1]
    steps = base_B[:, None] + offset
    times_s = np.take_along_axis(records_B["time_s"], order, 1)
    values = np.take_along_axis(records_B["value"], order, 1)
    return steps[is_there], times_s[is_there], values[is_there].astype(FLOAT, copy=False)


def _parts(steps_N: NDArray[np.int64], level: int) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
    """(where each bucket's points begin, the bucket of each point)."""
    if len(steps_N) == 0:
        return np.empty(0, np.intp), np.empty(0, np.int64)
    is_new = np.diff(steps_N // level) != 0
    return np.append(0, np.flatnonzero(is_new) + 1), np.append(0, np.cumsum(is_new))


def _widened(part: NDArray[np.void], width: int, widest: int) -> NDArray[np.void]:
    if width == widest:
        return part
    out = np.zeros(len(part), vector_record(widest))
    out["low"], out["high"], out["mean"] = np.inf, -np.inf, np.nan
    for name in ("offset", "points"):
        out[name] = part[name]
    for name in ("low", "high", "mean", "finite"):
        out[name][:, :width] = part[name]
    return out
