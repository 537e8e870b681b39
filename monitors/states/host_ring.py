"""Recent states in host memory, so that going back takes about as long as a step."""

import threading
from collections.abc import Mapping
from typing import Any

from ...platform.errors import MoescopeError
from .checkpoint import blank, copied

ON_THEIR_WAY = 2
"""States that have left the ring and are not on the disk yet: one is being written, one waits."""


class HostRing:
    """Copies of the newest states, oldest out first; what `keep` names stays as long as the ring
    has room for two.

    Called from the training thread only. The memory of a state that leaves is used again for the
    next one: a copy into memory that was never touched takes several times as long.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._states: dict[int, dict[str, Any]] = {}
        self._spare: list[dict[str, Any]] = []
        self._lent: set[int] = set()

    @staticmethod
    def planned_capacity(
        each: int, wanted: int, limit_bytes: int, free_bytes: int
    ) -> tuple[int, str]:
        """Returns how many states of `each` bytes fit, and the line that says so.

        The ring takes at most `limit_bytes`; with what is on its way to the disk it takes at most
        half of the free memory.
        """
        capacity = min(wanted, limit_bytes // each, free_bytes // 2 // each - ON_THEIR_WAY)
        gib = each / 2**30
        size = (
            f"{each / 2**20:.0f} MiB each, {capacity * gib:.2f} GiB in all, and up to "
            f"{ON_THEIR_WAY * gib:.2f} GiB more while states are written to disk"
        )
        if capacity < 2:
            return (
                0,
                f"host ring is off: two states of {each / 2**20:.0f} MiB do not fit",
            )
        shrunk = "" if capacity == wanted else f" (shrunk from {wanted} to fit)"
        return capacity, f"host ring holds {capacity} states{shrunk}, {size}"

    def prepare(self, state: Mapping[str, Any]) -> threading.Thread:
        """Touches the memory of all states to come in a thread, which is returned, so that the
        first copies take no longer than later ones. state: what will be copied; only its shapes
        are looked at."""

        def touch() -> None:
            while len(self._states) + len(self._spare) < self.capacity:
                self._spare.append(blank(state))

        thread = threading.Thread(target=touch, name="host ring", daemon=True)
        thread.start()
        return thread

    def put(self, step: int, state: Mapping[str, Any], keep: frozenset[int] = frozenset()) -> None:
        """Copies a state in; the oldest that is not in `keep` makes room."""
        if not self.capacity:
            return
        self._retire(step)
        while len(self._states) >= self.capacity:
            loose = [s for s in self._states if s not in keep] or list(self._states)
            self._retire(min(loose))
        into = self._spare.pop() if self._spare else None
        self._states[step] = copied(state, into)

    def state(self, step: int) -> dict[str, Any]:
        """Returns the state itself: the caller reads it before the next `put`. Raises
        MoescopeError if it is not held."""
        if step not in self._states:
            raise MoescopeError(
                f"step {step} is not in the host ring (held: {sorted(self._states)})"
            )
        return self._states[step]

    def lend(self, step: int) -> dict[str, Any]:
        """Returns a state for another thread to read; its memory is not used again, even if it
        leaves the ring."""
        self._lent.add(step)
        return self.state(step)

    def steps(self) -> list[int]:
        return sorted(self._states)

    def drop_after(self, step: int) -> None:
        """Forgets the states of a branch that was abandoned at `step`."""
        for held in [s for s in self._states if s > step]:
            self._retire(held)

    def _retire(self, step: int) -> None:
        state = self._states.pop(step, None)
        if step in self._lent:
            self._lent.discard(step)
        elif state is not None and not self._spare:
            self._spare.append(state)
