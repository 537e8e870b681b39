"""Moves the rows of closed windows into chunks and roll-ups, while others go on reading and
writing.

A window is closed once its run, or its segment, has gone on for a while or has ended. Each step of
the work is one short transaction that leaves the store right:
1. the steps and times of the window get their chunk; its rows stay;
2. each vector, some rows of a matrix at a time, is moved: what was read must still be there
   unchanged when it is deleted, else a writer was here and the window waits for the next round;
3. the scalars are moved in the same way, and with them the rows that made the window due; not while
   a writer has brought vectors since.

Whatever dies in between is gone on with: a window is due as long as rows of scalars lie in it.
"""

# N points  K numbers of each
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from sqlalchemy import Connection, delete, select

from .. import tables
from ..engines import Database, UnknownRun
from ..packing import WHOLE
from ..records import Run
from ..row_writing import write_rows
from ..spans import Span, widen_spans
from ..store import Store
from .buckets import (
    LEVELS,
    read_vector_buckets,
    scalar_buckets,
    vector_buckets,
    vector_buckets_beyond,
)
from .codec import WINDOW, Points, encode, merged, of_rows
from .due import Window, closed_windows, groups_with_rows
from .reading import decoded, joined_points, layouts_of, scalars_of_rows, times_of_rows, tuples
from .turns import take_turn

_ROWS_AT_ONCE = 4096
"""Rows that one transaction moves: some 20 ms."""
_NUMBERS_AT_ONCE = 1 << 19

_scalar = tables.scalar_rows.c
_vector = tables.vector_rows.c
_chunk = tables.chunks.c
_rollup = tables.rollups.c
_steps = tables.chunk_steps.c
CHUNK_COLUMNS = ("run_number", "signal_id", "row", "segment", "window", "data")
_ROLLUP_COLUMNS = ("run_number", "signal_id", "row", "segment", "level", "window", "data")
_STEPS_COLUMNS = ("run_number", "group_id", "segment", "window", "data")
_NOTHING = Points(np.empty(0, np.int64), np.empty((0, 0), np.float32))


class _Changed(Exception):
    """A writer was faster; nothing was moved."""


def compact(
    store: Store,
    run: Run,
    *,
    may_go_on: Callable[[], bool] = lambda: True,
    rest: Callable[[float], None] = lambda worked_s: None,
) -> int:
    """Compacts all closed windows of a run; returns how many.

    may_go_on: asked between windows. rest: called after each with the seconds it took, so that a
    background can leave the machine to others.
    """
    database, count = store.database, 0
    number = database.read(
        lambda c: c.scalar(select(tables.runs.c.number).where(tables.runs.c.id == run.id))
    )
    if number is None:
        return 0
    newest = max((segment.index for segment in store.segments(run.id)), default=-1)
    for group_id, segment in groups_with_rows(database, number):
        is_open = run.status == "running" and segment >= newest
        for window in closed_windows(database, number, group_id, segment, is_open):
            if not may_go_on():
                return count
            start_s = time.monotonic()
            try:
                _compact_window(database, window)
            except _Changed:
                continue
            except UnknownRun:  # deleted meanwhile
                return count
            count += 1
            rest(time.monotonic() - start_s)
    return count


def _compact_window(database: Database, window: Window) -> None:
    signals = database.read(partial(_signals, window=window))
    of_group = database.read(partial(_scalars_there, window=window))
    database.write(partial(_announce_steps, window=window, times=times_of_rows(of_group)))
    for signal in signals:
        rows = signal.rows
        while rows:
            rows = rows[_move_vectors(database, window, signal.id, rows) :]
    names = {signal.id: signal.name for signal in signals if signal.is_scalar}
    _move_scalars(database, window, names, of_group)


class _Signal(NamedTuple):
    id: int
    name: str
    is_scalar: bool
    rows: list[int]
    """Of a vector or a matrix; a scalar has none, and a matrix without a layer neither."""


def _signals(connection: Connection, window: Window) -> list[_Signal]:
    """The group's signals that reach into the window."""
    span, signal = tables.spans.c, tables.signals.c
    statement = (
        select(signal.id, signal.name, signal.num_dimensions, span.num_rows)
        .join(tables.spans, span.signal_id == signal.id)
        .join(tables.groups, tables.groups.c.name == signal.group_name)
        .where(
            span.run_number == window.run_number,
            span.segment == window.segment,
            span.first_step <= window.last,
            span.last_step >= window.first,
            tables.groups.c.id == window.group_id,
        )
    )
    found = []
    for signal_id, name, num_dimensions, num_rows in connection.execute(statement):
        rows = [[], [WHOLE], list(range(num_rows))][min(num_dimensions, 2)]
        found.append(_Signal(signal_id, name, num_dimensions == 0, rows))
    return found


