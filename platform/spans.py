"""Spans: which signal a run has in which segment, from where to where, and its extremes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from sqlalchemy import ColumnElement, Connection, and_, case, or_

from . import tables
from .upserts import Insert, for_sqlite, insert_into, larger, smaller

_LARGEST = float(np.finfo(np.float32).max)


@dataclass(slots=True)
class Span:
    """What some frames say of one signal in one segment; it grows while they are packed."""

    first_step: int
    last_step: int
    num_rows: int = 0
    """First dimension of a matrix."""
    last_value: float = math.nan
    """Of a scalar at the last step."""
    low: float | None = None
    low_step: int | None = None
    high: float | None = None
    high_step: int | None = None

    def add(self, step: int, num_rows: int) -> None:
        if step < self.first_step:
            self.first_step = step
        if step > self.last_step:
            self.last_step = step
        if num_rows > self.num_rows:
            self.num_rows = num_rows

    def add_value(self, step: int, value: float) -> None:
        """A scalar's value; that of the last step counts as the last."""
        if step >= self.last_step:
            self.last_step, self.last_value = step, value
        elif step < self.first_step:
            self.first_step = step
        # infinite and NaN are outside of both
        if -_LARGEST <= value <= _LARGEST:
            if self.low is None or (value, step) < (self.low, self.low_step or 0):
                self.low, self.low_step = value, step
            if self.high is None or (-value, step) < (-self.high, self.high_step or 0):
                self.high, self.high_step = value, step


def widen_spans(connection: Connection, spans: Mapping[tuple[int, int, int], Span]) -> None:
    """Takes these into the store: {(run number, signal id, segment): span}."""
    if not spans:
        return
    rows = [
        {
            "run_number": run_number,
            "signal_id": signal_id,
            "segment": segment,
            "first_step": span.first_step,
            "last_step": span.last_step,
            "num_rows": span.num_rows,
            "last_value": None if math.isnan(span.last_value) else span.last_value,
            "low": span.low,
            "low_step": span.low_step,
            "high": span.high,
            "high_step": span.high_step,
        }
        for (run_number, signal_id, segment), span in spans.items()
    ]
    statement = _statement(connection.dialect.name)
    if connection.dialect.name == "sqlite":
        # as of row_writing: a third of what the way above the driver costs
        text, places = for_sqlite(statement, tuple(rows[0]))
        connection.exec_driver_sql(text, [tuple(row[name] for name in places) for row in rows])
    else:
        connection.execute(statement, rows)


@cache
def _statement(dialect: str) -> Insert:
    span = tables.spans.c
    statement = insert_into(dialect, tables.spans)
    new = statement.excluded
    is_lower = _is_beyond(span.low, span.low_step, new.low < span.low, new.low, new.low_step)
    is_higher = _is_beyond(span.high, span.high_step, new.high > span.high, new.high, new.high_step)
    set_ = {
        "first_step": smaller(span.first_step, new.first_step),
        "last_step": larger(span.last_step, new.last_step),
        "num_rows": larger(span.num_rows, new.num_rows),
        "last_value": case(
            (new.last_step >= span.last_step, new.last_value), else_=span.last_value
        ),
    }
    for is_beyond, names in ((is_lower, ("low", "low_step")), (is_higher, ("high", "high_step"))):
        for name in names:
            set_[name] = case((is_beyond, new[name]), else_=span[name])
    return statement.on_conflict_do_update(
        index_elements=[span.run_number, span.signal_id, span.segment], set_=set_
    )


def _is_beyond(
    old: ColumnElement[float],
    old_step: ColumnElement[int],
    is_further: ColumnElement[bool],
    new: ColumnElement[float],
    new_step: ColumnElement[int],
) -> ColumnElement[bool]:
    return or_(
        and_(old.is_(None), new.is_not(None)), is_further, and_(new == old, new_step < old_step)
    )
