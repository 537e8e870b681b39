"""The service writes the frames of living runs into an embedded store that more than two of them
share; see `platform/handover.py` for who does what.
"""

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from sqlalchemy import select

from . import leases, tables
from .engines import StoreAway
from .errors import MoescopeError
from .handover import (
    LEASE_S,
    MOST_WRITERS,
    ingest_lease,
    read_ingested,
    read_offer,
    write_ingested,
)
from .journal import JournalReader
from .record_codec import decode, is_frame
from .records import Frame
from .store import Store

LIVING_S = 30.0
"""A run that has not beaten for longer is none that a trainer writes."""
_AT_ONCE = 128
"""Entries of one run before the next one has its turn."""
_MOST_S = 2.0
"""Of one tick."""
_BEAT_EVERY_S = LEASE_S / 4
_LEAVE_ALONE_S = 60.0

_log = logging.getLogger(__name__)


class Ingest:
    """The service's side, called by one thread at a time, and only while the service leads."""

    def __init__(
        self, store: Store, holder: str, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._holder = holder
        self._clock = clock
        self._beaten_s: dict[str, float] = {}
        """{run whose lease is held: when it was last prolonged}"""
        self._left_alone_until_s: dict[str, float] = {}
        """Runs with something that only their own trainer can see to."""

    def tick(self) -> None:
        """Takes what living runs offer. Raises StoreAway; the leases then run out, and trainers
        write again by themselves.
        """
        if not self._store.database.is_embedded:
            return
        shared = self._shared()
        for run_id in [run_id for run_id in self._beaten_s if run_id not in shared]:
            self._release(run_id)
        until_s = time.monotonic() + _MOST_S
        busy = list(shared)
        while busy and time.monotonic() < until_s:
            busy = [run_id for run_id in busy if self._take_some(run_id, shared[run_id])]

    def let_go(self) -> None:
        """Gives all leases back, so that trainers go on at once."""
        for run_id in list(self._beaten_s):
            with suppress(MoescopeError):
                self._release(run_id)

    def _shared(self) -> dict[str, Path]:
        """{run: its journal} where so many runs live that the service writes for them."""
        now_s = self._clock()
        run = tables.runs.c
        living = select(run.id, run.folder).where(
            run.status == "running", run.heartbeat_s > now_s - LIVING_S
        )
        found = self._store.database.read(lambda c: c.execute(living).all())
        if len(found) <= MOST_WRITERS:
            return {}
        journals = {row.id: Path(row.folder) / "journal" for row in found if row.folder}
        # of another machine or container: nobody but its trainer can read it
        return {
            run_id: folder
            for run_id, folder in journals.items()
            if folder.is_dir() and now_s >= self._left_alone_until_s.get(run_id, 0.0)
        }

    def _take_some(self, run_id: str, folder: Path) -> bool:
        """Writes a few entries of a run in; True where there are more."""
        if not self._is_mine(run_id):
            return False
        offer = read_offer(folder)
        if offer is None:
            return False
        position = max(offer.start, read_ingested(folder, offer.by) or offer.start)
        if position >= offer.end:
            return False
        try:
            entries, after = JournalReader(folder, position).read(_AT_ONCE, offer.end)
            frames = [decode(entry.payload) for entry in entries if is_frame(entry.payload)]
            self._store.write_frames([frame for frame in frames if isinstance(frame, Frame)])
            write_ingested(folder, offer.by, after)
        except StoreAway:
            raise
        except (MoescopeError, OSError, ValueError, TypeError) as error:
            # its trainer knows how to set a record aside
            _log.warning("run %s is left to its trainer for a while: %s", run_id, error)
            self._left_alone_until_s[run_id] = self._clock() + _LEAVE_ALONE_S
            self._release(run_id)
            return False
        return after < offer.end

    def _is_mine(self, run_id: str) -> bool:
        """Whether the run's lease is held; asked before each writing, so that a service that slept
        writes nothing any more.
        """
        now_s = self._clock()
        # a clock may be set back
        if abs(now_s - self._beaten_s.get(run_id, 0.0)) < _BEAT_EVERY_S:
            return True
        if leases.claim(self._store, ingest_lease(run_id), self._holder, now_s, LEASE_S):
            self._beaten_s[run_id] = now_s
            return True
        self._beaten_s.pop(run_id, None)
        return False

    def _release(self, run_id: str) -> None:
        leases.release(self._store, ingest_lease(run_id), self._holder)
        self._beaten_s.pop(run_id, None)
