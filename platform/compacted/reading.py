"""Reads a stretch of one signal as it lies in the store: rows, and the chunks of closed windows.

All of a part is read in one transaction and so from one state of the store, whatever a compaction
does meanwhile. Where both a chunk and a row know a step, the row counts.
"""

# N points  K numbers of each
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, CursorResult, bindparam, select

from .. import tables
from ..engines import Database
from ..errors import MoescopeError
from ..packing import WHOLE, layout_names, unpack_equal
from .codec import WINDOW, Points, decode, merged

STEPS_AT_ONCE = 8192
ROWS_AT_ONCE = 32768
"""Rows of one reading transaction: some 20 ms."""

_scalar = tables.scalar_rows.c
_vector = tables.vector_rows.c
_chunk = tables.chunks.c
_steps = tables.chunk_steps.c
_ROWS_OF_GROUP = (
    select(_scalar.step, _scalar.time_s, _scalar.layout_id, _scalar.data)
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
_ROWS_OF_SIGNAL = select(_vector.row, _vector.step, _vector.data).where(
    _vector.run_number == bindparam("run"),
    _vector.signal_id == bindparam("signal"),
    _vector.row.in_(bindparam("rows", expanding=True)),
    _vector.segment == bindparam("segment"),
    _vector.step >= bindparam("first"),
    _vector.step <= bindparam("last"),
)
_STEPS = (
    select(_steps.window, _steps.data)
    .where(
        _steps.run_number == bindparam("run"),
        _steps.group_id == bindparam("group"),
        _steps.segment == bindparam("segment"),
        _steps.window >= bindparam("first"),
        _steps.window <= bindparam("last"),
    )
    .order_by(_steps.window)
    .limit(bindparam("limit"))
)
_CHUNKS = (
    select(_chunk.row, _chunk.window, _chunk.data)
    .where(
        _chunk.run_number == bindparam("run"),
        _chunk.signal_id == bindparam("signal"),
        _chunk.row.in_(bindparam("rows", expanding=True)),
        _chunk.segment == bindparam("segment"),
        _chunk.window >= bindparam("first"),
        _chunk.window <= bindparam("last"),
    )
    .order_by(_chunk.row, _chunk.window)
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


@dataclass(frozen=True, slots=True)
class Found:
    """What the store has of one signal between two steps, as the driver gave it."""

    first: int
    last: int
    """Up to here everything was read."""
    of_group: Sequence[Any]
    """(step, time, layout id, data) rows of the signal's group."""
    of_signal: Sequence[Any]
    """(row, step, data) of a vector."""
    steps: Sequence[Any]
    """(window, data): the steps and times of the group in closed windows."""
    packed: Sequence[Any]
    """(row, window, data) of closed windows."""

    def chunks(self) -> Iterator[tuple[int, Points]]:
        """(row, points) of each chunk, cut to the steps that were asked for."""
        for row, window, data in self.packed:
            points = decoded(data, window).between(self.first, self.last)
            if len(points.steps_N):
                yield row, points

    def times_at(self, steps_N: NDArray[np.int64]) -> NDArray[np.float64]:
        """When the group was measured at these steps; NaN where nobody says."""
        known = merged(
            joined_points(decoded(data, window) for window, data in self.steps),
            times_of_rows(self.of_group),
        )
        if len(known.steps_N) == 0:
            return np.full(len(steps_N), np.nan)
        at = np.minimum(np.searchsorted(known.steps_N, steps_N), len(known.steps_N) - 1)
        times_N = known.values_NK[:, 0].astype(np.float64, copy=False)
        return np.where(known.steps_N[at] == steps_N, times_N[at], np.nan)


def read_stretch(
    connection: Connection,
    source: Source,
    segment: int,
    span: tuple[int, int],
    rows: Sequence[int],
) -> Found:
    """Reads on from a step, as far as one transaction should go."""
    first, last = span
    is_scalar = source.num_dimensions == 0
    num_steps = max(64, min(STEPS_AT_ONCE, ROWS_AT_ONCE // max(1, len(rows))))
    num_windows = max(1, num_steps // WINDOW)
    where = {"run": source.run_number, "segment": segment}
    windows = {
        **where, "group": source.group_id, "first": first // WINDOW, "last": last // WINDOW,
    }  # fmt: skip
    steps = tuples(connection.execute(_STEPS, {**windows, "limit": num_windows}))
    if len(steps) == num_windows:
        last = min(last, (steps[-1][0] + 1) * WINDOW - 1)
    group = {**where, "group": source.group_id, "first": first, "last": last, "limit": num_steps}
    of_group = tuples(connection.execute(_ROWS_OF_GROUP, group))
    if len(of_group) == num_steps:
        last = min(last, of_group[-1][0])
    signal = {**where, "signal": source.signal_id}
    of_signal: Sequence[Any] = ()
    if not is_scalar and of_group:
        there = {**signal, "rows": rows, "first": of_group[0][0], "last": of_group[-1][0]}
        of_signal = tuples(connection.execute(_ROWS_OF_SIGNAL, there))
    steps = [row for row in steps if row[0] <= last // WINDOW]
    packed: Sequence[Any] = ()
    if steps:
        there = {
            **signal,
            "rows": [WHOLE] if is_scalar else rows,
            "first": steps[0][0],
            "last": steps[-1][0],
        }
        packed = tuples(connection.execute(_CHUNKS, there))
    return Found(first, last, of_group, of_signal, steps, packed)


def layouts_of(database: Database, ids: set[int]) -> dict[int, list[str]]:
    """{layout id: names of its scalars}; each is asked for once."""
    new = ids - database.layouts.keys()
    if new:
        statement = select(tables.layouts.c.id, tables.layouts.c.name)
        statement = statement.where(tables.layouts.c.id.in_(sorted(new)))
        rows = database.read(lambda connection: connection.execute(statement).all())
        database.layouts.update({row.id: layout_names(row.name) for row in rows})
    return {layout_id: database.layouts[layout_id] for layout_id in ids}


def scalars_of_rows(
    of_group: Sequence[Any], layouts: dict[int, list[str]], signals: Iterable[str]
) -> dict[str, Points]:
    """{signal: its points} out of (step, time, layout id, data) rows."""
    step = np.array([row[0] for row in of_group], np.int64)
    layout_N = np.array([row[2] for row in of_group], np.int64)
    data = [row[3] for row in of_group]
    tables_of = {
        layout_id: (layout_N == layout_id, layouts[layout_id])
        for layout_id in set(layout_N.tolist())
    }
    numbers = {
        layout_id: unpack_equal(list(compress(data, at_N)))
        for layout_id, (at_N, _) in tables_of.items()
    }
    found = {}
    for signal in signals:
        values = np.empty(len(step), np.float32)
        is_there = np.zeros(len(step), bool)
        for layout_id, (at_N, names) in tables_of.items():
            if signal in names:
                values[at_N] = numbers[layout_id][:, names.index(signal)]
                is_there |= at_N
        found[signal] = Points(step[is_there], values[is_there, None])
    return found


def times_of_rows(of_group: Sequence[Any]) -> Points:
    """The steps and times of (step, time, ...) rows."""
    times_N = np.array([row[1] for row in of_group], np.float64)
    return Points(np.array([row[0] for row in of_group], np.int64), times_N[:, None])


def joined_points(parts: Iterable[Points]) -> Points:
    """Points of one number each that follow each other."""
    found = list(parts)
    if not found:
        return Points(np.empty(0, np.int64), np.empty((0, 1), np.float32))
    return Points(
        np.concatenate([part.steps_N for part in found]),
        np.concatenate([part.values_NK for part in found]),
    )


def tuples(result: CursorResult[Any]) -> Sequence[Any]:
    """The rows as the driver gives them: integers, floats and bytes need no processing, which would
    take longer than reading them.
    """
    assert result.cursor is not None
    rows: Sequence[Any] = result.cursor.fetchall()
    result.close()
    return rows


def decoded(data: bytes, window: int) -> Points:
    """The points of a chunk. Raises MoescopeError where the store is damaged."""
    try:
        return decode(data, window)
    except ValueError as error:
        raise MoescopeError(f"the store is damaged ({error}): restore a backup of it") from None
