"""Workers as processes of this machine, one in each of its slots.

A slot is this machine's and not a study's: whoever works in it holds a lease, so that two studies,
or two launchers of one, share the machine. A worker outlives a launcher that is killed.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import psutil

from ...platform import leases
from ...platform.errors import MoescopeError
from ...platform.settings import Settings
from ...platform.store import Store
from ..spec import Launch
from .process import Place

_STOP_S = 40.0
"""A trainer has 20 s to save; its worker then gives the trial back."""
_GIB = 2**30
FIRST_PAUSE_S, MOST_PAUSE_S = 2.0, 60.0
"""After a worker that ended at once, twice as long each time."""
AT_ONCE_S = 5.0


def place_leases(number: int, place: Place, *, are_cores_own: bool) -> list[str]:
    """Names of the leases that the worker in a slot of this machine holds: of the slot, of its
    GPUs, and of its cores where they are nobody else's."""
    host = socket.gethostname()
    own = [f"slot {host} {number}", *(f"gpu {host} {gpu}" for gpu in place.gpus or ())]
    return own + [f"core {host} {core}" for core in place.cores if are_cores_own]


class LocalLauncher:
    """Starts workers and, where it is stopped in time, ends those that it has started."""

    def __init__(
        self, store: Store, settings: Settings, study: str, launch: Launch, log: Path | None
    ) -> None:
        """log: where workers say what they do; None: where this process does.

        Raises MoescopeError where this machine has fewer cores, GPUs or less memory than asked for.
        """
        self._store = store
        self._settings = settings
        self._study = study
        self._launch = launch
        self._log = log
        self._workers: dict[int, tuple[subprocess.Popen[bytes], float]] = {}
        self._pause_s, self._not_before_s = FIRST_PAUSE_S, 0.0
        self._places = places(launch, sorted(os.sched_getaffinity(0)), _gpus(), _memory_gib())

    def look(self, num_wanted: int) -> list[str]:
        now_s = time.time()
        told = self._bury(now_s)
        holders = [self._holder(number, now_s) for number in range(len(self._places))]
        ours = sum(holder.endswith(f":{self._study}") for holder in holders)
        missing = min(num_wanted, len(self._places)) - ours
        for number, holder in enumerate(holders):
            if missing > 0 and not holder and now_s >= self._not_before_s:
                self._start(number, now_s)
                missing -= 1
        return told

    @property
    def is_idle(self) -> bool:
        return not self._workers

    def stop(self) -> None:
        for worker, _ in self._workers.values():
            with suppress(ProcessLookupError):
                worker.terminate()
        until_s = time.monotonic() + _STOP_S
        for worker, _ in self._workers.values():
            with suppress(subprocess.TimeoutExpired):
                worker.wait(max(0.1, until_s - time.monotonic()))
            if worker.poll() is None:
                worker.kill()
                worker.wait()
        self._workers.clear()

    def _holder(self, number: int, now_s: float) -> str:
        """Who works in a place or has a part of it; the last word is the study. Empty: nobody."""
        if number in self._workers:
            return f":{self._study}"
        own = self._launch.cores > 0
        for lease in place_leases(number, self._places[number], are_cores_own=own):
            holder = leases.holder(self._store, lease, now_s)
            if holder is not None:
                return holder
        return ""

    def _start(self, number: int, now_s: float) -> None:
        place = self._places[number]
        command = [sys.executable, "-m", "moescope.studies", "work", self._study]
        command += ["--home", str(self._settings.home_path)]
        command += ["--own-cores"] if self._launch.cores else []
        command += ["--slot", str(number), "--memory-gib", f"{place.memory_gib:g}"]
        command += ["--cores", ",".join(map(str, place.cores))]
        if place.gpus is not None:
            command += ["--gpus", ",".join(place.gpus)]
        with _opened(self._log) as out:
            worker = subprocess.Popen(
                command,
                # passed on whole, not read; the store's address may hold a password
                env={**os.environ, "MOESCOPE_STORE": self._store.url},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT if out is not None else None,
                # a Ctrl-C is for the launcher, which then asks its workers
                start_new_session=True,
            )
        self._workers[number] = (worker, now_s)

    def _bury(self, now_s: float) -> list[str]:
        told = []
        for number, (worker, started_s) in list(self._workers.items()):
            code = worker.poll()
            if code is None:
                continue
            del self._workers[number]
            if code == 0:
                self._pause_s = FIRST_PAUSE_S
                continue
            where = f": see {self._log}" if self._log else ""
            told.append(f"worker in slot {number} ended with code {code}{where}")
            if now_s - started_s < AT_ONCE_S:
                self._not_before_s = now_s + self._pause_s
                self._pause_s = min(MOST_PAUSE_S, 2 * self._pause_s)
        return told


def places(
    launch: Launch, cores: Sequence[int], gpus: Sequence[str], memory_gib: float
) -> list[Place]:
    """Shares this machine out: a place per slot.

    cores, gpus, memory_gib: what there is. Raises MoescopeError where it is not enough.
    """
    n = launch.slots
    for what, asked, there in (
        ("cores", launch.cores, len(cores)),
        ("gpus", launch.gpus, len(gpus)),
        ("memory_gib", launch.memory_gib, memory_gib),
    ):
        if asked * n > there:
            raise MoescopeError(
                f"launch asks for {n} slots of {asked:g} {what}, but this machine has "
                f"{there:.4g}: take fewer slots, or less for each"
            )
    # more slots than cores: they share all of them
    share = launch.cores or (len(cores) // n)
    return [
        Place(
            tuple(cores[i * share : (i + 1) * share]),
            tuple(gpus[i * launch.gpus : (i + 1) * launch.gpus]) if launch.gpus else None,
            launch.memory_gib,
        )
        for i in range(n)
    ]


def _gpus() -> list[str]:
    """Names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES has them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")  # CUDA's own, no setting of ours
    if visible is not None:
        return [name for name in visible.split(",") if name.strip() not in ("", "-1")]
    try:
        import pynvml

        pynvml.nvmlInit()
        return [str(number) for number in range(pynvml.nvmlDeviceGetCount())]
    except Exception:  # no driver, or a broken installation: there is no GPU to give
        return []


def _memory_gib() -> float:
    return float(psutil.virtual_memory().total / _GIB)


@contextmanager
def _opened(log: Path | None) -> Iterator[IO[bytes] | None]:
    if log is None:
        yield None
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        yield file
