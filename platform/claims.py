"""Who trains a run: ids of new ones, and one process at a time."""

import hashlib
import logging
import os
import shlex
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex

import psutil

from . import leases
from .contact import BEAT_EVERY_S, LEASE_S, run_lease
from .errors import MoescopeError
from .records import Run
from .store import Store

_LOOK_EVERY_S = 0.25
_SILENT_S = 4 * BEAT_EVERY_S
"""A holder that does not beat for so long does not live, or its store is away: then its lease says
until when it is waited for.
"""

_log = logging.getLogger(__name__)


def new_run_id() -> str:
    """Returns an id that sorts by time, as `20260131-140509-3fa2c1`."""
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{token_hex(3)}"


def claim(
    store: Store,
    run: Run,
    *,
    clock: Callable[[], float] = time.time,
    wait: Callable[[float], None] = time.sleep,
) -> str:
    """Makes this process the only one that trains the run; returns the holder's name for its
    heartbeats.

    A holder of this machine that is gone is known to be. Of any other nothing is believed but that
    it beats, whatever the clocks of the two machines say: within `_SILENT_S` one that lives is seen
    to, and of one that does not the lease is taken when it is over, `LEASE_S` later at most. Raises
    MoescopeError while another process trains it.
    """
    host = socket.gethostname()
    holder = f"{host}:{os.getpid()}:{_place()}-{token_hex(3)}"
    name, waited_s = run_lease(run.id), 0.0
    seen = leases.find(store, name)
    while seen is not None:
        now_s = clock()
        if _is_gone(seen.holder):
            if leases.take_over(store, name, seen, holder, now_s, LEASE_S):
                return holder
        elif _is_here(seen.holder) and 0.0 < seen.until_s - now_s <= LEASE_S:
            raise _alive(run, seen.holder)
        elif waited_s >= max(_SILENT_S, min(LEASE_S, seen.until_s - now_s + waited_s)):
            if leases.take_over(store, name, seen, holder, now_s, LEASE_S):
                return holder
        else:
            if not waited_s:
                _log.warning("looking whether %s still trains run %s", seen.holder, run.name)
            wait(_LOOK_EVERY_S)
            waited_s += _LOOK_EVERY_S
        found = leases.find(store, name)
        if found is not None and found != seen:
            raise _alive(run, found.holder)
        seen = found
    if leases.claim(store, name, holder, clock(), LEASE_S):
        return holder
    found = leases.find(store, name)
    raise _alive(run, found.holder if found else holder)


def let_go(store: Store, run_id: str, holder: str) -> None:
    """Gives the run's lease back; where the store is away it ends by itself."""
    try:
        leases.release(store, run_lease(run_id), holder)
    except MoescopeError as away:
        _log.warning("run %s stays claimed for %.0f s: %s", run_id, LEASE_S, away)


def _alive(run: Run, holder: str) -> MoescopeError:
    host, pid, _ = _parts(holder)
    return MoescopeError(
        f"run {run.name} is still alive (process {pid} on {host} trains it): stop it first"
    )


def _parts(holder: str) -> tuple[str, str, str]:
    host, _, rest = holder.partition(":")
    pid, _, rest = rest.partition(":")
    return host, pid, rest.partition("-")[0]


def _place() -> str:
    """Where a process id means something: this boot of this machine, and in it this container.
    Containers may well share a host's name.
    """
    words = [socket.gethostname()]
    with suppress(OSError):  # not Linux: then a host's name must do
        words.append(Path("/proc/sys/kernel/random/boot_id").read_text())
        words.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.blake2b(" ".join(words).encode(), digest_size=4).hexdigest()


def _is_here(holder: str) -> bool:
    return _parts(holder)[2] == _place()


def _is_gone(holder: str) -> bool:
    """Whether the holder was a process of this place, which is no more."""
    pid = _parts(holder)[1]
    if not (_is_here(holder) and pid.isdigit()):
        return False
    try:
        # dead, though its parent has not asked how it ended
        return bool(psutil.Process(int(pid)).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False


@contextmanager
def beginning(store: Store, name: str) -> Iterator[None]:
    """While a run of that name is looked for and entered, nobody else does the same: of two that
    start at once one begins it.

    Raises MoescopeError while another process does. An empty name is nobody's.
    """
    if not name:
        yield
        return
    holder, lease = token_hex(8), f"name:{hashlib.blake2b(name.encode()).hexdigest()[:32]}"
    if not leases.claim(store, lease, holder, time.time(), LEASE_S):
        raise MoescopeError(
            f"another process begins or resumes a run called {name} at this moment: use another "
            "name, or start this one when that one has ended"
        )
    try:
        yield
    finally:
        leases.release(store, lease, holder)


def how_to_go_on(run: Run) -> str:
    """Says how a run that ended or died is started again."""
    if "watched" in run.config:
        return "its own script goes on with it, by moescope.watch(..., resume=True)"
    return f"`moescope train --resume {shlex.quote(run.name)}` goes on from its last checkpoint"