def _scalars_there(connection: Connection, window: Window) -> Sequence[Any]:
    statement = (
        select(_scalar.step, _scalar.time_s, _scalar.layout_id, _scalar.data)
        .where(*_in_window(_scalar, window), _scalar.group_id == window.group_id)
        .order_by(_scalar.step)
    )
    return tuples(connection.execute(statement))


def _in_window(columns: Any, window: Window) -> tuple[Any, ...]:
    return (
        columns.run_number == window.run_number,
        columns.segment == window.segment,
        columns.step >= window.first,
        columns.step <= window.last,
    )


def _announce_steps(connection: Connection, window: Window, times: Points) -> None:
    """Takes steps into the window's chunk of them whose rows stay; what it knows already counts,
    since it may be newer than what was read.
    """
    take_turn(connection, window.run_number)
    _put_steps(connection, window, merged(times, _steps_there(connection, window)))


def _take_in_steps(connection: Connection, window: Window, times: Points) -> Points:
    """Takes the steps and times of rows that are moved into the window's chunk of them; returns
    all that it then has.
    """
    both = merged(_steps_there(connection, window), times)
    _put_steps(connection, window, both)
    return both


def _steps_there(connection: Connection, window: Window) -> Points:
    statement = select(_steps.data).where(
        _steps.run_number == window.run_number,
        _steps.group_id == window.group_id,
        _steps.segment == window.segment,
        _steps.window == window.number,
    )
    there = connection.scalar(statement)
    return joined_points([] if there is None else [decoded(there, window.number)])


def _put_steps(connection: Connection, window: Window, times: Points) -> None:
    key = window.run_number, window.group_id, window.segment, window.number
    write_rows(connection, tables.chunk_steps, _STEPS_COLUMNS, [(*key, encode(times))])


