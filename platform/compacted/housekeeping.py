"""What the leading service does for the samples: compacts closed windows, forgets by rule.

It works a third of the time at most and in bites of about two seconds, so that trainers, which
write to the same store, and the dashboard do not feel it.
"""

import threading
import time
from collections.abc import Callable

from sqlalchemy import select

from .. import tables
from ..records import Run
from ..settings import Settings
from ..store import Store
from .compaction import compact
from .retention import Rule, retain

BITE_S = 2.0
RETAIN_EVERY_S = 3600.0
_REST_FACTOR = 2.0
_LONGEST_REST_S = 0.5


def rule_of(settings: Settings) -> Rule | None:
    """The rule that somebody set, or none."""
    days, runs = settings.keep_vectors_days, settings.keep_vectors_runs
    return None if days is None and runs is None else Rule(days, runs)


class Housekeeping:
    """Compacts and forgets while a service leads; called by one thread at a time."""

    def __init__(
        self,
        store: Store,
        rule: Rule | None,
        stop: threading.Event,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """rule: what is forgotten; None: nothing. stop: ends a bite early."""
        self._store = store
        self._rule = rule
        self._stop = stop
        self._clock = clock
        self._retained_s: float | None = None
        self._until_s = 0.0

    def tick(self) -> None:
        """Goes on with what is due, for about two seconds."""
        self._until_s = time.monotonic() + BITE_S
        for run in _with_rows(self._store):
            compact(self._store, run, may_go_on=self._may_go_on, rest=self._rest)
            if not self._may_go_on():
                return
        now_s = self._clock()
        is_due = self._retained_s is None or not 0 <= now_s - self._retained_s < RETAIN_EVERY_S
        if self._rule is not None and is_due:
            forgotten = retain(
                self._store, self._rule, now_s, may_go_on=self._may_go_on, rest=self._rest
            )
            if forgotten.num_chunks:
                self._store.database.give_back_disk()
            if self._may_go_on():
                self._retained_s = now_s

    def _may_go_on(self) -> bool:
        return not self._stop.is_set() and time.monotonic() < self._until_s

    def _rest(self, worked_s: float) -> None:
        self._stop.wait(min(_LONGEST_REST_S, _REST_FACTOR * worked_s))


def compact_store(store: Store) -> int:
    """Compacts all closed windows of all runs at once; returns how many."""
    return sum(compact(store, run) for run in _with_rows(store))


def _with_rows(store: Store) -> list[Run]:
    """The runs that have rows of samples, oldest first: an index look-up for each run."""
    run = tables.runs.c
    rows = select(tables.scalar_rows.c.run_number)
    has_rows = rows.where(tables.scalar_rows.c.run_number == run.number).exists()
    wanted = set(store.database.read(lambda c: c.scalars(select(run.id).where(has_rows)).all()))
    if not wanted:
        return []
    return [one for one in reversed(store.runs(include_archived=True)) if one.id in wanted]
