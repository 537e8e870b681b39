"""Where a run's records go: `FanOut` takes them from the training thread, journals them and feeds
every sink.

    record(frame): memory, within microseconds; journal, at most 0.25 s later
    say(alert):    journal, fsynced before it returns
    journal:       a thread for each sink reads it and hands over

A sink that fails, hangs or is slow costs the training thread nothing: its thread tails the journal
from the place that it has acknowledged, which is kept on disk, so that the next process goes on
from there. Frames are left out only where the journal outgrows its quota or the disk takes nothing
more, then only their vectors, and each one is counted.

Thread rules: `record`, `say`, `flush` and `status` may be called from any thread; `close` once.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from .catalogue import SINK_COALESCED, SINK_LAG_S, SINK_LOST, SINK_REFUSED, signal_spec
from .errors import MoescopeError
from .journal import Journal, Position, pack_entry
from .record_codec import Record, encode, encode_frame
from .records import Alert, Checkpoint, Event, Frame, Incident, Segment
from .sink_thread import SinkStatus, SinkThread

__all__ = ["FanOut", "FanOutStatus", "Record", "Sink", "SinkStatus"]

_FLUSH_EVERY_S = 0.2
_FLOAT = np.dtype(np.float32)
_QUEUE_BYTES = 64 * 2**20
# share of the queue above which vectors are left out, so that scalars keep their room
_NO_VECTORS_FROM = 0.5

_log = logging.getLogger(__name__)


class Sink(Protocol):
    """Somewhere records are written to.

    `write` raises on failure and is called again with the same records, after a process's death
    too: writing the same records twice changes nothing. All methods are called from one thread
    only, which may hang without harm.
    """

    name: str
    """Names the sink's place in the journal: letters, digits, dashes; the same in any process."""

    def write(self, records: Sequence[Record]) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class FanOutStatus:
    coalesced: int
    """Vector samples left out so far, in this run."""
    lost: int
    """Frames given up so far, in this run, because neither disk nor memory could take them; 0
    unless the disk itself fails.
    """
    refused: int
    """Records that a sink set aside, and samples that were none, so far."""
    lag_s: float
    """The largest lag of all sinks."""
    sinks: tuple[SinkStatus, ...]
    journal_error: str
    """Why the journal cannot be written at the moment; empty where it can."""

    def values(self) -> dict[str, NDArray[np.float32]]:
        """The part of it that the catalogue knows, ready for a frame."""
        return {
            SINK_COALESCED: np.asarray(self.coalesced, np.float32),
            SINK_LAG_S: np.asarray(self.lag_s, np.float32),
            SINK_LOST: np.asarray(self.lost, np.float32),
            SINK_REFUSED: np.asarray(self.refused, np.float32),
        }


class _Packed(NamedTuple):
    """An entry that waits for the disk."""

    packed: bytes
    size: int
    """Bytes it was counted with when it came."""
    is_urgent: bool
    """Whether it must be fsynced."""


class _Unsafe(NamedTuple):
    """What lies in the journal and not yet on the disk itself."""

    entries: list[_Packed]
    sync: Callable[[], None]


