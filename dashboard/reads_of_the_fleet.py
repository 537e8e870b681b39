"""What the page of all runs reads: a few questions for however many runs, shared by all viewers.

Lines of the loss are read run by run and kept: of a run that has ended once, of one that trains
again when a bucket of steps more is full. Each look reads a few of those that are missing, so that
a page with many runs is there before all of its lines are.
"""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import streamlit as st

from ..platform import catalogue
from ..platform.fleet import Doings, doings, num_archived
from ..platform.matrices import read_matrix
from ..platform.records import RunStatus
from ..platform.store import Store
from ..platform.summaries import summaries
from .doing import LATELY_S
from .fleet_rows import SHOWN, FleetRun, row
from .reads import open_alerts_by_run, run_now
from .sparkline import MOST_BUCKETS, Sparkline, sparkline

FRESH_S = 2.5
"""Who asks within this time gets what the one before got."""
LINES_S = 0.12
"""Time that one look spends on lines which are missing."""


class Progress(NamedTuple):
    """Where a run stood when its line was drawn."""

    status: RunStatus
    segment: int
    step: int
    """In buckets of the line; -1 before the first."""


@dataclass(frozen=True, slots=True)
class FleetNow:
    read_s: float
    runs: Sequence[FleetRun]
    """Newest first."""
    num_archived: int
    rows: Sequence[dict[str, Any]] = ()
    """As the browser's table is sent them."""
    is_whole: bool = False
    """False while lines are missing that the next look reads."""


class Fleet:
    """All runs of a store, archived ones or the others. Any thread may ask; one reads at a time."""

    def __init__(self, is_archived: bool) -> None:
        self._is_archived = is_archived
        self._lock = threading.Lock()
        self._lines: dict[str, tuple[Progress, Sparkline | None]] = {}
        self._rows: dict[str, dict[str, Any]] = {}
        self.newest: FleetNow | None = None
        """What was read last: all there is while the store is away."""

    def now(self, store: Store, now_s: float) -> FleetNow:
        """How the runs stand. Raises MoescopeError while the store is away."""
        with self._lock:
            newest = self.newest
            if newest is None or not 0 <= now_s - newest.read_s < FRESH_S:
                newest = self._read(store, now_s)
            elif newest.is_whole:
                return newest
            self.newest = self._with_lines(store, newest)
            return self.newest

    def _read(self, store: Store, now_s: float) -> FleetNow:
        every = store.runs(include_archived=self._is_archived)
        runs = [run for run in every if run.is_archived == self._is_archived]
        alerts = open_alerts_by_run(store)
        found = summaries(store, SHOWN, [run.id for run in runs])
        live = [run.id for run in runs if run.status == "running"]
        about = doings(store, live, now_s - LATELY_S) if live else {}
        made = []
        for run in runs:
            of_run, open_alerts = found.get(run.id, {}), alerts.get(run.id, [])
            now = run_now(run, of_run, open_alerts, now_s)
            made.append(FleetRun(now, of_run, open_alerts, about.get(run.id) or Doings()))
        return FleetNow(now_s, made, len(runs) if self._is_archived else num_archived(store))

    def _with_lines(self, store: Store, now: FleetNow) -> FleetNow:
        """Puts the lines in, and reads some of those that are missing or too old before."""
        until_s = time.monotonic() + LINES_S
        kept: dict[str, tuple[Progress, Sparkline | None]] = {}
        made, is_whole = [], True
        for one in now.runs:
            run_id, progress = one.now.run.id, _progress(one)
            line = self._lines.get(run_id)
            if line is None or line[0] != progress:
                if time.monotonic() < until_s:
                    line = progress, _line(store, run_id) if progress.step >= 0 else None
                else:
                    is_whole = False
            if line is not None:
                kept[run_id] = line
            made.append(replace(one, spark=None if line is None else line[1]))
        self._lines = kept
        rows = [self._row(one, now.read_s) for one in made]
        self._rows = {row["id"]: row for row in rows}
        return replace(now, runs=made, rows=rows, is_whole=is_whole)

    def _row(self, one: FleetRun, read_s: float) -> dict[str, Any]:
        """The row of before where nothing has changed: who compares the two is done at once."""
        new = row(one, read_s)
        before = self._rows.get(new["id"])
        return before if before is not None and before == new else new


def _line(store: Store, run_id: str) -> Sparkline | None:
    bands = read_matrix(store, run_id, catalogue.LOSS_TOTAL, max_buckets=MOST_BUCKETS)
    has_branches = len(bands.segments) > 0 and bands.segments[0] != bands.segments[-1]
    return sparkline(bands, store.segments(run_id) if has_branches else ())


def _progress(one: FleetRun) -> Progress:
    status, summary = one.now.run.status, one.summary.get(catalogue.LOSS_TOTAL)
    if summary is None:
        return Progress(status, -1, -1)
    # a power of two, as the buckets are: half a bucket of the line at most is missing at its end
    width = 1 << max(0, (summary.last_step // MOST_BUCKETS).bit_length() - 1)
    return Progress(status, summary.last_segment, summary.last_step // width)


@st.cache_resource(show_spinner=False, max_entries=8)
def fleet(store_url: str, is_archived: bool) -> Fleet:
    """The one reader of a store's runs that all sessions of this process share."""
    return Fleet(is_archived)
