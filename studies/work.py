"""A worker's process: in a slot of this machine, or in a job of a cluster."""

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from secrets import token_hex

from ..platform import leases
from ..platform.errors import MoescopeError
from ..platform.settings import Settings
from ..platform.store import Store
from .launchers.local import slot_lease
from .launchers.process import Place
from .worker import Worker

SLOT_LEASE_S, SLOT_BEAT_S = 15.0, 3.0

_log = logging.getLogger(__name__)


def work_in_slot(
    store: Store,
    settings: Settings,
    study: str,
    number: int,
    place: Place,
    say: Callable[[str], None],
) -> None:
    """Works in a slot of this machine until none of the study's trials may run, SIGTERM or Ctrl-C;
    does nothing where somebody else works in it."""
    holder = f"{socket.gethostname()}:{os.getpid()}:{token_hex(3)}"
    lease = slot_lease(number)
    if not leases.claim(store, lease, holder, time.time(), SLOT_LEASE_S):
        return
    stop, is_over = threading.Event(), threading.Event()
    beating = threading.Thread(target=_beat, args=(store, lease, holder, is_over), daemon=True)
    beating.start()
    try:
        with set_by_signals(stop):
            Worker(store, settings, study, place, say=say).work(stop)
    finally:
        is_over.set()
        beating.join()
        leases.release(store, lease, holder)


def _beat(store: Store, lease: str, holder: str, is_over: threading.Event) -> None:
    while not is_over.wait(SLOT_BEAT_S):
        try:
            # claimed and not only prolonged: it may have run out while the store was away
            leases.claim(store, lease, holder, time.time(), SLOT_LEASE_S)
        except MoescopeError as error:
            _log.warning("the slot's lease: %s", error)


@contextmanager
def set_by_signals(stop: threading.Event) -> Iterator[None]:
    """SIGTERM and Ctrl-C set `stop`, inside."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
