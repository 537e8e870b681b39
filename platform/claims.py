"""Who trains a run: ids of new ones, and one process at a time."""

import hashlib
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from secrets import token_hex

from . import leases
from .contact import LEASE_S, run_lease
from .errors import MoescopeError
from .records import Run
from .store import Store


def new_run_id() -> str:
    """Returns an id that sorts by time, as `20260131-140509-3fa2c1`."""
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{token_hex(3)}"


def claim(store: Store, run: Run) -> str:
    """Makes this process the only one that trains the run; returns the holder's name for its
    heartbeats.

    Raises MoescopeError while another process does. A process of this machine that is gone is
    known to be.
    """
    host = socket.gethostname()
    holder = f"{host}:{os.getpid()}:{token_hex(3)}"
    name, now_s = run_lease(run.id), time.time()
    if leases.claim(store, name, holder, now_s, LEASE_S):
        return holder
    other = leases.holder(store, name, now_s) or ""
    other_host, _, rest = other.partition(":")
    pid = rest.partition(":")[0]
    if other_host == host and pid.isdigit() and not _is_alive(int(pid)):
        leases.release(store, name, other)
        if leases.claim(store, name, holder, now_s, LEASE_S):
            return holder
    raise MoescopeError(
        f"run {run.name} is still alive (process {pid} on {other_host} trains it): stop it first, "
        f"or wait {LEASE_S:.0f} s if that machine is gone"
    )


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
    return f"`moescope train --resume {run.name}` goes on from its last checkpoint"


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
