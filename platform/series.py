"""Reads samples: the range first, thinning second, in transactions of at most a few thousand
rows.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select

from . import tables
from .catalogue import signal_spec
from .compacted.reading import Source
from .compacted.thinned_reading import thinned_out_of_rollups
from .engines import Database, unknown_run
from .errors import MoescopeError
from .records import Segment, Series
from .store import Store
from .stretches import joined, rows_to_read, stretch
from .thinning import thinned_from

_NUMBERS_AT_ONCE = 1 << 22
"""Numbers held before a long series is thinned for the first time: 16 MiB."""
_END = 1 << 62
"""Past any step."""


def read_series(
    store: Store,
    run_id: str,
    signal: str,
    *,
    from_step: int | None = None,
    to_step: int | None = None,
    row: int | None = None,
    max_points: int | None = None,
    segments: Sequence[int] | None = None,
) -> Series:
    """Reads a signal from `from_step` to `to_step` (both included) of all or some segments, then
    thins to `max_points`.

    row: one index of a 2-D signal's first dimension; the values are then (points, second
    dimension). What was never measured gives an empty series; where shapes differ between steps,
    missing elements are NaN. What thinning keeps: `platform/thinning.py`, and the steps of the
    run's alerts; a long stretch of a scalar comes out of roll-ups, to the same points. Raises
    MoescopeError on an unknown run or signal, a range that ends before it starts, or a `row` where
    there are none.
    """
    source = sources(store.database, run_id, [signal]).get(signal)
    stretches = stretches_of(source, from_step, to_step, segments)
    always = alert_steps(store.database, run_id) if max_points is not None else ()
    return _read(store.database, source, signal, stretches, row, max_points, always)


def read_parts(
    store: Store,
    run_id: str,
    signal: str,
    *,
    from_step: int | None = None,
    to_step: int | None = None,
) -> Iterator[Series]:
    """Yields what `read_series` would give of all segments, unthinned and in its order, in parts of
    a few thousand steps: a long series is never whole in memory. Raises as `read_series` does.
    """
    source = sources(store.database, run_id, [signal]).get(signal)
    stretches = stretches_of(source, from_step, to_step, None)
    if source is None:
        return
    rows = rows_to_read(source, signal, source.num_dimensions, None)
    is_one = source.num_dimensions == 1
    for segment, low, high in stretches:
        yield from stretch(store.database, source, segment, low, high, rows, is_one)


def read_since(
    store: Store,
    run_id: str,
    signal: str,
    cursor: tuple[int, int] | None,
    *,
    row: int | None = None,
) -> Series:
    """Reads what came after a cursor: the (segment, step) of the last point that the caller has;
    None reads all. row: as of `read_series`.
    """
    source = sources(store.database, run_id, [signal]).get(signal)
    segment, step = cursor or (-1, -1)
    stretches = [
        (index, max(start, step + 1) if index == segment else start, end)
        for index, start, end, _ in (source.spans if source else ())
        if index >= segment
    ]
    return _read(store.database, source, signal, stretches, row, None)


def latest(
    store: Store, run_id: str, signals: Sequence[str]
) -> dict[str, tuple[int, NDArray[np.float32]]]:
    """The newest (step, value) of each of the signals that has one; newest is the last step of
    the last segment.
    """
    found: dict[str, tuple[int, NDArray[np.float32]]] = {}
    for signal, source in sources(store.database, run_id, signals).items():
        segment, _, last, _ = source.spans[-1]
        point = _read(store.database, source, signal, [(segment, last, last)], None, None)
        if len(point.steps):
            found[signal] = int(point.steps[-1]), np.asarray(point.values[-1])
    return found


def measured_steps(store: Store, run_id: str, signals: Sequence[str]) -> dict[int, tuple[int, int]]:
    """{segment: first and last step} in which any of the signals was measured."""
    found: dict[int, tuple[int, int]] = {}
    for source in sources(store.database, run_id, signals).values():
        for segment, first, last, _ in source.spans:
            before = found.get(segment, (first, last))
            found[segment] = min(first, before[0]), max(last, before[1])
    return found


def known_signals(store: Store, run_id: str) -> list[str]:
    """Names of the signals that the run has samples of, in alphabetical order."""
    statement = (
        select(tables.signals.c.name)
        .join(tables.spans, tables.spans.c.signal_id == tables.signals.c.id)
        .join(tables.runs, tables.runs.c.number == tables.spans.c.run_number)
        .where(tables.runs.c.id == run_id)
        .distinct()
    )
    return sorted(store.database.read(lambda c: c.scalars(statement).all()))


def is_living(series: Series, segments: Sequence[Segment]) -> NDArray[np.bool_]:
    """Which points belong to the branch that training is on; the others are ghosts, abandoned by a
    rollback.

    From the newest segment back to its parent, the parent's parent and so on: each counts up to its
    child's `parent_step`, and no further than any later child. Segments that nobody descends from
    are abandoned.
    """
    is_alive = np.zeros(len(series.steps), bool)
    if not segments:
        return ~is_alive
    by_index = {segment.index: segment for segment in segments}
    here: Segment | None = by_index[max(by_index)]
    assert here is not None
    # a segment newer than what the caller knows of is where training is now
    is_alive |= series.segments > here.index
    until = _END
    while here is not None:
        is_alive |= (series.segments == here.index) & (series.steps <= until)
        until = min(until, here.start_step - 1 if here.parent_step is None else here.parent_step)
        parent = here.parent_segment
        here = by_index.get(parent) if parent is not None and parent < here.index else None
    return is_alive


def stretches_of(
    source: Source | None,
    from_step: int | None,
    to_step: int | None,
    segments: Sequence[int] | None,
) -> list[tuple[int, int, int]]:
    """(segment, first step, last step) of what was measured in a range of some segments, or all.

    Raises MoescopeError on a range that ends before it starts.
    """
    if from_step is not None and to_step is not None and from_step > to_step:
        raise MoescopeError(
            f"from_step {from_step} is after to_step {to_step}: give the first step, then the last"
        )
    first = -_END if from_step is None else from_step
    last = _END if to_step is None else to_step
    found = [
        (segment, max(first, start), min(last, end))
        for segment, start, end, _ in (source.spans if source else ())
        if segments is None or segment in segments
    ]
    return [part for part in found if part[1] <= part[2]]


def sources(
    database: Database, run_id: str, signals: Sequence[str] | None = None
) -> dict[str, Source]:
    """Where some signals of a run lie, or all of them; those that were never measured are left
    out. Raises MoescopeError on an unknown run or name."""
    statement = (
        select(
            tables.signals.c.name,
            tables.spans.c.run_number,
            tables.spans.c.signal_id,
            tables.groups.c.id,
            tables.signals.c.num_dimensions,
            tables.spans.c.segment,
            tables.spans.c.first_step,
            tables.spans.c.last_step,
            tables.spans.c.num_rows,
        )
        .join(tables.runs, tables.runs.c.number == tables.spans.c.run_number)
        .join(tables.signals, tables.signals.c.id == tables.spans.c.signal_id)
        .join(tables.groups, tables.groups.c.name == tables.signals.c.group_name)
        .where(tables.runs.c.id == run_id)
        .order_by(tables.spans.c.segment)
    )
    if signals is not None:
        statement = statement.where(tables.signals.c.name.in_(signals))
    is_there = select(tables.runs.c.number).where(tables.runs.c.id == run_id)
    rows, number = database.read(lambda c: (c.execute(statement).all(), c.scalar(is_there)))
    if number is None:
        raise unknown_run(run_id)
    heads: dict[str, tuple[int, int, int, int]] = {}
    spans: dict[str, list[tuple[int, int, int, int]]] = {}
    for name, *head, segment, first, last, num_rows in rows:
        heads[name] = tuple(head)
        spans.setdefault(name, []).append((segment, first, last, num_rows))
    for name in signals or ():
        if name not in heads:
            signal_spec(name)  # a wrong name is an error, a signal not yet measured is not
    return {name: Source(name, *head, tuple(spans[name])) for name, head in heads.items()}


def _read(
    database: Database,
    source: Source | None,
    signal: str,
    stretches: Sequence[tuple[int, int, int]],
    row: int | None,
    max_points: int | None,
    always: Sequence[int] = (),
) -> Series:
    num_dimensions = source.num_dimensions if source else len(signal_spec(signal).dimensions)
    rows = rows_to_read(source, signal, num_dimensions, row)
    is_one = row is not None or num_dimensions == 1
    if row is not None:
        num_dimensions -= 1
    if source is not None and max_points is not None and num_dimensions == 0:
        found = thinned_out_of_rollups(database, source, stretches, max_points, always)
        if found is not None:
            return found
    parts: list[Series] = []
    width = 1
    for segment, first, last in stretches:
        assert source is not None
        for part in stretch(database, source, segment, first, last, rows, is_one):
            parts.append(part)
            if max_points is not None and sum(p.values.size for p in parts) > _NUMBERS_AT_ONCE:
                whole = joined(signal, parts, num_dimensions)
                part, width = thinned_from(whole, 2 * max_points, width, always)
                parts = [part]
    series = joined(signal, parts, num_dimensions)
    return series if max_points is None else thinned_from(series, max_points, width, always)[0]


def alert_steps(database: Database, run_id: str) -> list[int]:
    """Steps at which something began or was noticed, in their order and each once."""
    alert = tables.alerts.c
    statement = select(alert.onset_step, alert.fired_step).where(alert.run_id == run_id)
    rows = database.read(lambda c: c.execute(statement).all())
    return sorted({step for row in rows for step in row})
