"""The thread between the journal and one sink: reads, hands over, acknowledges, and tries again
after a failure.
"""

import base64
import json
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from .journal import NOWHERE, Entry, Journal, JournalReader, Position, waiting_bytes
from .record_codec import Record, decode

if TYPE_CHECKING:
    from .sinks import Sink

_MOST_AT_ONCE = 64
_IDLE_S = 0.5
_FIRST_WAIT_S = 0.25
_LONGEST_WAIT_S = 15.0
_HANGS_AFTER_S = 5.0
_TRIES_BEFORE_REFUSED = 3
# pause after a write, as a multiple of the processor's time that it took: catching up must not take
# the interpreter from the training thread, while a wait for the disk or a server takes nothing
_PAUSE_FACTOR = 3.0
_LONGEST_PAUSE_S = 0.5

_log = logging.getLogger(__name__)
_TakenElsewhere = Callable[[Path, Position, Position], Position | None]


class RecordRefused(Exception):
    """Raised by a sink that is well but cannot take this very record; after some tries it is set
    aside, not retried.
    """


@dataclass(frozen=True, slots=True)
class SinkStatus:
    name: str
    state: Literal["keeps up", "behind", "hangs", "fails"]
    backlog_bytes: int
    lag_s: float
    """Age of the oldest record that the sink has not taken."""
    num_refused: int
    """Records of this run that this sink never accepted; they lie in `refused-by-<name>.jsonl`
    beside the journal.
    """
    last_error: str