def _move_vectors(database: Database, window: Window, signal_id: int, rows: Sequence[int]) -> int:
    """Moves the first rows of these, as many as one transaction should; returns how many."""
    widest = database.read(partial(_width, window=window, signal_id=signal_id, row=rows[0]))
    per_row = max(1, min(_ROWS_AT_ONCE // WINDOW, _NUMBERS_AT_ONCE // (WINDOW * max(1, widest))))
    rows = rows[:per_row]
    there = database.read(partial(_vectors_there, window=window, signal_id=signal_id, rows=rows))
    packed, rollups = [], []
    for row, points in _by_row(there.rows, window):
        old = there.chunks.get(row)
        key = window.run_number, signal_id, row, window.segment
        left = None if old is None else decoded(old, window.number)
        both = points if left is None else merged(left, points)
        packed.append((*key, window.number, encode(both)))
        for level in LEVELS:
            known = there.rollups.get((row, level))
            if known is not None and _num_points(known) > (
                0 if left is None else len(left.steps_N)
            ):
                # steps were forgotten by rule: the roll-ups know more than what is left
                data = vector_buckets_beyond(known, left or _NOTHING, points, both, level)
            else:
                data = vector_buckets(both.steps_N, both.values_NK, level)
            rollups.append((*key, level, window.number, data))

    def work(connection: Connection) -> None:
        take_turn(connection, window.run_number)
        statement = (
            delete(tables.vector_rows)
            .where(*_in_window(_vector, window), _vector.signal_id == signal_id)
            .where(_vector.row.in_(rows))
            .returning(_vector.row, _vector.step, _vector.data)
        )
        gone = sorted(tuples(connection.execute(statement)))
        chunks = dict(map(tuple, connection.execute(_chunks_of(window, signal_id, rows))))
        if gone != list(there.rows) or chunks != there.chunks:
            raise _Changed
        write_rows(connection, tables.chunks, CHUNK_COLUMNS, packed)
        write_rows(connection, tables.rollups, _ROLLUP_COLUMNS, rollups)

    if packed:
        database.write(work)
    return len(rows)


@dataclass(frozen=True, slots=True)
class _There:
    rows: Sequence[Any]
    """(row, step, data)"""
    chunks: dict[int, bytes]
    rollups: dict[tuple[int, int], bytes]
    """{(row, level): records}"""


def _width(connection: Connection, window: Window, signal_id: int, row: int) -> int:
    """Numbers of one row of a signal, as its first in the window has it."""
    statement = select(_vector.data).where(
        *_in_window(_vector, window), _vector.signal_id == signal_id, _vector.row == row
    )
    return len(connection.scalar(statement.limit(1)) or b"") // 4


def _vectors_there(
    connection: Connection, window: Window, signal_id: int, rows: Sequence[int]
) -> _There:
    statement = (
        select(_vector.row, _vector.step, _vector.data)
        .where(*_in_window(_vector, window), _vector.signal_id == signal_id)
        .where(_vector.row.in_(rows))
        .order_by(_vector.row, _vector.step)
    )
    found = tuples(connection.execute(statement))
    chunks = dict(map(tuple, connection.execute(_chunks_of(window, signal_id, rows))))
    known = select(_rollup.row, _rollup.level, _rollup.data).where(
        _rollup.run_number == window.run_number,
        _rollup.signal_id == signal_id,
        _rollup.row.in_(rows),
        _rollup.segment == window.segment,
        _rollup.level.in_(LEVELS),
        _rollup.window == window.number,
    )
    rollups = {(row, level): data for row, level, data in connection.execute(known)}
    return _There(found, chunks, rollups)


def _num_points(rollup: bytes) -> int:
    return int(read_vector_buckets([0], [rollup])[1]["points"].sum())


def _chunks_of(window: Window, signal_id: int, rows: Sequence[int]) -> Any:
    return select(_chunk.row, _chunk.data).where(
        _chunk.run_number == window.run_number,
        _chunk.signal_id == signal_id,
        _chunk.row.in_(rows),
        _chunk.segment == window.segment,
        _chunk.window == window.number,
    )


def _by_row(found: Sequence[Any], window: Window) -> Iterator[tuple[int, Points]]:
    at = 0
    while at < len(found):
        end = at
        while end < len(found) and found[end][0] == found[at][0]:
            end += 1
        _, steps, data = zip(*found[at:end], strict=True)
        yield found[at][0], of_rows(steps, data)
        at = end


def _move_scalars(
    database: Database, window: Window, names: dict[int, str], of_group: Sequence[Any]
) -> None:
    layouts = layouts_of(database, {row[2] for row in of_group})
    newer = scalars_of_rows(of_group, layouts, names.values())
    old = database.read(partial(_scalar_chunks, window=window, ids=list(names)))

    def work(connection: Connection) -> None:
        take_turn(connection, window.run_number)
        statement = (
            delete(tables.scalar_rows)
            .where(*_in_window(_scalar, window), _scalar.group_id == window.group_id)
            .returning(_scalar.step, _scalar.time_s, _scalar.layout_id, _scalar.data)
        )
        gone = sorted(tuples(connection.execute(statement)))
        if gone != list(of_group):
            raise _Changed
        if _scalar_chunks(connection, window, list(names)) != old:
            raise _Changed
        if _has_vectors(connection, window):
            raise _Changed
        times = _take_in_steps(connection, window, times_of_rows(of_group))
        packed, rollups, spans = [], [], {}
        for signal_id, name in names.items():
            if not len(newer[name].steps_N):
                continue
            known = [decoded(old[signal_id], window.number)] if signal_id in old else []
            both = merged(joined_points(known), newer[name])
            times_N = times.values_NK[np.searchsorted(times.steps_N, both.steps_N), 0]
            key = window.run_number, signal_id, WHOLE, window.segment
            packed.append((*key, window.number, encode(both)))
            values_N = both.values_NK[:, 0]
            rollups += [
                (
                    *key,
                    level,
                    window.number,
                    scalar_buckets(both.steps_N, times_N.astype(np.float64), values_N, level),
                )
                for level in LEVELS
            ]
            spans[window.run_number, signal_id, window.segment] = _span(both)
        write_rows(connection, tables.chunks, CHUNK_COLUMNS, packed)
        write_rows(connection, tables.rollups, _ROLLUP_COLUMNS, rollups)
        # a store of an older program learns its extremes here
        widen_spans(connection, spans)

    if of_group:
        database.write(work)


def _has_vectors(connection: Connection, window: Window) -> bool:
    """Whether rows of vectors came after they were moved; without a row of scalars at their step
    nobody would find them.
    """
    for signal in _signals(connection, window):
        there = select(_vector.step).where(
            *_in_window(_vector, window),
            _vector.signal_id == signal.id,
            _vector.row.in_(signal.rows),
        )
        if signal.rows and connection.scalar(there.limit(1)) is not None:
            return True
    return False


def _scalar_chunks(connection: Connection, window: Window, ids: Sequence[int]) -> dict[int, bytes]:
    statement = select(_chunk.signal_id, _chunk.data).where(
        _chunk.run_number == window.run_number,
        _chunk.signal_id.in_(ids),
        _chunk.row == WHOLE,
        _chunk.segment == window.segment,
        _chunk.window == window.number,
    )
    return dict(map(tuple, connection.execute(statement)))


def _span(points: Points) -> Span:
    values_N = points.values_NK[:, 0].astype(np.float64)
    span = Span(int(points.steps_N[0]), int(points.steps_N[-1]), last_value=float(values_N[-1]))
    finite = np.flatnonzero(np.isfinite(values_N))
    if len(finite):
        low, high = (finite[pick(values_N[finite])] for pick in (np.argmin, np.argmax))
        span.low, span.low_step = float(values_N[low]), int(points.steps_N[low])
        span.high, span.high_step = float(values_N[high]), int(points.steps_N[high])
    return span