class FanOut:
    """Hands records to every sink without ever stopping, slowing or crashing the thread that has
    them.
    """

    def __init__(
        self,
        journal_folder: Path,
        sinks: Sequence[Sink],
        *,
        quota_bytes: int = 2**30,
        queue_bytes: int = _QUEUE_BYTES,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """Opens the journal and replays to each sink what it has not acknowledged.

        quota_bytes: size of the journal from which on vectors are left out. queue_bytes: bound on
        the memory taken by what is not yet on disk. clock: what lags are measured by; by itself one
        that does not follow the wall clock when that is set. Raises MoescopeError if the folder
        cannot be written or a living process writes it.
        """
        names = [sink.name for sink in sinks]
        if len(set(names)) < len(names):
            raise ValueError(f"sinks need names of their own, got {names}")
        self._journal = Journal(journal_folder, rotate_bytes=min(4 * 2**20, quota_bytes // 4))
        self._clock = clock or _steady_clock()
        self._quota_bytes = quota_bytes
        self._queue_bytes = queue_bytes
        self._queue: deque[tuple[Frame, int]] = deque()
        self._bytes_in = 0
        self._bytes_out = 0
        self._record_lock = threading.Lock()
        self._unwritten: deque[_Packed] = deque()
        self._journal_lock = threading.Lock()
        # None: the catalogue does not know the name
        self._is_lossless: dict[str, bool | None] = {}
        self._coalesced = _read_number(journal_folder / "coalesced")
        self._lost = _read_number(journal_folder / "lost")
        self._kept = {"coalesced": self._coalesced, "lost": self._lost}
        self._unusable = 0
        self._journal_error = ""
        self._is_over_quota = False
        self._is_closed = False
        self._stop = threading.Event()
        self._threads = [SinkThread(sink, self._journal, self._clock) for sink in sinks]
        self._writer = threading.Thread(target=self._write_on, name="journal", daemon=True)
        self._writer.start()
        for thread in self._threads:
            thread.start()

    def record(self, frame: Frame) -> None:
        """Takes one step's samples: copies them and returns within microseconds. Never raises,
        never blocks.
        """
        if self._is_closed:
            return
        with self._record_lock:
            waiting = self._bytes_in - self._bytes_out
            is_tight = self._is_over_quota or waiting > _NO_VECTORS_FROM * self._queue_bytes
            values: dict[str, NDArray[np.float32]] = {}
            size = 128
            for name, value in frame.values.items():
                is_lossless = (
                    self._is_lossless[name] if name in self._is_lossless else self._look_up(name)
                )
                if is_lossless is None:
                    self._unusable += 1
                    continue
                if is_tight and not is_lossless:
                    self._coalesced += 1
                    continue
                try:
                    # cheapest first: a scalar of numpy cannot change, and a method of an array
                    # costs a third of numpy's own function
                    kind: type = type(value)
                    if kind is np.float32:
                        copied = value
                    elif kind is np.ndarray and value.dtype == _FLOAT:
                        copied = value.copy()
                    else:
                        copied = np.array(value, np.float32)
                except (TypeError, ValueError) as error:
                    _log.error("%s at step %d is no array of numbers: %s", name, frame.step, error)
                    self._unusable += 1
                    continue
                values[name] = copied
                size += 64 + copied.nbytes
            if waiting + size > self._queue_bytes:
                self._lost += 1
                return
            self._bytes_in += size
            # built by position: `replace` would cost more than all the rest
            kept = Frame(frame.run_id, frame.segment, frame.step, frame.time_s, values)
            self._queue.append((kept, size))

    def say(self, record: Event | Alert | Checkpoint | Segment | Incident) -> None:
        """Journals what must not be lost and returns when it lies safely on disk. Never raises.

        Everything recorded before it is journaled before it. Takes one fsync, some milliseconds.
        Where the disk takes nothing, the record waits in memory, and the status says so.
        """
        if self._is_closed:
            return
        entry = pack_entry(encode(record), self._clock())
        with self._journal_lock:
            self._take_queue()
            with self._record_lock:
                self._bytes_in += len(entry)
            self._unwritten.append(_Packed(entry, len(entry), True))
            unsafe = self._write_out()
        self._make_safe(unsafe)
        self._wake_sinks()

    def flush(self, timeout_s: float) -> bool:
        """Waits until every sink has everything that was recorded before; False if that took too
        long.
        """
        until = time.monotonic() + timeout_s
        with self._journal_lock:
            self._take_queue()
            unsafe = self._write_out()
            is_written = not self._unwritten
            end = self._journal.end
        is_written = self._make_safe(unsafe) and is_written
        for thread in self._threads:
            thread.hurry(end)
        while True:
            if is_written and all(thread.position >= end for thread in self._threads):
                return True
            if time.monotonic() >= until:
                return False
            time.sleep(0.005)
            if not is_written:
                with self._journal_lock:
                    unsafe = self._write_out()
                    is_written = not self._unwritten
                    end = self._journal.end
                is_written = self._make_safe(unsafe) and is_written

    def status(self) -> FanOutStatus:
        """Returns how far the sinks are; cheap enough to be asked every step."""
        sinks = tuple(thread.status() for thread in self._threads)
        return FanOutStatus(
            coalesced=self._coalesced,
            lost=self._lost,
            refused=self._unusable + sum(sink.num_refused for sink in sinks),
            lag_s=max((sink.lag_s for sink in sinks), default=0.0),
            sinks=sinks,
            journal_error=self._journal_error,
        )

    def close(self, timeout_s: float = 10) -> None:
        """Gives the sinks until the timeout to take everything, then lets go; the rest stays in the
        journal.

        A sink that hangs is left to hang in its daemon thread.
        """
        if self._is_closed:
            return
        until = time.monotonic() + timeout_s
        self.flush(timeout_s)
        self._is_closed = True
        self._stop.set()
        self._writer.join(max(0.1, until - time.monotonic()))
        for thread in self._threads:
            thread.stop()
        for thread in self._threads:
            thread.join(max(0.1, until - time.monotonic()))
        with self._journal_lock:
            self._tidy()
            self._journal.close(self._taken())

    def _look_up(self, name: str) -> bool | None:
        is_lossless: bool | None = None
        try:
            is_lossless = signal_spec(name).is_lossless
        except MoescopeError as error:
            # no store could take it, and it must not end a run
            _log.error("%s: it is not recorded", error)
        self._is_lossless[name] = is_lossless
        return is_lossless

    def _write_on(self) -> None:
        wait_s = _FLUSH_EVERY_S
        while not self._stop.wait(wait_s):
            with self._journal_lock:
                self._take_queue()
                unsafe = self._write_out()
                is_failing = bool(self._unwritten)
                self._tidy()
            is_failing = not self._make_safe(unsafe) or is_failing
            wait_s = min(2.0, wait_s * 2) if is_failing else _FLUSH_EVERY_S
            self._wake_sinks()

    def _take_queue(self) -> None:
        """Packs what was recorded. Held by the journal lock."""
        now_s = self._clock()
        while self._queue:
            frame, size = self._queue.popleft()
            entry = pack_entry(encode_frame(frame, frame.values), now_s)
            self._unwritten.append(_Packed(entry, size, False))

    def _write_out(self) -> _Unsafe | None:
        """Appends what is packed to the journal; what the disk does not take stays. Returns what
        must yet be fsynced. Held by the journal lock.
        """
        everything = list(self._unwritten)
        if self._append(everything):
            self._unwritten.clear()
            return self._unsafe(everything)
        # the disk may still have room for an alert where it has none for a thousand frames
        urgent = [entry for entry in self._unwritten if entry.is_urgent]
        if len(urgent) < len(self._unwritten) and self._append(urgent):
            self._unwritten = deque(entry for entry in self._unwritten if not entry.is_urgent)
            return self._unsafe(urgent)
        return None

    def _append(self, entries: list[_Packed]) -> bool:
        if not entries:
            return True
        try:
            self._journal.append([entry.packed for entry in entries])
        except OSError as error:
            self._failed(error)
            return False
        self._journal_error = ""
        with self._record_lock:
            self._bytes_out += sum(entry.size for entry in entries)
        return True

    def _unsafe(self, entries: list[_Packed]) -> _Unsafe | None:
        urgent = [entry for entry in entries if entry.is_urgent]
        return _Unsafe(urgent, self._journal.sync_later()) if urgent else None

    def _make_safe(self, unsafe: _Unsafe | None) -> bool:
        """Fsyncs, without the journal's lock: on a slow disk the samples go on to the journal
        meanwhile. Where the disk fails, the records wait in memory again, and it is False.
        """
        if unsafe is None:
            return True
        try:
            unsafe.sync()
        except OSError as error:
            with self._journal_lock:
                self._failed(error)
                self._journal.start_anew()
                with self._record_lock:
                    self._bytes_in += sum(entry.size for entry in unsafe.entries)
                self._unwritten.extendleft(reversed(unsafe.entries))
            return False
        return True

    def _failed(self, error: OSError) -> None:
        if not self._journal_error:
            _log.warning("the journal in %s cannot be written: %s", self._journal.folder, error)
        self._journal_error = str(error)

    def _tidy(self) -> None:
        """Deletes what every sink has taken, measures the journal, keeps the counts. Held by the
        journal lock.
        """
        try:
            self._journal.forget_before(self._taken())
            self._is_over_quota = self._journal.num_bytes() > self._quota_bytes
            counts = {"coalesced": self._coalesced, "lost": self._lost}
            for name in [name for name in counts if counts[name] != self._kept[name]]:
                (self._journal.folder / name).write_text(str(counts[name]))
                self._kept[name] = counts[name]
        except OSError as error:
            self._journal_error = str(error)

    def _taken(self) -> Position:
        return min((thread.position for thread in self._threads), default=self._journal.end)

    def _wake_sinks(self) -> None:
        for thread in self._threads:
            thread.wake()


def _steady_clock() -> Callable[[], float]:
    """The wall clock of now, going on steadily: setting it back or forward makes no lag."""
    shift_s = time.time() - time.monotonic()
    return lambda: shift_s + time.monotonic()


def _read_number(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0
