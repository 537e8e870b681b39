"""Processes that the service starts, watches, restarts and stops, each by its own id."""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from .announcement import is_alive

_MOST_RESTARTS = 5
_PATIENCE_S = 8.0


class Child:
    """One process with a process group and a log file of its own.

    The group keeps a Ctrl-C meant for the service from reaching the child first, and takes
    grandchildren (MLflow's workers) along when it is stopped.
    """

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path
    ) -> None:
        """environment: variables added to those of this process."""
        self.name = name
        self.log = log
        self._command = list(command)
        self._environment = dict(environment)
        self._process: subprocess.Popen[bytes] | None = None
        self.num_restarts = 0

    def start(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                # passed on whole, not read
                env={**os.environ, **self._environment},
                cwd=self.log.parent,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return None if self._process is None else self._process.poll()

    def identity(self) -> tuple[int, float] | None:
        """Returns (pid, started), which names one process for good; None if it has ended."""
        if self._process is None or self._process.poll() is not None:
            return None
        try:
            return self._process.pid, psutil.Process(self._process.pid).create_time()
        except psutil.Error:
            return None

    def restart_if_ended(self) -> bool:
        """Starts it again after it has ended by itself, a bounded number of times; True if it was
        started.
        """
        if self.exit_code is None or self.num_restarts >= _MOST_RESTARTS:
            return False
        self.num_restarts += 1
        self.start()
        return True

    def last_line(self) -> str:
        """Returns the last line of its log that says something."""
        try:
            lines = self.log.read_text(errors="replace").splitlines()
        except OSError:
            return ""
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def ask_to_end(self) -> None:
        """Lets several children end side by side, before `stop` waits for each."""
        if self._process is not None:
            _signal_group(self._process.pid, signal.SIGTERM)

    def stop(self) -> None:
        """Asks it to end, and ends it if it does not within seconds."""
        if self._process is None:
            return
        self.ask_to_end()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_PATIENCE_S)
        # grandchildren may outlive it
        _signal_group(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None


def end_orphans(children: Sequence[tuple[int, float]]) -> list[int]:
    """Ends children (pid, started) of a service that was killed before it could; returns their
    pids.

    Only a process that started when the killed service said so is touched: its number may belong to
    another one by now.
    """
    living = [(pid, started_s) for pid, started_s in children if is_alive(pid, started_s)]
    for pid, _ in living:
        _signal_group(pid, signal.SIGTERM)
    until_s = time.monotonic() + _PATIENCE_S
    while time.monotonic() < until_s and any(is_alive(*child) for child in living):
        time.sleep(0.05)
    for pid, started_s in living:
        if is_alive(pid, started_s):
            _signal_group(pid, signal.SIGKILL)
    return [pid for pid, _ in living]


def _signal_group(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)
