"""Stretches of one signal: what was measured in one segment between two steps, as arrays."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from .compacted.codec import merged
from .compacted.reading import (
    Found,
    Source,
    joined_points,
    layouts_of,
    read_stretch,
    scalars_of_rows,
)
from .engines import Database
from .errors import MoescopeError
from .packing import WHOLE, unpack_equal
from .records import Series


def rows_to_read(
    source: Source | None, signal: str, num_dimensions: int, row: int | None
) -> list[int]:
    num_rows = max((span[3] for span in source.spans), default=0) if source else 0
    if row is None:
        return [WHOLE] if num_dimensions == 1 else list(range(num_rows))
    if num_dimensions != 2:
        raise MoescopeError(f"row {row} of {signal}: only a signal of two dimensions has rows")
    if source and not 0 <= row < num_rows:
        raise MoescopeError(f"row {row} of {signal}: expected 0 to {num_rows - 1}")
    return [row]


def stretch(
    database: Database,
    source: Source,
    segment: int,
    first: int,
    last: int,
    rows: Sequence[int],
    is_one: bool,
) -> Iterator[Series]:
    """Yields the points of a segment from step `first` to `last`, in parts that are read in a
    transaction each.

    rows: which rows of a vector or matrix; `is_one` drops their dimension, so that the values are
    (points, numbers).
    """
    while first <= last:
        found = database.read(
            partial(read_stretch, source=source, segment=segment, span=(first, last), rows=rows)
        )
        part = _scalars if source.num_dimensions == 0 else _vectors
        series = part(database, source, segment, found, rows)
        if len(series.steps):
            is_vector = source.num_dimensions > 0
            yield replace(series, values=series.values[:, 0]) if is_vector and is_one else series
        first = found.last + 1


def joined(signal: str, parts: Sequence[Series], num_dimensions: int) -> Series:
    """One series out of parts in their order; where their shapes differ, missing elements are
    NaN.
    """
    shapes = [part.values.shape[1:] for part in parts] or [(0,) * num_dimensions]
    shape = tuple(map(max, *shapes)) if len(shapes) > 1 else shapes[0]
    values = np.full((sum(len(part.steps) for part in parts), *shape), np.nan, np.float32)
    start = 0
    for part in parts:
        end = start + len(part.steps)
        values[(slice(start, end), *map(slice, part.values.shape[1:]))] = part.values
        start = end
    return Series(
        signal,
        np.concatenate([np.empty(0, np.int32), *(part.segments for part in parts)]),
        np.concatenate([np.empty(0, np.int64), *(part.steps for part in parts)]),
        np.concatenate([np.empty(0, np.float64), *(part.times_s for part in parts)]),
        values,
    )


def _scalars(
    database: Database, source: Source, segment: int, found: Found, rows: Sequence[int]
) -> Series:
    layouts = layouts_of(database, {row[2] for row in found.of_group})
    points = merged(
        joined_points(chunk for _, chunk in found.chunks()),
        scalars_of_rows(found.of_group, layouts, [source.signal])[source.signal],
    )
    return Series(
        source.signal,
        np.full(len(points.steps_N), segment, np.int32),
        points.steps_N,
        found.times_at(points.steps_N),
        points.values_NK.reshape(len(points.steps_N)),
    )


def _vectors(
    database: Database, source: Source, segment: int, found: Found, rows: Sequence[int]
) -> Series:
    parts = list(found.chunks())
    if found.of_signal:
        row, step, data = zip(*found.of_signal, strict=True)
        numbers = unpack_equal(data)
        newer = np.array(row), np.array(step, np.int64), numbers
    else:
        newer = np.empty(0, np.int64), np.empty(0, np.int64), np.empty((0, 0), np.float32)
    steps = np.unique(np.concatenate([newer[1], *(part.steps_N for _, part in parts)]))
    widest = max([newer[2].shape[1], *(part.values_NK.shape[1] for _, part in parts)])
    values = np.full((len(steps), len(rows), widest), np.nan, np.float32)
    for row_of, part in parts:
        at = np.searchsorted(steps, part.steps_N)
        values[at, row_of - rows[0], : part.values_NK.shape[1]] = part.values_NK
    at = np.searchsorted(steps, newer[1])
    if parts:  # a row beside a chunk is newer, and may be shorter
        values[at, newer[0] - rows[0]] = np.nan
    values[at, newer[0] - rows[0], : newer[2].shape[1]] = newer[2]
    return Series(
        source.signal, np.full(len(steps), segment, np.int32), steps, found.times_at(steps), values
    )
