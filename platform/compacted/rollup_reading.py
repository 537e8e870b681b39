"""Goes through a stretch of one signal: whole windows by their roll-up, the others step by step.

Step by step go the windows at both ends, those that are not compacted yet, those with rows newer
than their chunk, and those that the caller names.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from sqlalchemy import Connection, bindparam, func, select

from .. import tables
from ..engines import Database
from .buckets import LEVELS
from .codec import WINDOW
from .reading import Source, tuples

WINDOWS_AT_ONCE = 1024
"""Roll-ups of one reading transaction, some megabytes, and windows with newer rows."""

_scalar = tables.scalar_rows.c
_rollup = tables.rollups.c
_ROLLUPS = (
    select(_rollup.window, _rollup.data)
    .where(
        _rollup.run_number == bindparam("run"),
        _rollup.signal_id == bindparam("signal"),
        _rollup.row == bindparam("row"),
        _rollup.segment == bindparam("segment"),
        _rollup.level == bindparam("level"),
        _rollup.window >= bindparam("first"),
        _rollup.window <= bindparam("last"),
    )
    .order_by(_rollup.window)
    .limit(WINDOWS_AT_ONCE)
)
_NEXT_STEP = select(func.min(_scalar.step)).where(
    _scalar.run_number == bindparam("run"),
    _scalar.group_id == bindparam("group"),
    _scalar.segment == bindparam("segment"),
    _scalar.step >= bindparam("first"),
    _scalar.step <= bindparam("last"),
)


@dataclass(frozen=True, slots=True)
class Steps:
    """Steps that must be read one by one."""

    first: int
    last: int


@dataclass(frozen=True, slots=True)
class RolledUp:
    """Windows that follow each other, and their records."""

    windows: Sequence[int]
    data: Sequence[bytes]


def level_for(num_steps: int, max_buckets: int) -> int | None:
    """The coarsest level that still has more buckets than that; None where not even the finest."""
    levels = [level for level in LEVELS if num_steps // level > max_buckets]
    return levels[-1] if levels else None


def walk(
    database: Database,
    source: Source,
    row: int,
    stretch: tuple[int, int, int],
    level: int,
    named: Collection[int] = (),
) -> Iterator[Steps | RolledUp]:
    """What a (segment, first step, last step) is made of, in order. named: windows that must be
    read step by step."""
    segment, first, last = stretch
    begin, final = first // WINDOW, last // WINDOW
    lowest, highest = next((span[1], span[2]) for span in source.spans if span[0] == segment)
    # a window is whole if nothing of it lies outside of what was asked for
    whole = begin if first <= max(lowest, begin * WINDOW) else begin + 1
    end = final + 1 if last >= min(highest, (final + 1) * WINDOW - 1) else final
    if whole > begin:
        yield Steps(first, min(last, (begin + 1) * WINDOW - 1))
    start = whole
    while start < end:
        windows = range(start, end)
        found, newer, windows = database.read(
            partial(_rollups, source=source, row=row, segment=segment, windows=windows, level=level)
        )
        start = windows.stop
        apart = {*newer, *(window for window in named if window in windows)}
        kept = [(window, data) for window, data in found if window not in apart]
        yield from _woven(kept, sorted(apart))
    if end == final and final >= whole:
        yield Steps(final * WINDOW, last)


def _rollups(
    connection: Connection, source: Source, row: int, segment: int, windows: range, level: int
) -> tuple[Sequence[tuple[int, bytes]], list[int], range]:
    """The roll-ups of these windows, which of them have rows newer than that, and how many of the
    windows that covers: steps may lie far apart, so their number says nothing.
    """
    key = {"run": source.run_number, "segment": segment}
    span = {"first": windows.start, "last": windows.stop - 1}
    where = {**key, **span, "signal": source.signal_id, "row": row, "level": level}
    found = tuples(connection.execute(_ROLLUPS, where))
    stop = found[-1][0] + 1 if len(found) == WINDOWS_AT_ONCE else windows.stop
    newer: list[int] = []
    steps = {"first": windows.start * WINDOW, "last": stop * WINDOW - 1}
    group = {**key, "group": source.group_id}
    while (step := connection.scalar(_NEXT_STEP, {**group, **steps})) is not None:
        newer.append(step // WINDOW)
        steps["first"] = (newer[-1] + 1) * WINDOW
        if len(newer) == WINDOWS_AT_ONCE:
            stop = newer[-1] + 1
            break
    found = [row for row in found if row[0] < stop]
    return found, newer, range(windows.start, stop)


def _woven(
    rollups: Sequence[tuple[int, bytes]], apart: Sequence[int]
) -> Iterator[Steps | RolledUp]:
    at = 0
    for first, last in _runs(apart):
        end = at
        while end < len(rollups) and rollups[end][0] < first:
            end += 1
        if end > at:
            yield _rolled_up(rollups[at:end])
        at = end
        yield Steps(first * WINDOW, (last + 1) * WINDOW - 1)
    if at < len(rollups):
        yield _rolled_up(rollups[at:])


def _rolled_up(rollups: Sequence[tuple[int, bytes]]) -> RolledUp:
    windows, data = zip(*rollups, strict=True)
    return RolledUp(windows, data)


def _runs(windows: Sequence[int]) -> list[tuple[int, int]]:
    """Neighbours as (first, last)."""
    out: list[tuple[int, int]] = []
    for window in windows:
        if out and out[-1][1] == window - 1:
            out[-1] = out[-1][0], window
        else:
            out.append((window, window))
    return out