class SinkThread:
    """Feeds one sink from the journal. Its thread is a daemon: a sink that hangs cannot keep the
    process alive.
    """

    def __init__(self, sink: "Sink", journal: Journal, clock: Callable[[], float]) -> None:
        self._sink = sink
        self._journal = journal
        self._clock = clock
        self._reader = JournalReader(journal.folder, journal.acknowledged(sink.name))
        self._refused_file = journal.folder / f"refused-by-{sink.name}.jsonl"
        self._most = _MOST_AT_ONCE
        self._num_failures = 0
        self._num_refused = _num_lines(self._refused_file)
        self._last_error = ""
        self._oldest_s: float | None = None
        self._writing_since_s: float | None = None
        self._hurry_to = NOWHERE
        self._is_stopped = False
        # of a sink whose records somebody else may take: how far they have come, or None
        self._taken_elsewhere: _TakenElsewhere | None = getattr(sink, "taken_elsewhere", None)
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"sink {sink.name}", daemon=True)

    @property
    def position(self) -> Position:
        """Everything before it has been taken by the sink."""
        return self._reader.position

    def start(self) -> None:
        """Starts reading; from now on the journal keeps for this sink what it has not taken."""
        self._took(self._reader.position)
        self._thread.start()

    def wake(self) -> None:
        """There is something new to read."""
        self._wake.set()

    def hurry(self, to: Position) -> None:
        """No pauses until this position is reached."""
        self._hurry_to = max(to, self._hurry_to)
        self._wake.set()

    def stop(self) -> None:
        """Ends the thread after the write that it is in."""
        self._is_stopped = True
        self._wake.set()

    def join(self, timeout_s: float) -> None:
        self._thread.join(timeout_s)

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def status(self) -> SinkStatus:
        backlog_bytes = 0
        with suppress(OSError):  # a folder that vanished is told by the journal's own error
            backlog_bytes = waiting_bytes(self._journal.folder, self.position, self._journal.end)
        oldest_s, writing_since_s = self._oldest_s, self._writing_since_s
        lag_s = 0.0 if oldest_s is None else max(0.0, self._clock() - oldest_s)
        state: Literal["keeps up", "behind", "hangs", "fails"] = "keeps up"
        if writing_since_s is not None and time.monotonic() - writing_since_s > _HANGS_AFTER_S:
            state = "hangs"
        elif self._num_failures:
            state = "fails"
        elif lag_s > _HANGS_AFTER_S:
            state = "behind"
        return SinkStatus(
            self._sink.name, state, backlog_bytes, lag_s, self._num_refused, self._last_error
        )

    @property
    def _is_hurried(self) -> bool:
        return self._is_stopped or self._reader.position < self._hurry_to

    def _run(self) -> None:
        while not self._is_stopped:
            self._wake.clear()
            if self._follows():
                continue
            try:
                entries, after = self._reader.read(self._most, self._journal.end)
            except OSError as error:
                self._failed(error)
                continue
            if not entries:
                if after > self._reader.position:
                    self._took(after)
                self._wake.wait(_IDLE_S)
                continue
            self._oldest_s = entries[0].journaled_s
            start_s = time.thread_time()
            if self._hand_over(entries):
                self._took(after)
                self._rest(min(_LONGEST_PAUSE_S, _PAUSE_FACTOR * (time.thread_time() - start_s)))
        try:
            self._sink.close()
        except Exception:
            _log.exception("sink %s did not close well", self._sink.name)

    def _follows(self) -> bool:
        """Whether somebody else takes this sink's records now; its place then follows theirs. A
        hurried thread does not rely on it.
        """
        if self._taken_elsewhere is None or self._is_hurried:
            return False
        end = self._journal.end
        try:
            taken = self._taken_elsewhere(self._journal.folder, self._reader.position, end)
            if taken is None:
                return False
            if taken > self._reader.position:
                self._took(taken)
            waiting, _ = self._reader.read(1, end)
        except Exception as error:  # writing by itself, it will say what is wrong
            _log.debug("sink %s is not relieved: %s", self._sink.name, error)
            return False
        self._oldest_s = waiting[0].journaled_s if waiting else None
        self._num_failures = 0
        self._wake.wait(_IDLE_S)
        return True

    def _hand_over(self, entries: list[Entry]) -> bool:
        """Gives entries to the sink; True where they need not come again."""
        try:
            records: list[Record] = [decode(entry.payload) for entry in entries]
        except ValueError as error:
            return self._narrow_or_refuse(entries, error)
        self._writing_since_s = time.monotonic()
        try:
            self._sink.write(records)
        except RecordRefused as error:
            return self._narrow_or_refuse(entries, error)
        except Exception as error:  # whatever a sink does, its thread goes on
            self._failed(error)
            return False
        finally:
            self._writing_since_s = None
        if self._num_failures:
            _log.info("sink %s takes records again", self._sink.name)
        self._num_failures = 0
        self._last_error = ""
        self._most = min(_MOST_AT_ONCE, self._most * 2)
        return True

    def _narrow_or_refuse(self, entries: list[Entry], error: Exception) -> bool:
        if len(entries) > 1:
            self._most = 1
            return False
        self._failed(error)
        if self._num_failures < _TRIES_BEFORE_REFUSED:
            return False
        line = {"error": str(error), "record": base64.b64encode(entries[0].payload).decode()}
        try:
            with self._refused_file.open("a") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as disk_error:
            self._failed(disk_error)
            return False
        _log.error("sink %s refuses a record, set aside: %s", self._sink.name, error)
        self._num_refused += 1
        self._num_failures = 0
        return True

    def _failed(self, error: Exception) -> None:
        self._last_error = f"{type(error).__name__}: {error}".splitlines()[0]
        if not self._num_failures:
            _log.warning("sink %s fails: %s", self._sink.name, self._last_error)
        wait_s = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2.0 ** min(self._num_failures, 10))
        self._num_failures += 1
        self._rest(wait_s)

    def _took(self, after: Position) -> None:
        self._reader.position = after
        if after >= self._journal.end:
            self._oldest_s = None
        try:
            self._journal.acknowledge(self._sink.name, after)
        except OSError as error:
            # costs a replay after a restart, nothing else
            self._last_error = f"cannot keep its place in the journal: {error}"

    def _rest(self, wait_s: float) -> None:
        """Waits; a hurried thread waits a little only, so that a failing sink is not hammered."""
        until_s = time.monotonic() + wait_s
        least_s = time.monotonic() + min(wait_s, 0.05)
        while (now_s := time.monotonic()) < until_s:
            if self._is_hurried and now_s >= least_s:
                return
            time.sleep(min(0.05, until_s - now_s))


def _num_lines(path: Path) -> int:
    try:
        with path.open("rb") as file:
            return sum(1 for _ in file)
    except OSError:
        return 0
