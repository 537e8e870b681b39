"""Forgets the vectors of old steps by rule. What stays for good: scalars, what scalars came to,
roll-ups of everything, and each step within 256 of an alert's onset or alarm.
"""

# N points
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import groupby

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, delete, select

from .. import tables
from ..engines import UnknownRun
from ..errors import MoescopeError
from ..records import Run
from ..row_writing import write_rows
from ..series import alert_steps
from ..store import Store
from .codec import Points, encode
from .compaction import CHUNK_COLUMNS
from .reading import decoded
from .turns import take_turn

AROUND_AN_ALERT = 256
"""Steps before and after an alert's onset, and its alarm, that are kept for good."""
_DAY_S = 86400.0
_CHUNKS_AT_ONCE = 64

_chunk = tables.chunks.c
_steps = tables.chunk_steps.c


@dataclass(frozen=True, slots=True)
class Rule:
    """Vectors are forgotten once both limits that are given are passed."""

    days: float | None = None
    """Age of a step."""
    runs: int | None = None
    """The newest runs that keep all, and so do those that are running."""

    def __post_init__(self) -> None:
        for name, value in (("days", self.days), ("runs", self.runs)):
            # NaN is no limit, and would pass for one that everything is past
            if value is not None and not value >= 0:
                raise MoescopeError(f"{name} to keep is {value:g}: expected 0 or more")
        if self.days is None and self.runs is None:
            raise MoescopeError("no rule to forget by: give --days, --runs or both")


@dataclass(slots=True)
class Forgotten:
    num_chunks: int = 0
    num_bytes: int = 0


def retain(
    store: Store,
    rule: Rule,
    now_s: float,
    *,
    may_go_on: Callable[[], bool] = lambda: True,
    rest: Callable[[float], None] = lambda worked_s: None,
) -> Forgotten:
    """Forgets what the rule says, of windows that are compacted; the disk is the caller's to give
    back. may_go_on, rest: as of `compaction.compact`.
    """
    done = Forgotten()
    for rank, run in enumerate(store.runs(include_archived=True)):
        if rule.runs is not None and (rank < rule.runs or run.status == "running"):
            continue
        kept_steps = np.array(alert_steps(store.database, run.id), np.int64)
        for key, windows in _due(store, run, rule, now_s):
            for start in range(0, len(windows), _CHUNKS_AT_ONCE):
                if not may_go_on():
                    return done
                start_s = time.monotonic()
                with suppress(UnknownRun):  # deleted meanwhile
                    _forget(store, key, windows[start : start + _CHUNKS_AT_ONCE], kept_steps, done)
                rest(time.monotonic() - start_s)
    return done


def _due(
    store: Store, run: Run, rule: Rule, now_s: float
) -> Iterator[tuple[tuple[int, int, int, int], list[int]]]:
    """((run number, signal, row, segment), windows) whose vectors are too old."""
    statement = (
        select(_chunk.run_number, _chunk.signal_id, _chunk.row, _chunk.segment, _chunk.window)
        .join(tables.signals, tables.signals.c.id == _chunk.signal_id)
        .join(tables.runs, tables.runs.c.number == _chunk.run_number)
        .where(tables.runs.c.id == run.id, tables.signals.c.num_dimensions > 0)
        .order_by(_chunk.signal_id, _chunk.row, _chunk.segment, _chunk.window)
    )
    rows = store.database.read(lambda c: c.execute(statement).all())
    if rule.days is not None and rows:
        oldest_s = now_s - rule.days * _DAY_S
        if (run.finished_s or run.heartbeat_s) >= oldest_s:
            old = store.database.read(partial(_old_windows, number=rows[0][0], oldest_s=oldest_s))
            rows = [row for row in rows if (row[3], row[4]) in old]
    for key, some in groupby(rows, key=lambda row: tuple(row[:4])):
        yield key, [row[4] for row in some]


def _old_windows(connection: Connection, number: int, oldest_s: float) -> set[tuple[int, int]]:
    """(segment, window) of a run in which no group was measured since then."""
    statement = select(_steps.segment, _steps.window, _steps.data)
    newest_s: dict[tuple[int, int], float] = {}
    for segment, window, data in connection.execute(statement.where(_steps.run_number == number)):
        last_s = float(decoded(data, window).values_NK.max(initial=-np.inf))
        newest_s[segment, window] = max(last_s, newest_s.get((segment, window), -np.inf))
    return {key for key, last_s in newest_s.items() if last_s < oldest_s}


def _forget(
    store: Store,
    key: tuple[int, int, int, int],
    windows: Sequence[int],
    kept_steps: NDArray[np.int64],
    done: Forgotten,
) -> None:
    number, signal_id, row, segment = key
    mine = (
        _chunk.run_number == number,
        _chunk.signal_id == signal_id,
        _chunk.row == row,
        _chunk.segment == segment,
        _chunk.window.in_(windows),
    )

    def work(connection: Connection) -> tuple[int, int]:
        take_turn(connection, number)
        there = connection.execute(select(_chunk.window, _chunk.data).where(*mine)).all()
        gone, shorter, freed = [], [], 0
        for window, data in there:
            points = decoded(data, window)
            stay = _near(points.steps_N, kept_steps)
            if stay.all():
                continue
            kept = b""
            if stay.any():
                lengths_N = None if points.lengths_N is None else points.lengths_N[stay]
                kept = encode(Points(points.steps_N[stay], points.values_NK[stay], lengths_N))
                shorter.append((*key, window, kept))
            else:
                gone.append(window)
            freed += len(data) - len(kept)
        write_rows(connection, tables.chunks, CHUNK_COLUMNS, shorter)
        if gone:
            connection.execute(delete(tables.chunks).where(*mine, _chunk.window.in_(gone)))
        return len(gone) + len(shorter), freed

    num_chunks, num_bytes = store.database.write(work)
    done.num_chunks += num_chunks
    done.num_bytes += num_bytes


def _near(steps_N: NDArray[np.int64], kept: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which steps have one of these within reach."""
    if len(kept) == 0:
        return np.zeros(len(steps_N), bool)
    after = np.searchsorted(kept, steps_N)
    distance = [
        np.abs(kept[np.clip(after + shift, 0, len(kept) - 1)] - steps_N) for shift in (-1, 0)
    ]
    is_near: NDArray[np.bool_] = np.minimum(*distance) <= AROUND_AN_ALERT
    return is_near
