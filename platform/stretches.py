"""Stretches of one signal: the rows of one segment between two steps, as arrays."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import compress
from typing import Any

import numpy as np
from sqlalchemy import Connection, CursorResult, bindparam, select

from . import tables
from .engines import Database
from .errors import MoescopeError
from .packing import WHOLE_VECTOR, layout_names, unpack_equal
from .records import Series

_STEPS_AT_ONCE = 8192
_ROWS_AT_ONCE = 32768
"""Rows of one reading transaction: some 20 ms."""

_scalar = tables.scalar_rows.c
_vector = tables.vector_rows.c
_TIMES = (
    select(_scalar.step, _scalar.time_s)
    .where(
        _scalar.run_number == bindparam("run"),
        _scalar.group_id == bindparam("group"),
        _scalar.segment == bindparam("segment"),
        _scalar.step >= bindparam("first"),
        _scalar.step <= bindparam("last"),
    )
    .order_by(_scalar.step)
    .limit(bindparam("limit"))
)
_SCALARS = _TIMES.add_columns(_scalar.layout_id, _scalar.data)
_VECTORS = select(_vector.row, _vector.step, _vector.data).where(
    _vector.run_number == bindparam("run"),
    _vector.signal_id == bindparam("signal"),
    _vector.row.in_(bindparam("rows", expanding=True)),
    _vector.segment == bindparam("segment"),
    _vector.step >= bindparam("first"),
    _vector.step <= bindparam("last"),
)


@dataclass(frozen=True, slots=True)
class Source:
    """Where the samples of one signal of a run lie."""

    signal: str
    run_number: int
    signal_id: int
    group_id: int
    num_dimensions: int
    spans: tuple[tuple[int, int, int, int], ...]
    """(segment, first step, last step, rows of a matrix or 0), in the order of the segments."""


def rows_to_read(
    source: Source | None, signal: str, num_dimensions: int, row: int | None
) -> list[int]:
    num_rows = max((span[3] for span in source.spans), default=0) if source else 0
    if row is None:
        return [WHOLE_VECTOR] if num_dimensions == 1 else list(range(num_rows))
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
    num_steps = max(64, min(_STEPS_AT_ONCE, _ROWS_AT_ONCE // max(1, len(rows))))
    where = {"run": source.run_number, "segment": segment}
    while first <= last:
        span = {**where, "group": source.group_id, "first": first, "last": last, "limit": num_steps}
        steps, vectors = database.read(partial(_read_part, source=source, span=span, rows=rows))
        if not steps:
            return
        if source.num_dimensions == 0:
            layouts = _layouts(database, {layout_id for _, _, layout_id, _ in steps})
            yield _scalars(source.signal, segment, steps, layouts)
        elif vectors:
            yield _vectors(source.signal, segment, steps, vectors, rows, is_one)
        if len(steps) < num_steps:
            return
        first = steps[-1][0] + 1


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


def _read_part(
    connection: Connection, source: Source, span: dict[str, int], rows: Sequence[int]
) -> tuple[Sequence[Any], Sequence[Any]]:
    """The rows of the signal's group, which carry the times, and the vectors of the same steps."""
    if source.num_dimensions == 0:
        return _tuples(connection.execute(_SCALARS, span)), []
    steps = _tuples(connection.execute(_TIMES, span))
    if not steps:
        return [], []
    where = {
        "run": span["run"],
        "segment": span["segment"],
        "signal": source.signal_id,
        "rows": rows,
        "first": steps[0][0],
        "last": steps[-1][0],
    }
    return steps, _tuples(connection.execute(_VECTORS, where))


def _tuples(result: CursorResult[Any]) -> Sequence[Any]:
    """The rows as the driver gives them: integers, floats and bytes need no processing, which would
    take longer than reading them.
    """
    assert result.cursor is not None
    rows: Sequence[Any] = result.cursor.fetchall()
    result.close()
    return rows


def _layouts(database: Database, ids: set[int]) -> dict[int, list[str]]:
    new = ids - database.layouts.keys()
    if new:
        statement = select(tables.layouts.c.id, tables.layouts.c.name)
        statement = statement.where(tables.layouts.c.id.in_(sorted(new)))
        rows = database.read(lambda connection: connection.execute(statement).all())
        database.layouts.update({row.id: layout_names(row.name) for row in rows})
    return {layout_id: database.layouts[layout_id] for layout_id in ids}


def _scalars(
    signal: str, segment: int, rows: Sequence[Any], layouts: dict[int, list[str]]
) -> Series:
    step, time_s, layout, data = zip(*rows, strict=True)
    layout_id = np.array(layout)
    values = np.empty(len(rows), np.float32)
    is_there = np.zeros(len(rows), bool)
    for one, names in layouts.items():
        if signal in names:
            at = layout_id == one
            values[at] = unpack_equal(list(compress(data, at)))[:, names.index(signal)]
            is_there |= at
    return Series(
        signal,
        np.full(int(is_there.sum()), segment, np.int32),
        np.array(step, np.int64)[is_there],
        np.array(time_s, np.float64)[is_there],
        values[is_there],
    )


def _vectors(
    signal: str,
    segment: int,
    steps: Sequence[Any],
    vectors: Sequence[Any],
    rows: Sequence[int],
    is_one: bool,
) -> Series:
    row, step, data = zip(*vectors, strict=True)
    found, point = np.unique(np.array(step, np.int64), return_inverse=True)
    numbers = unpack_equal(data)
    values = np.full((len(found), len(rows), numbers.shape[1]), np.nan, np.float32)
    values[point, np.array(row) - rows[0]] = numbers
    group_step, time_s = zip(*steps, strict=True)
    return Series(
        signal,
        np.full(len(found), segment, np.int32),
        found,
        np.array(time_s, np.float64)[np.searchsorted(np.array(group_step, np.int64), found)],
        values[:, 0] if is_one else values,
    )
