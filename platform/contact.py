"""A trainer's line to the store: heartbeat, lease and commands, in a side thread, so that a store
that is away delays a command but never a step.

Thread rules: every method may be called from the training thread; none of them waits for the store,
except `close`.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Literal

from . import leases
from .commands import answer, commands, take
from .engines import StoreAway
from .errors import MoescopeError
from .records import Command, Mode, RunStatus
from .store import Store
from .store_door import StoreDoor

BEAT_EVERY_S = 1.0
LEASE_S = 10.0
_UNFINISHED = "the trainer ended before it carried this out: ask again"

_log = logging.getLogger(__name__)


def run_lease(run_id: str) -> str:
    """Name of the lease that the one process which trains a run holds."""
    return f"run:{run_id}"


class Contact:
    """Beats once a second, fetches what was asked, and delivers answers and changes of the run,
    later if need be.
    """

    def __init__(
        self,
        store_url: str,
        run_id: str,
        holder: str,
        *,
        beat_every_s: float = BEAT_EVERY_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """holder: who holds the run's lease; the caller has claimed it."""
        self._run_id = run_id
        self._holder = holder
        self._beat_every_s = beat_every_s
        self._clock = clock
        self._door = StoreDoor(store_url)
        self._asked: deque[Command] = deque()
        self._to_do: deque[Callable[[Store], None]] = deque()
        self._is_away = False
        self._is_first = True
        self._replaced_by = ""
        self._wake = threading.Event()
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="contact", daemon=True)
        self._thread.start()

    @property
    def is_store_away(self) -> bool:
        """Whether the last attempt to reach the store failed."""
        return self._is_away

    @property
    def replaced_by(self) -> str:
        """Who took the run's lease away, after this process could not beat for longer than the
        lease; usually empty.
        """
        return self._replaced_by

    def commands(self) -> list[Command]:
        """Returns what was asked since the last call, already marked as taken."""
        found: list[Command] = []
        while self._asked:
            found.append(self._asked.popleft())
        return found

    def answer(self, command: Command, state: Literal["done", "refused"], text: str) -> None:
        """Tells who asked; queued, and tried again until the store has it."""
        now_s = self._clock()
        self._do(lambda store: answer(store, command.id, state, text, now_s))

    def set_status(self, status: RunStatus, **fields: Any) -> None:
        """Changes the run's status and other fields (`mode`, `finished_s`); queued likewise."""
        self._do(lambda store: store.update_run(self._run_id, status=status, **fields))

    def set_mode(self, mode: Mode) -> None:
        """Changes the run's mode of automatic action; queued likewise."""
        self._do(lambda store: store.update_run(self._run_id, mode=mode))

    def close(self, timeout_s: float = 5.0) -> bool:
        """Delivers what is queued and stops beating; False where the store did not take everything
        in time.
        """
        self._is_closing = True
        self._wake.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive() and not self._to_do

    def _do(self, change: Callable[[Store], None]) -> None:
        self._to_do.append(change)
        self._wake.set()

    def _run(self) -> None:
        next_beat_s = 0.0
        while True:
            is_last = self._is_closing
            self._wake.clear()
            is_due = time.monotonic() >= next_beat_s
            try:
                store = self._door.enter()
                if is_due and not is_last:
                    next_beat_s = time.monotonic() + self._beat_every_s
                    self._beat(store)
                self._deliver(store)
                self._is_away = False
            except Exception as error:  # whatever the store does, the thread goes on
                if not self._is_away:
                    _log.warning("no contact with the store: %s", error)
                self._is_away = True
                next_beat_s = time.monotonic() + self._beat_every_s
            if is_last:
                self._shut()
                return
            if self._is_away:
                time.sleep(
                    0.05
                )  # what is queued wakes at once; a store that refuses must not be hammered
            self._wake.wait(max(0.0, next_beat_s - time.monotonic()))

    def _beat(self, store: Store) -> None:
        now_s = self._clock()
        store.update_run(self._run_id, heartbeat_s=now_s)
        name = run_lease(self._run_id)
        if leases.beat(store, name, self._holder, now_s, LEASE_S):
            self._replaced_by = ""
        else:
            # whoever has it now took it for good: by a clock that was set it may look over
            other = leases.find(store, name)
            if other is None:
                leases.claim(store, name, self._holder, now_s, LEASE_S)
            self._replaced_by = "" if other is None else other.holder
        if self._is_first:
            # an earlier process of this run took these and died
            for command in commands(store, self._run_id):
                if command.state == "taken":
                    answer(store, command.id, "refused", _UNFINISHED, now_s)
            self._is_first = False
        if not self._replaced_by:
            self._asked.extend(take(store, self._run_id))

    def _deliver(self, store: Store) -> None:
        while self._to_do:
            change = self._to_do[0]
            try:
                change(store)
            except StoreAway:
                raise
            except (MoescopeError, ValueError, TypeError) as error:
                # its run or command was deleted, or the change itself is wrong: trying again would
                # not help
                _log.error("the store refuses a change of run %s: %s", self._run_id, error)
            self._to_do.popleft()

    def _shut(self) -> None:
        try:
            self._door.shut()
        except MoescopeError as error:
            _log.warning("the store did not close well: %s", error)
