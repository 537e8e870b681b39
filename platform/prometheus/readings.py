"""Reads for a scrape, kept for some seconds: however many ask, the store is asked once.

Of a run that has ended the values are read once. Threads may ask at the same time: one reads, the
others wait for it and get the same.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..records import Alert, AlertState, Run
from ..series import known_signals, latest
from ..store import Store

FRESH_S = 10.0
"""A scrape within this time gets what the one before got."""
SHOWN_S = 24 * 3600.0
"""A run that has ended is shown for so long."""
MOST_RUNS = 50
MOST_USER_SIGNALS = 100
"""Of one run: each is a series of Prometheus."""
_STANDING: tuple[AlertState, ...] = ("open", "acknowledged", "silenced")


@dataclass(frozen=True, slots=True)
class RunReading:
    run: Run
    step: int | None
    """The newest step of any signal; None before the first."""
    values: dict[str, NDArray[np.float32]]
    """{signal: newest value}"""
    num_left: int
    """Signals of the user's own beyond those that are shown."""


@dataclass(frozen=True, slots=True)
class Reading:
    read_s: float
    runs: Sequence[RunReading]
    """Those that run, and those that ended lately; newest first."""
    num_runs: dict[str, int]
    """{status: all runs of the store that are not archived}"""
    alerts: Sequence[Alert]
    """Those of the shown runs that are not resolved."""


class Readings:
    def __init__(self, store: Store, clock: Callable[[], float], fresh_s: float = FRESH_S) -> None:
        self._store = store
        self._clock = clock
        self._fresh_s = fresh_s
        self._lock = threading.Lock()
        self._newest: Reading | None = None
        self._ended: dict[str, tuple[Run, RunReading]] = {}

    def now(self) -> Reading:
        """Raises MoescopeError while the store is away."""
        with self._lock:
            now_s = self._clock()
            if self._newest is None or not 0 <= now_s - self._newest.read_s < self._fresh_s:
                self._newest = self._read(now_s)
            return self._newest

    def _read(self, now_s: float) -> Reading:
        every = self._store.runs()
        shown = [run for run in every if run.status == "running" or _ended_s(run) > now_s - SHOWN_S]
        runs = [self._run(run) for run in shown[:MOST_RUNS]]
        ids = {run.id for run in shown[:MOST_RUNS]}
        self._ended = {run_id: kept for run_id, kept in self._ended.items() if run_id in ids}
        num_runs: dict[str, int] = {}
        for run in every:
            num_runs[run.status] = num_runs.get(run.status, 0) + 1
        alerts = [a for a in self._store.alerts(states=_STANDING) if a.run_id in ids]
        return Reading(now_s, runs, num_runs, alerts)

    def _run(self, run: Run) -> RunReading:
        known = self._ended.get(run.id)
        if known is not None and known[0] == run:
            return known[1]
        measured = known_signals(self._store, run.id)
        own = [name for name in measured if name.startswith("user/")]
        left = set(own[MOST_USER_SIGNALS:])
        found = latest(self._store, run.id, [name for name in measured if name not in left])
        step = max((step for step, _ in found.values()), default=None)
        reading = RunReading(run, step, {name: v for name, (_, v) in found.items()}, len(left))
        if run.status != "running":
            self._ended[run.id] = run, reading
        return reading


def _ended_s(run: Run) -> float:
    return run.finished_s if run.finished_s is not None else run.heartbeat_s
