"""What the first of several processes that train together says to the others.

It lies in the store by which torch.distributed meets (key and value, on the host), under the number
of the call: it goes one way, so that nobody needs a collective, a group of its own or the device.
"""

import itertools
import json
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
from torch.distributed.distributed_c10d import PrefixStore, _get_default_store

from ...platform.errors import MoescopeError

MEET_S = 120.0
"""Most that processes wait for each other's `watch()`."""
TOLD_AFTER_S = 60.0
KEPT_WORDS = 1000
"""Older ones are deleted: processes that train together are never so far apart."""
_LONGEST_NAP_S = 0.005
_numbers = itertools.count()


class Line:
    """Of one call of `watch()`, which each process makes at the same place of its script."""

    def __init__(self, rank: int, num_ranks: int) -> None:
        self.rank, self.num_ranks = rank, num_ranks
        self._store = PrefixStore(f"moescope/watch/{next(_numbers)}", _get_default_store())
        self._next: dict[str, int] = {}

    def say(self, what: str, word: Any) -> None:
        """In the first process: tells the others its next word of a kind."""
        number = self._number(what)
        self._store.set(f"{what}/{number}", json.dumps(word))
        if number >= KEPT_WORDS:
            self._store.delete_key(f"{what}/{number - KEPT_WORDS}")

    def hear(self, what: str, tell: Callable[[str], None]) -> Any:
        """In another process: waits for the next word of a kind and returns it; None where the
        first one has finished without a word."""
        key = f"{what}/{self._number(what)}"
        is_there = self._wait(key, "over", tell)
        return json.loads(self._store.get(key)) if is_there else None

    def end(self) -> None:
        """In the first process: no more is said."""
        self._store.set("over", "")

    def meet(self) -> None:
        """Raises MoescopeError where one of the processes does not come."""
        self._store.set(f"here/{self.rank}", "")
        for rank in range(self.num_ranks):
            try:
                self._store.wait([f"here/{rank}"], timedelta(seconds=MEET_S))
            except torch.distributed.DistStoreError:
                raise MoescopeError(
                    f"watch() was called in process {self.rank} of {self.num_ranks}, but not in "
                    f"process {rank} within {MEET_S:.0f} s: call it in each of them"
                ) from None

    def _number(self, what: str) -> int:
        number = self._next.get(what, 0)
        self._next[what] = number + 1
        return number

    def _wait(self, key: str, end: str, tell: Callable[[str], None]) -> bool:
        # no blocking wait: it would hold the connection that backends beat by
        start_s, nap_s, is_told = time.monotonic(), 0.0001, False
        while not self._store.check([key]):
            if self._store.check([end]):
                # what was said before the end is there by now
                return bool(self._store.check([key]))
            if not is_told and time.monotonic() - start_s > TOLD_AFTER_S:
                is_told = True
                tell(
                    f"process {self.rank} waits for process 0 (is it paused, or does not each "
                    "process call run.guard and run.step alike?)"
                )
            time.sleep(nap_s)
            nap_s = min(2 * nap_s, _LONGEST_NAP_S)
        return True
