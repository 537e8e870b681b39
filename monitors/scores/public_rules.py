"""Rules of public training systems on the loss, with the defaults that they publish.

Written from their description (docs/detectors.md has sources and commits), so that they can be
scored on the same curves. Each says of one step's loss whether it is bad, and keeps what it needs
of those before. What a system does then (skip, stop, restart) is not scored. Where a description
leaves something open, the docstring says what is done here.
"""

import copy
import math
from collections import deque
from collections.abc import Callable, Collection, Mapping
from statistics import fmean
from typing import Protocol, Self

import numpy as np

from ..windows import Floats


class LossRule(Protocol):
    """Says of each step, in order, whether it is flagged. Called once for every step.

    A copy goes on from the same state and changes nothing in the original.
    """

    def update(self, loss: float, grad_norm: float) -> bool: ...
    def fork(self) -> Self: ...


class _PublicRule:
    def fork(self) -> Self:
        return copy.deepcopy(self)


class SigmaRule(_PublicRule):
    """OLMo-core's skip step: loss - mean > 6 sample standard deviations of the previous 128 values.

    Outliers stay in the window, and it is silent until half of the window is known. A step is kept
    where the comparison `loss - mean <= limit` holds: with a NaN in the window it holds for none.
    The gradient norm has the same rule there; here only the loss is judged.
    """

    def __init__(self, window: int = 128, num_sigmas: float = 6.0) -> None:
        self._values: Floats = np.zeros(window)
        self._num_sigmas = num_sigmas
        self._count = 0

    def update(self, loss: float, grad_norm: float = math.nan) -> bool:
        return not self.excess(loss) <= self._num_sigmas

    def excess(self, loss: float) -> float:
        """Returns how many standard deviations the loss is above the mean (minus infinity while it
        is silent, NaN once a NaN is known) and takes it into the window."""
        size = self._values.size
        before = self._values[: min(self._count, size)]
        found = -math.inf
        if before.size >= size // 2:
            # what is too large for a number is infinite
            with np.errstate(over="ignore", invalid="ignore"):
                mean = float(before.sum()) / before.size
                spread = math.sqrt(float(np.square(before - mean).sum()) / (before.size - 1))
            # of equal values: nothing above them is within any number of deviations
            found = _rise(loss - mean, spread)
        self._values[self._count % size] = loss
        self._count += 1
        return found


class TripleRule(_PublicRule):
    """Lightning's spike detection: not better than the last loss, and further than twice the mean
    of the last 10 from it; or not finite.

    So a spike is at least three times the mean. A flagged value enters neither mean nor last.
    """

    def __init__(self, window: int = 10, warm_up: int = 1, relative: float = 2.0) -> None:
        self._values: deque[float] = deque(maxlen=window)
        self._warm_up = warm_up
        self._relative = relative

    def update(self, loss: float, grad_norm: float = math.nan) -> bool:
        if not math.isfinite(loss):
            return True
        if len(self._values) >= self._warm_up and loss > self._values[-1]:
            mean = _mean(self._values)
            if abs(loss - mean) >= self._relative * abs(mean):
                return True
        self._values.append(loss)
        return False


class DoubleRule(_PublicRule):
    """llm-foundry's kill on loss spike: (a) at least twice the window's mean for more than 4 steps
    in a row; (b) half the window or more above the smaller of 10 and the first window's maximum,
    after two windows.

    The window is 5% of the run, at least 100 steps, and holds the values before the judged one in
    (a), with it in (b). A value that is not finite compares false.
    """

    def __init__(self, num_steps: int, patience: int = 4, cap: float = 10.0) -> None:
        size = max(100, round(0.05 * num_steps))
        self._values: deque[float] = deque(maxlen=size)
        self._size = size
        self._patience = patience
        self._cap = cap
        self._total = 0.0
        self._num_seen = self._num_above_cap = self._num_in_a_row = 0

    def update(self, loss: float, grad_norm: float = math.nan) -> bool:
        is_double = self._num_seen >= self._size and loss >= 2 * self._total / self._size
        self._num_in_a_row = self._num_in_a_row + 1 if is_double else 0
        self._push(loss)
        is_high = self._num_seen > 2 * self._size and 2 * self._num_above_cap >= self._size
        return self._num_in_a_row > self._patience or is_high

    def _push(self, loss: float) -> None:
        if len(self._values) == self._size:
            gone = self._values[0]
            self._num_above_cap -= self._num_seen >= self._size and gone > self._cap
            self._values.append(loss)
            # a NaN or an infinity stays in a running sum for good
            is_plain = math.isfinite(self._total) and math.isfinite(gone)
            self._total = self._total + loss - gone if is_plain else sum(self._values)
        else:
            self._values.append(loss)
            self._total += loss
        self._num_seen += 1
        if self._num_seen == self._size:
            self._cap = min(self._cap, max(self._values))
            self._num_above_cap = sum(value > self._cap for value in self._values)
        elif self._num_seen > self._size:
            self._num_above_cap += loss > self._cap


class TenfoldRule(_PublicRule):
    """Megatron-LM's check for unexpectedly large results: at least 10 times the largest magnitude
    of the first 100 values; a value that is not finite is tested for apart, and flagged."""

    def __init__(self, num_first: int = 100, factor: float = 10.0) -> None:
        self._num_first = num_first
        self._factor = factor
        self._num_seen = 0
        self._largest = 0.0

    def update(self, loss: float, grad_norm: float = math.nan) -> bool:
        if not math.isfinite(loss):
            return True
        if self._num_seen < self._num_first:
            self._num_seen += 1
            self._largest = max(self._largest, abs(loss))
            return False
        return abs(loss) >= self._factor * self._largest


class FifthRule(_PublicRule):
    """FlagScale's spiky loss: 20% or more above the last accepted loss, which stays as it is
    meanwhile.

    It begins after the warm-up of the learning rate there, with the first step here. A value that
    is not finite is neither flagged nor accepted: the description says nothing of it.
    """

    def __init__(self, relative: float = 0.2) -> None:
        self._relative = relative
        self._accepted: float | None = None

    def update(self, loss: float, grad_norm: float = math.nan) -> bool:
        if not math.isfinite(loss):
            return False
        last = self._accepted
        if last is not None and _rise(loss - last, last) >= self._relative:
            return True
        self._accepted = loss
        return False


def _rise(above: float, base: float) -> float:
    """above / base; of a base of 0 any rise is infinite."""
    if base:
        return above / base
    return math.copysign(math.inf, above) if above else 0.0


def _mean(values: Collection[float]) -> float:
    try:
        return fmean(values)
    except OverflowError:  # their sum is too large for a number, their mean is not
        return sum(value / len(values) for value in values)


PUBLIC_RULES: Mapping[str, Callable[[int], LossRule]] = {
    "OLMo-core": lambda num_steps: SigmaRule(),
    "Lightning": lambda num_steps: TripleRule(),
    "llm-foundry": DoubleRule,
    "Megatron-LM": lambda num_steps: TenfoldRule(),
    "FlagScale": lambda num_steps: FifthRule(),
}
"""{system: its rule for a run of so many steps}."""
