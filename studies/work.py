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
from .launchers.local import place_leases
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
    *,
    are_cores_own: bool = False,
) -> None:
    """Works in a slot of this machine until none of the study's trials may run, SIGTERM or Ctrl-C;
    does nothing where somebody else works in it, or has one of its GPUs, or of its cores where they
    are its own."""
    holder = f"{socket.gethostname()}:{os.getpid()}:{token_hex(3)}:{study}"
    names = place_leases(number, place, are_cores_own=are_cores_own)
    stop, is_over = threading.Event(), threading.Event()
    try:
        if not all(leases.claim(store, name, holder, time.time(), SLOT_LEASE_S) for name in names):
            return
        beating = threading.Thread(target=_beat, args=(store, names, holder, is_over), daemon=True)
        beating.start()
        try:
            with set_by_signals(stop):
                Worker(store, settings, study, place, say=say).work(stop)
        finally:
            is_over.set()
            beating.join()
    finally:
        for name in names:
            leases.release(store, name, holder)


def _beat(store: Store, names: list[str], holder: str, is_over: threading.Event) -> None:
    is_away = False
    while not is_over.wait(SLOT_BEAT_S):
        try:
            # claimed and not only prolonged: they may have run out while the store was away
            for name in names:
                leases.claim(store, name, holder, time.time(), SLOT_LEASE_S)
            is_away = False
        except MoescopeError as error:
            if not is_away:
                _log.warning("the slot's lease: %s", error)
            is_away = True


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
