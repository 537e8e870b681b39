"""Who writes a run's frames into an embedded store that more than two runs share: the service.

SQLite lets one writer in at a time, so many trainers would queue for it. The service counts the
living runs; above `MOST_WRITERS` it holds the lease `ingest:RUN` for each (`platform/ingest.py`),
and a trainer that sees its lease held keeps its frames in the journal. Alerts, events, segments and
checkpoints are rare and must not wait: the trainer writes them itself, always. Heartbeats and
commands go their own way (`platform/contact.py`).

Beside the journal lie two small files, each with one owner:
- `offer.json`, the trainer's: up to where the journal is whole and may be read, by whom it is
  written (a new name for each process), and from where on frames are not in the store yet;
- `ingested.json`, the service's: how far it has come with what that name offered.
The trainer's own place in its journal follows the service's, so the journal forgets what is in the
store. Where the service dies or hangs, its lease runs out, and the trainer goes on from its place:
what was written by both is the same row.
"""

import json
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from . import leases
from .journal import JournalReader, Position
from .record_codec import Record, decode, is_frame
from .store import Store

MOST_WRITERS = 2
"""Living runs that may write into one embedded store by themselves."""
LEASE_S = 10.0
LOOK_EVERY_S = 2.0
"""How often a trainer looks whether the service takes its frames."""
_AT_ONCE = 256


class Offer(NamedTuple):
    by: str
    start: Position
    end: Position


def ingest_lease(run_id: str) -> str:
    """Name of the lease that the service holds while it writes a run's frames."""
    return f"ingest:{run_id}"


def write_offer(folder: Path, offer: Offer) -> None:
    _write(folder / "offer.json", {"by": offer.by, "start": offer.start, "end": offer.end})


def read_offer(folder: Path) -> Offer | None:
    """What the writer of a journal offers; None where it never did, or the file is unreadable."""
    try:
        kept = json.loads((folder / "offer.json").read_text())
        return Offer(str(kept["by"]), Position(*kept["start"]), Position(*kept["end"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_ingested(folder: Path, by: str, position: Position) -> None:
    _write(folder / "ingested.json", {"by": by, "to": position})


def read_ingested(folder: Path, by: str) -> Position | None:
    """How far the service has come with what this name offered; None where it has not begun."""
    try:
        kept = json.loads((folder / "ingested.json").read_text())
        return Position(*kept["to"]) if kept["by"] == by else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


class HandOver:
    """The trainer's side, for one run. Called from its sink's thread only."""

    def __init__(self, run_id: str, clock: Callable[[], float] = time.time) -> None:
        self._lease = ingest_lease(run_id)
        self._by = secrets.token_hex(8)
        self._clock = clock
        self._next_look_s = 0.0
        self._is_on = False
        self._offered: Offer | None = None
        self._scanned = Position(0, 0)

    def taken(
        self,
        store: Store,
        folder: Path,
        position: Position,
        end: Position,
        write: Callable[[list[Record]], None],
    ) -> Position | None:
        """How far everything is in the store where the service takes the frames; None where this
        process must write them itself. What is no frame goes to `write` at once.

        position: up to here this process has seen to all. end: the journal is whole up to here.
        Raises what the store, the disk or `write` raises.
        """
        now_s = time.monotonic()
        if now_s >= self._next_look_s:
            self._next_look_s = now_s + LOOK_EVERY_S
            self._is_on = leases.holder(store, self._lease, self._clock()) is not None
        if not self._is_on:
            return None
        # behind it lies what this process wrote by itself in between
        self._scanned = max(self._scanned, position)
        self._write_rare(folder, end, write)
        offer = Offer(self._by, position, end)
        if offer != self._offered:
            write_offer(folder, offer)
            self._offered = offer
        taken = read_ingested(folder, self._by) or position
        return max(position, min(taken, self._scanned, end))

    def _write_rare(
        self, folder: Path, end: Position, write: Callable[[list[Record]], None]
    ) -> None:
        while self._scanned < end:
            entries, after = JournalReader(folder, self._scanned).read(_AT_ONCE, end)
            rare = [decode(entry.payload) for entry in entries if not is_frame(entry.payload)]
            if rare:
                write(rare)
            self._scanned = after


def _write(file: Path, told: dict[str, object]) -> None:
    new = file.with_suffix(".new")
    new.write_text(json.dumps(told))
    new.replace(file)
