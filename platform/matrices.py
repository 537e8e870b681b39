"""Reads a signal by buckets of steps: of each number its lowest, highest and mean.

This is how a heat map over a long run is drawn, and a band around a line: a spike of one step in
one expert is there at every zoom. Buckets are aligned to their width, a power of two, so that a
closed one stays what it is while the run grows.
"""

# B buckets  N points  K numbers of each
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .compacted.buckets import FIRST, HIGH, LEVELS, LOW, read_scalar_buckets, read_vector_buckets
from .compacted.codec import WINDOW
from .compacted.reading import Source
from .compacted.rollup_reading import RolledUp, Steps, walk
from .engines import Database
from .errors import MoescopeError
from .packing import WHOLE
from .records import Bands, Series
from .series import sources, stretches_of
from .store import Store
from .stretches import rows_to_read, stretch

_STEPS_ONE_BY_ONE = 16 * WINDOW
"""Steps that are read for buckets which no roll-up has."""
_FEW = 4
"""The coarsest roll-ups do where they give a quarter of the buckets that were asked for."""


def read_matrix(
    store: Store,
    run_id: str,
    signal: str,
    *,
    max_buckets: int,
    row: int | None = None,
    from_step: int | None = None,
    to_step: int | None = None,
    segments: Sequence[int] | None = None,
) -> Bands:
    """Reads a signal from `from_step` to `to_step` (both included) of all or some segments, in at
    most `max_buckets` buckets (one per segment at the least) of as few steps as that allows; of a
    stretch of more than 16,384 steps at least 64 each, and 1,024 where that gives a quarter of the
    buckets, since roll-ups are quick to read.

    row: one index of a 2-D signal's first dimension, which such a signal needs. Raises
    MoescopeError as `read_series` does.
    """
    source = sources(store.database, run_id, [signal]).get(signal)
    stretches = stretches_of(source, from_step, to_step, segments)
    if source is None or not stretches:
        return _empty(signal)
    return bands_of(store, source, stretches, bucket_width(stretches, max_buckets), row)


def bucket_width(stretches: Sequence[tuple[int, int, int]], max_buckets: int) -> int:
    """The steps of a bucket, a power of two, with which `read_matrix` reads these (segment, first
    step, last step)."""
    width = 1
    while sum(last // width - first // width + 1 for _, first, last in stretches) > max(
        max_buckets, len(stretches)
    ):
        width *= 2
    num_steps = sum(last - first + 1 for _, first, last in stretches)
    if num_steps > _STEPS_ONE_BY_ONE:
        width = max(width, LEVELS[0])
    if num_steps // LEVELS[-1] >= max_buckets // _FEW:
        width = max(width, LEVELS[-1])
    return width


def bands_of(
    store: Store,
    source: Source,
    stretches: Sequence[tuple[int, int, int]],
    width: int,
    row: int | None = None,
) -> Bands:
    """Reads stretches, (segment, first step, last step) each, by buckets of `width` steps; of
    forgotten vectors by buckets of 64 at the least, which their roll-ups have.

    source: of `series.sources`, so that many signals share its question. Steps that were not
    measured may be asked for. Raises MoescopeError where `row` is missing or too many.
    """
    measured = {segment: (first, last) for segment, first, last, _ in source.spans}
    inside = [
        (segment, max(first, measured[segment][0]), min(last, measured[segment][1]))
        for segment, first, last in stretches
        if segment in measured
    ]
    inside = [here for here in inside if here[1] <= here[2]]
    if not inside:
        return _empty(source.signal)
    if source.num_dimensions == 2 and row is None:
        raise MoescopeError(f"{source.signal} has a row per layer: read one with row=0")
    the_row = WHOLE
    if source.num_dimensions or row is not None:
        (the_row,) = rows_to_read(source, source.signal, source.num_dimensions, row)
    bands = _read(store.database, source, the_row, inside, width)
    if width < LEVELS[0] and _has_gaps(bands, inside):
        # what was forgotten by rule lives on in the roll-ups
        coarse = _read(store.database, source, the_row, inside, LEVELS[0])
        if coarse.num_points.sum() > bands.num_points.sum():
            return coarse
    return bands


def _read(
    database: Database,
    source: Source,
    row: int,
    stretches: Sequence[tuple[int, int, int]],
    width: int,
) -> Bands:
    parts = [
        narrowed(part, width)
        for here in stretches
        for part in _pieces(database, source, row, here, width)
    ]
    return narrowed(joined_bands(source.signal, parts), width)


