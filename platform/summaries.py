"""What each scalar of a run came to: its last value, its lowest and highest, and where. Kept by the
writer, so that a list of runs reads no samples.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select

from . import tables
from .store import Store


@dataclass(frozen=True, slots=True)
class Summary:
    """One scalar of one run, over all its segments; abandoned branches count too."""

    last: float
    """At the last step of the last segment; NaN where it was NaN."""
    last_segment: int
    last_step: int
    low: float | None
    """Lowest finite value; None where there was none, or an older program wrote the rows and the
    service has not packed them yet."""
    low_segment: int
    low_step: int
    """-1 where there is none; of equals the first segment and step."""
    high: float | None
    high_segment: int
    high_step: int


def summaries(
    store: Store, signals: Sequence[str], run_ids: Sequence[str] | None = None
) -> dict[str, dict[str, Summary]]:
    """{run id: {signal: summary}} of these scalars, of some runs or all, in one question."""
    span, run, signal = tables.spans.c, tables.runs.c, tables.signals.c
    statement = (
        select(
            run.id,
            signal.name,
            span.segment,
            span.last_step,
            span.last_value,
            span.low,
            span.low_step,
            span.high,
            span.high_step,
        )
        .join(tables.runs, run.number == span.run_number)
        .join(tables.signals, signal.id == span.signal_id)
        .where(signal.name.in_(signals), signal.num_dimensions == 0)
        .order_by(span.segment)
    )
    if run_ids is not None:
        statement = statement.where(run.id.in_(run_ids))
    found: dict[str, dict[str, Summary]] = {}
    for run_id, name, *of_segment in store.database.read(lambda c: c.execute(statement).all()):
        of_run = found.setdefault(run_id, {})
        of_run[name] = _with_segment(of_run.get(name), *of_segment)
    return found


def _with_segment(
    old: Summary | None,
    segment: int,
    last_step: int,
    last: float | None,
    low: float | None,
    low_step: int | None,
    high: float | None,
    high_step: int | None,
) -> Summary:
    """The summary of the segments before, if any, and of this one."""
    lowest = low, segment if low is not None else -1, -1 if low_step is None else low_step
    highest = high, segment if high is not None else -1, -1 if high_step is None else high_step
    if old is not None and old.low is not None and (low is None or old.low <= low):
        lowest = old.low, old.low_segment, old.low_step
    if old is not None and old.high is not None and (high is None or old.high >= high):
        highest = old.high, old.high_segment, old.high_step
    newest = math.nan if last is None else last
    return Summary(newest, segment, last_step, *lowest, *highest)
