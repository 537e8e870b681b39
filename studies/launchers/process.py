"""A trainer as a process of this machine, in a place with cores, GPUs and memory of its own."""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import psutil

TAIL_BYTES = 4000
_GIB = 2**30


@dataclass(frozen=True, slots=True)
class Place:
    """What a trial may take of a machine."""

    cores: tuple[int, ...] = ()
    """Empty: any."""
    gpus: tuple[str, ...] | None = None
    """Names as CUDA_VISIBLE_DEVICES has them; None: as they are."""
    memory_gib: float = 0.0
    """0: any."""


class LocalProcess:
    """A trainer as a process group of its own; what it says goes into a file."""

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        place: Place,
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """environment: variables added to those of this process."""
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        cores = place.cores
        added = {**environment}
        added |= {"OMP_NUM_THREADS": str(len(cores))} if cores else {}
        if place.gpus is not None:
            added["CUDA_VISIBLE_DEVICES"] = ",".join(place.gpus)
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                command,
                # passed on whole, not read
                env={**os.environ, **added},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        if cores and hasattr(os, "sched_setaffinity"):
            with suppress(ProcessLookupError):
                os.sched_setaffinity(self._process.pid, cores)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    @property
    def memory_gib(self) -> float:
        """What it and those that it has started hold, pages that they share counted once where the
        system tells; 0 where it has ended."""
        try:
            first = psutil.Process(self._process.pid)
            return sum(_held(one) for one in (first, *first.children(recursive=True))) / _GIB
        except psutil.Error:
            return 0.0

    def stop(self, patience_s: float = 20.0) -> None:
        """Asks it to save and end; ends it, and whatever it has started, where it does not."""
        self._signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(patience_s)
        self._signal(signal.SIGKILL)
        self._process.wait()

    def tail(self) -> str:
        """Returns the end of what it said."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, self.log.stat().st_size - TAIL_BYTES))
                return file.read().decode(errors="replace")
        except OSError:
            return ""

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)


def _held(process: psutil.Process) -> float:
    try:
        told = process.memory_full_info()
        return float(getattr(told, "pss", told.rss))
    except psutil.Error:
        return 0.0
