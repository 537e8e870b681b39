"""The flight recorder: the last few hundred steps in host memory, written out at an alert.

It is part of what must remember: a rollback does not touch it, so that the branch that was
abandoned stays in it. A process that is killed loses what no alert has written out.
"""

from collections import deque

from ...platform.records import Alert
from .record import Entry, FlightRecord


class FlightRecorder:
    """Keeps steps as they come, the oldest making room: at most so many, in so many bytes."""

    def __init__(self, num_steps: int, most_bytes: int) -> None:
        """num_steps: 0 keeps nothing."""
        self._entries: deque[Entry] = deque()
        self._num_steps = num_steps
        self._most_bytes = most_bytes
        self.num_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def note(self, entry: Entry) -> None:
        """Takes a step. Its arrays must not be written to afterwards: they are not copied."""
        self._entries.append(entry)
        self.num_bytes += entry.num_bytes
        while self._entries and (
            len(self._entries) > self._num_steps or self.num_bytes > self._most_bytes
        ):
            self.num_bytes -= self._entries.popleft().num_bytes

    def record(self, alert: Alert) -> FlightRecord:
        return FlightRecord(alert, tuple(self._entries))

    def told(self) -> str:
        """What it takes, said beforehand."""
        if not self._num_steps:
            return "flight recorder off (watch.recorder_steps is 0): alerts have no record"
        return (
            f"flight recorder keeps the last {self._num_steps} steps, in at most "
            f"{self._most_bytes / 2**20:.0f} MiB of host memory"
        )
