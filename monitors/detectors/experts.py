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
    2e-9 there. Source: facts, health.md section 4, 9.
    """

    def __init__(self, min_expected: float = 20.0, min_steps: int = 50) -> None:
        self._min_expected = min_expected
        self._min_steps = min_steps
        self._expected_LE: Floats | None = None
        self._steps_LE: Floats | None = None

    def update(self, tokens_LE: NDArray[np.generic]) -> NDArray[np.bool_]:
        """Takes the counts of one step; returns is_dead (L, E)."""
        count = np.asarray(tokens_LE, dtype=np.float64)
        if (
            self._expected_LE is None
            or self._steps_LE is None
            or self._steps_LE.shape != count.shape
        ):
            self._expected_LE, self._steps_LE = np.zeros(count.shape), np.zeros(count.shape)
        is_idle = count == 0
        self._expected_LE = np.where(
            is_idle, self._expected_LE + count.mean(axis=1, keepdims=True), 0.0
        )
        self._steps_LE = np.where(is_idle, self._steps_LE + 1, 0.0)
        return (self._expected_LE >= self._min_expected) & (self._steps_LE >= self._min_steps)

    def longest_idle_steps(self) -> int:
        """Steps since the longest idle expert last received a token."""
        return 0 if self._steps_LE is None or not self._steps_LE.size else int(self._steps_LE.max())

    def rebaseline(self) -> None:
        self._expected_LE = self._steps_LE = None

    def state_dict(self) -> dict[str, Any]:
        return {
            "expected_LE": None if self._expected_LE is None else self._expected_LE.copy(),
            "steps_LE": None if self._steps_LE is None else self._steps_LE.copy(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._expected_LE = _array_or_none(state["expected_LE"])
        self._steps_LE = _array_or_none(state["steps_LE"])


class Monopoly:
    """The leaders' share of each layer (see `leaders_share`), over a window.

    Judged on counts that are forgotten exponentially over `memory_steps`; 0 until that many steps
    were seen, since fresh routers are lopsided for a while. Source: facts, health.md section 4, 10
    (the same experts for more than 90% of the tokens).
    """

    def __init__(self, memory_steps: int = 50) -> None:
        self._memory_steps = memory_steps
        self._tokens_LE: Floats | None = None
        self._num_steps = 0

    def update(self, tokens_LE: NDArray[np.generic]) -> Floats:
        """Takes the counts of one step; returns the leaders' share of each layer, (L,)."""
        count = np.asarray(tokens_LE, dtype=np.float64)
        if self._tokens_LE is None or self._tokens_LE.shape != count.shape:
            self._tokens_LE, self._num_steps = np.zeros(count.shape), 0
        self._tokens_LE = self._tokens_LE * (1 - 1 / self._memory_steps) + count
        self._num_steps += 1
        if self._num_steps < self._memory_steps:
            return np.zeros(count.shape[0])
        return leaders_share(self._tokens_LE).astype(np.float64)

    def rebaseline(self) -> None:
        self._tokens_LE, self._num_steps = None, 0

    def state_dict(self) -> dict[str, Any]:
        return {
            "tokens_LE": None if self._tokens_LE is None else self._tokens_LE.copy(),
            "num_steps": self._num_steps,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._tokens_LE = _array_or_none(state["tokens_LE"])
        self._num_steps = int(state["num_steps"])


def _array_or_none(value: Any) -> Floats | None:
    return None if value is None else np.array(value, dtype=np.float64)
