"""Selective deadlock: layers in which the same few experts get everything, while others route on.

L MoE layers  E experts
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..expert_signals import leaders_share
from ..windows import Floats

MINORITY_SHARE = 0.1
"""A fifth of what the less busy half of the experts would have if all had the same."""
LEADERS_SHARE = 0.9
MOST_RECOVERED = 32


class Deadlock:
    """Says which layers are stuck, and since when.

    A layer looks stuck while, over `memory_steps`, the less busy half of its experts has less than
    a tenth of the tokens and the leaders (`leaders_share`) more than nine tenths. After `min_steps`
    such steps it is deadlocked; after as many without it has recovered. A step in which a layer did
    not run changes nothing. The half stands for the minority expert of the paper's pairs, whose
    health line is 10% where 50% is uniform; with many experts a converged router has unpopular
    ones, but not a whole half of them. Source: facts, health.md section 4, 10; model.md section 9
    (arXiv 2605.19378).
    """

    def __init__(self, memory_steps: int = 50, min_steps: int = 150) -> None:
        self._memory, self._min_steps = memory_steps, min_steps
        self.rebaseline()

    def rebaseline(self) -> None:
        self._tokens_LE: Floats = np.zeros((0, 0))
        self._num_seen_L, self._num_stuck_L, self._num_free_L = np.zeros((3, 0))
        self._is_stuck_L = np.zeros(0, np.bool_)
        self._since_L: NDArray[np.int64] = np.zeros(0, np.int64)
        self._recovered: list[list[int]] = []
        self.minority_L: Floats = np.zeros(0)

    def update(self, step: int, tokens_LE: NDArray[np.generic]) -> NDArray[np.bool_]:
        """Takes the counts of one step; returns is_deadlocked (L,)."""
        count = np.asarray(tokens_LE, dtype=np.float64)
        if self._tokens_LE.shape != count.shape:
            self.rebaseline()
            self._tokens_LE = np.zeros(count.shape)
            self._num_seen_L, self._num_stuck_L, self._num_free_L = np.zeros((3, len(count)))
            self._is_stuck_L = np.zeros(len(count), np.bool_)
            self._since_L = np.full(len(count), step)
        has_run_L = count.sum(axis=1) > 0
        moved_LE = self._tokens_LE * (1 - 1 / self._memory) + count
        self._tokens_LE = np.where(has_run_L[:, None], moved_LE, self._tokens_LE)
        self._num_seen_L = self._num_seen_L + has_run_L
        self.minority_L = minority_share(self._tokens_LE)
        looks_stuck_L = (
            (self._num_seen_L >= self._memory)
            & (self.minority_L < MINORITY_SHARE)
            & (leaders_share(self._tokens_LE) > LEADERS_SHARE)
        )
        begins_L = has_run_L & looks_stuck_L & (self._num_stuck_L == 0)
        self._since_L = np.where(begins_L & ~self._is_stuck_L, step, self._since_L)
        stuck_L = np.where(looks_stuck_L, self._num_stuck_L + 1, 0)
        free_L = np.where(looks_stuck_L, 0, self._num_free_L + 1)
        self._num_stuck_L = np.where(has_run_L, stuck_L, self._num_stuck_L)
        self._num_free_L = np.where(has_run_L, free_L, self._num_free_L)
        is_back_L = self._is_stuck_L & (self._num_free_L >= self._min_steps)
        self._recovered += [[int(layer), step] for layer in np.flatnonzero(is_back_L)]
        del self._recovered[:-MOST_RECOVERED]
        self._is_stuck_L = (self._is_stuck_L & ~is_back_L) | (self._num_stuck_L >= self._min_steps)
        return self._is_stuck_L.copy()

    def onset_step(self) -> int | None:
        """Since when the newest of the stuck layers has looked stuck; None where none is."""
        return int(self._since_L[self._is_stuck_L].max()) if self._is_stuck_L.any() else None

    def recovered(self) -> list[list[int]]:
        """[layer, step] of the last recoveries."""
        return [list(pair) for pair in self._recovered]

    def state_dict(self) -> dict[str, Any]:
        return {
            "tokens_LE": self._tokens_LE.copy(),
            "num_seen_L": self._num_seen_L.copy(),
            "num_stuck_L": self._num_stuck_L.copy(),
            "num_free_L": self._num_free_L.copy(),
            "is_stuck_L": self._is_stuck_L.copy(),
            "since_L": self._since_L.copy(),
            "recovered": self.recovered(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        tokens = np.array(state["tokens_LE"], dtype=np.float64)
        # before the first step it was empty, which may have lost its shape
        self._tokens_LE = tokens if tokens.size else np.zeros((0, 0))
        self._num_seen_L = np.array(state["num_seen_L"], dtype=np.float64)
        self._num_stuck_L = np.array(state["num_stuck_L"], dtype=np.float64)
        self._num_free_L = np.array(state["num_free_L"], dtype=np.float64)
        self._is_stuck_L = np.array(state["is_stuck_L"], dtype=np.bool_)
        self._since_L = np.array(state["since_L"], dtype=np.int64)
        self._recovered = [[int(layer), int(step)] for layer, step in state["recovered"]]
        self.minority_L = minority_share(self._tokens_LE)


def minority_share(tokens_LE: NDArray[np.generic]) -> Floats:
    """Share of a layer's tokens that goes to the less busy half of its experts, (L,): at most 0.5;
    of an odd number the smaller half. 0.5 without tokens, and where there is one expert."""
    count = np.sort(np.asarray(tokens_LE, dtype=np.float64), axis=1)
    half = count.shape[1] // 2
    total_L = count.sum(axis=1)
    if not half:
        return np.full(len(count), 0.5)
    part_L = count[:, :half].sum(axis=1)
    share_L: Floats = np.divide(part_L, total_L, out=np.full(len(count), 0.5), where=total_L > 0)
    return share_L
