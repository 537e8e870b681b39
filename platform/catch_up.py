"""Brings into the sinks what a run left in its journal when it ended while the store or MLflow was
away.
"""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import MoescopeError
from .journal import Journal, left_waiting, marks
from .sink_thread import SinkThread

if TYPE_CHECKING:
    from .sinks import Sink

_log = logging.getLogger(__name__)


def journals_left_behind(home: Path) -> list[Path]:
    """Returns the journal folders under a home that hold something a sink has not taken; those of
    living runs too.
    """
    return sorted(folder for folder in (home / "runs").glob("*/journal") if left_waiting(folder))


def catch_up(
    folder: Path,
    make_sink: Callable[[str], "Sink | None"],
    timeout_s: float,
    stop: threading.Event | None = None,
) -> bool:
    """Replays one journal to the sinks that lag behind in it; True if nothing is left.

    make_sink: gives the sink of a name, or None where it cannot be made now. A journal that a
    living process holds is left alone, and so are the places of sinks that were not made.
    """
    stop = stop or threading.Event()
    try:
        journal = Journal(folder)
    except MoescopeError:
        return False  # the run is alive: its own threads do this
    until_s = time.monotonic() + timeout_s
    waiting = left_waiting(folder)
    for name in marks(folder):
        if name not in waiting:
            journal.acknowledge(name, journal.end)
    sinks = [sink for name in waiting if (sink := make_sink(name)) is not None]
    threads = [SinkThread(sink, journal, time.time) for sink in sinks]
    for thread in threads:
        thread.start()
        thread.hurry(journal.end)
    while time.monotonic() < until_s and not stop.is_set():
        if all(thread.position >= journal.end for thread in threads):
            break
        time.sleep(0.05)
    for thread in threads:
        thread.stop()
    for thread in threads:
        thread.join(max(0.1, until_s - time.monotonic()))
    if any(thread.is_alive() for thread in threads):
        # it hangs inside a sink and may still acknowledge: the journal stays locked to this process
        return False
    taken = min(marks(folder).values(), default=journal.end)
    is_done = taken >= journal.end
    journal.close(taken)
    if is_done:
        _log.info("caught up with the journal in %s", folder)
    return is_done