def _has_gaps(bands: Bands, stretches: Sequence[tuple[int, int, int]]) -> bool:
    """Whether windows of steps have nothing in them, or much less than others."""
    windows = bands.steps // WINDOW
    is_new = (np.diff(windows) != 0) | (np.diff(bands.segments) != 0)
    num_there = 1 + int(is_new.sum()) if len(windows) else 0
    if num_there < sum(last // WINDOW - first // WINDOW + 1 for _, first, last in stretches):
        return True
    starts = np.append(0, np.flatnonzero(is_new) + 1)
    counts = np.add.reduceat(bands.num_points, starts)[1:-1]
    return len(counts) > 0 and bool(counts.min() < counts.max())


def _pieces(
    database: Database, source: Source, row: int, here: tuple[int, int, int], width: int
) -> list[Bands]:
    segment, first, last = here
    levels = [level for level in LEVELS if level <= width]
    if not levels:
        return _step_by_step(database, source, row, segment, Steps(first, last))
    parts: list[Bands] = []
    for piece in walk(database, source, row, here, levels[-1]):
        if isinstance(piece, Steps):
            parts += _step_by_step(database, source, row, segment, piece)
        else:
            parts.append(_of_rollups(source, segment, piece, levels[-1]))
    return parts


def _step_by_step(
    database: Database, source: Source, row: int, segment: int, steps: Steps
) -> list[Bands]:
    span = steps.first, steps.last
    return [_of_points(part) for part in stretch(database, source, segment, *span, [row], True)]


def _of_points(series: Series) -> Bands:
    values_NK = series.values.reshape(len(series.steps), -1)
    is_finite = np.isfinite(values_NK)
    return Bands(
        series.signal,
        1,
        series.segments,
        series.steps,
        np.ones(len(series.steps), np.int64),
        np.where(is_finite, values_NK, np.inf).astype(np.float32, copy=False),
        np.where(is_finite, values_NK, -np.inf).astype(np.float32, copy=False),
        np.where(is_finite, values_NK, np.nan).astype(np.float32, copy=False),
        is_finite.astype(np.int64),
    )


def _of_rollups(source: Source, segment: int, piece: RolledUp, level: int) -> Bands:
    if source.num_dimensions:
        starts_B, records = read_vector_buckets(piece.windows, piece.data)
        low, high, mean = (records[name] for name in ("low", "high", "mean"))
        finite = records["finite"].astype(np.int64)
    else:
        base_B, records = read_scalar_buckets(piece.windows, piece.data)
        starts_B = base_B + records["offset"][:, FIRST] // level * level
        has_any = records["finite"] > 0
        low = np.where(has_any, records["value"][:, LOW], np.inf)[:, None]
        high = np.where(has_any, records["value"][:, HIGH], -np.inf)[:, None]
        mean, finite = records["mean"][:, None], records["finite"].astype(np.int64)[:, None]
    return Bands(
        source.signal,
        level,
        np.full(len(starts_B), segment, np.int32),
        starts_B,
        records["points"].astype(np.int64),
        low.astype(np.float32, copy=False),
        high.astype(np.float32, copy=False),
        mean,
        finite,
    )


def joined_bands(signal: str, parts: Sequence[Bands]) -> Bands:
    """Puts stretches one after the other; all become as wide as the widest, in steps and in
    numbers."""
    parts = [part for part in parts if len(part.steps)]
    if not parts:
        return _empty(signal)
    width = max(part.width for part in parts)
    parts = [part if part.width == width else narrowed(part, width) for part in parts]
    widest = max(part.low.shape[1] for part in parts)

    def wide(arrays: Sequence[NDArray[Any]], fill: float) -> NDArray[Any]:
        padded = [
            np.pad(array, ((0, 0), (0, widest - array.shape[1])), constant_values=fill)
            for array in arrays
        ]
        return np.concatenate(padded)

    return Bands(
        signal,
        width,
        np.concatenate([part.segments for part in parts]),
        np.concatenate([part.steps for part in parts]),
        np.concatenate([part.num_points for part in parts]),
        wide([part.low for part in parts], np.inf),
        wide([part.high for part in parts], -np.inf),
        wide([part.mean for part in parts], np.nan),
        wide([part.num_finite for part in parts], 0),
    )


def narrowed(bands: Bands, width: int) -> Bands:
    """The same by buckets of `width` steps."""
    if len(bands.steps) == 0:
        return bands
    bucket = bands.steps // width
    is_new = (np.diff(bucket) != 0) | (np.diff(bands.segments) != 0)
    starts_B = np.append(0, np.flatnonzero(is_new) + 1)
    if len(starts_B) == len(bucket):
        return replace(bands, width=width, steps=bucket * width)
    finite = np.add.reduceat(bands.num_finite, starts_B)
    sums = np.where(bands.num_finite > 0, bands.mean, 0).astype(np.float64) * bands.num_finite
    with np.errstate(invalid="ignore"):
        mean = (np.add.reduceat(sums, starts_B) / finite).astype(np.float32)
    return Bands(
        bands.signal,
        width,
        bands.segments[starts_B],
        bucket[starts_B] * width,
        np.add.reduceat(bands.num_points, starts_B),
        np.minimum.reduceat(bands.low, starts_B),
        np.maximum.reduceat(bands.high, starts_B),
        mean,
        finite,
    )


def _empty(signal: str) -> Bands:
    nothing = np.empty((0, 0), np.float32)
    return Bands(
        signal,
        1,
        np.empty(0, np.int32),
        np.empty(0, np.int64),
        np.empty(0, np.int64),
        nothing,
        nothing,
        nothing,
        np.empty((0, 0), np.int64),
    )
