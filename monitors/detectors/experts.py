"""Experts that died, and layers where a few do everything. Judged over windows, never on one
micro-batch.

L MoE layers  E experts
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..expert_signals import leaders_share
from ..windows import Floats


class DeadExperts:
    """Counts the experts of each layer that received nothing for long enough that this is no
    accident.

    An expert is dead when, since its last token, at least `min_steps` steps went by in which
    balanced routing would have sent it at least `min_expected` tokens: by chance P(0) = e^-20 =
    2e-9 there. A step in which a layer did not run (no tokens at all) says nothing of its experts.
    Source: facts, health.md section 4, 9.
    """

    def __init__(self, min_expected: float = 20.0, min_steps: int = 50) -> None:
        self._min_expected = min_expected
        self._min_steps = min_steps
        self._expected_LE: Floats | None = None
        self._steps_LE: Floats | None = None
        # with those in which the layer did not run
        self._all_steps_LE: Floats | None = None

    def update(self, tokens_LE: NDArray[np.generic]) -> NDArray[np.bool_]:
        """Takes the counts of one step; returns is_dead (L, E)."""
        count = np.asarray(tokens_LE, dtype=np.float64)
        if (
            self._expected_LE is None
            or self._steps_LE is None
            or self._all_steps_LE is None
            or self._steps_LE.shape != count.shape
        ):
            self._expected_LE, self._steps_LE, self._all_steps_LE = np.zeros((3, *count.shape))
        is_idle, has_run_L1 = count == 0, count.sum(axis=1, keepdims=True) > 0
        self._expected_LE = np.where(
            is_idle, self._expected_LE + count.mean(axis=1, keepdims=True), 0.0
        )
        self._steps_LE = np.where(is_idle, self._steps_LE + has_run_L1, 0.0)
        self._all_steps_LE = np.where(is_idle, self._all_steps_LE + 1, 0.0)
        return (self._expected_LE >= self._min_expected) & (self._steps_LE >= self._min_steps)

    def longest_idle_steps(self) -> int:
        """Steps since the longest idle expert last received a token, among those whose idleness
        is furthest on."""
        steps_LE, all_LE = self._steps_LE, self._all_steps_LE
        if steps_LE is None or all_LE is None or not steps_LE.size:
            return 0
        return int(all_LE[steps_LE == steps_LE.max()].max())

    def rebaseline(self) -> None:
        self._expected_LE = self._steps_LE = self._all_steps_LE = None

    def state_dict(self) -> dict[str, Any]:
        return {
            "expected_LE": None if self._expected_LE is None else self._expected_LE.copy(),
            "steps_LE": None if self._steps_LE is None else self._steps_LE.copy(),
            "all_steps_LE": None if self._all_steps_LE is None else self._all_steps_LE.copy(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._expected_LE = _array_or_none(state["expected_LE"])
        self._steps_LE = _array_or_none(state["steps_LE"])
        # checkpoints of before there were layers that do not run in every step
        self._all_steps_LE = _array_or_none(state.get("all_steps_LE", state["steps_LE"]))


class Monopoly:
    """The leaders' share of each layer (see `leaders_share`), over a window.

    Judged on counts that are forgotten exponentially over `memory_steps`; 0 until that many steps
    were seen, since fresh routers are lopsided for a while. Steps are those in which the layer ran:
    one without any tokens changes nothing. Source: facts, health.md section 4, 10
    (the same experts for more than 90% of the tokens).
    """

    def __init__(self, memory_steps: int = 50) -> None:
        self._memory_steps = memory_steps
        self._tokens_LE: Floats | None = None
        self._num_steps_L: Floats | None = None

    def update(self, tokens_LE: NDArray[np.generic]) -> Floats:
        """Takes the counts of one step; returns the leaders' share of each layer, (L,)."""
        count = np.asarray(tokens_LE, dtype=np.float64)
        if (
            self._tokens_LE is None
            or self._num_steps_L is None
            or self._tokens_LE.shape != count.shape
        ):
            self._tokens_LE, self._num_steps_L = np.zeros(count.shape), np.zeros(count.shape[0])
        has_run_L = count.sum(axis=1) > 0
        moved_LE = self._tokens_LE * (1 - 1 / self._memory_steps) + count
        self._tokens_LE = np.where(has_run_L[:, None], moved_LE, self._tokens_LE)
        self._num_steps_L = self._num_steps_L + has_run_L
        share_L = leaders_share(self._tokens_LE).astype(np.float64)
        return np.where(self._num_steps_L < self._memory_steps, 0.0, share_L)

    def rebaseline(self) -> None:
        self._tokens_LE = self._num_steps_L = None

    def state_dict(self) -> dict[str, Any]:
        return {
            "tokens_LE": None if self._tokens_LE is None else self._tokens_LE.copy(),
            "num_steps_L": None if self._num_steps_L is None else self._num_steps_L.copy(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._tokens_LE = _array_or_none(state["tokens_LE"])
        self._num_steps_L = _array_or_none(state.get("num_steps_L"))
        if self._num_steps_L is None and self._tokens_LE is not None:
            # checkpoints of before there were layers that do not run in every step
            self._num_steps_L = np.full(len(self._tokens_LE), float(state["num_steps"]))


def _array_or_none(value: Any) -> Floats | None:
    return None if value is None else np.array(value, dtype=np.float64)
