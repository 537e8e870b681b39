"""What a step leaves behind: its values completed with times, speed, system and sinks, as one
frame.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from ..platform import catalogue
from ..platform.sinks import FanOutStatus
from ..platform.system_meter import SystemMeter

SYSTEM_EVERY_S = 2.0
NUM_RECENT = 100
"""Steps among which the slowest is looked for."""
_TIMES = (
    catalogue.DATA_WAIT_S,
    catalogue.FORWARD_S,
    catalogue.BACKWARD_S,
    catalogue.OPTIMIZER_S,
    catalogue.MONITOR_S,
)

Values = dict[str, NDArray[np.float32]]


def scalar(value: float) -> NDArray[np.float32]:
    """Returns the number as the array of no dimensions that a frame holds."""
    return np.asarray(value, np.float32)


class StepRecord:
    """Completes the values of a step. Reads the system every SYSTEM_EVERY_S; keeps what a user
    logs until the next step."""

    def __init__(
        self, tokens_per_step: int, flops_per_step: int = 0, peak_tflops: float | None = None
    ) -> None:
        """flops_per_step: of the model, without what is computed again; 0: not known.
        peak_tflops: of the device; None: not known, and utilisation is not recorded."""
        self._tokens = tokens_per_step
        self._tflop = flops_per_step / 1e12
        self._peak_tflops = peak_tflops
        self._recent_s: deque[float] = deque(maxlen=NUM_RECENT)
        self._meter = SystemMeter()
        self._metered_s = 0.0
        self._logged: dict[str, float] = {}

    def log(self, values: Mapping[str, float]) -> None:
        """Takes a user's own scalars, to be recorded with the next step as `user/NAME`. Raises
        ValueError where one has no name."""
        if "" in values:
            raise ValueError("a value is logged under an empty name: give it one, as in reward")
        for name, value in values.items():
            self._logged[f"user/{name}"] = float(value)

    def complete(
        self,
        values: Values,
        host_values: Mapping[str, float],
        read_s: float,
        tokens: int | None = None,
    ) -> Values:
        """Returns the values with step time, speed and a user's scalars, all that a rule may be
        about.

        host_values: seconds of the step's stages among them. read_s: seconds of reading the step,
        and of judging and recording the one before it, since this one's come later. tokens: of this
        step, where not each has as many; 0: not known, and no speed is recorded.
        """
        step_s = sum(host_values.get(name, 0.0) for name in _TIMES) + read_s
        tokens = self._tokens if tokens is None else tokens
        self._recent_s.append(step_s)
        numbers = {
            catalogue.MONITOR_S: host_values[catalogue.MONITOR_S] + read_s,
            catalogue.STEP_TIME_S: step_s,
            **self._logged,
        }
        if tokens:
            numbers[catalogue.TOKENS_PER_S] = tokens / max(step_s, 1e-9)
            numbers[catalogue.STEP_TOKENS] = tokens
        if self._tflop:
            numbers[catalogue.MODEL_TFLOP_PER_S] = self._tflop / max(step_s, 1e-9)
            numbers[catalogue.STEP_FLOPS] = self._tflop * 1e12
            if self._peak_tflops:
                share = numbers[catalogue.MODEL_TFLOP_PER_S] / self._peak_tflops
                numbers[catalogue.UTILISATION] = share
        if catalogue.ACTIVATION_RMS in values:
            # with the sampled tier: the slowest of a window changes slowly
            slowest = max(self._recent_s) / max(float(np.median(self._recent_s)), 1e-9)
            numbers[catalogue.SLOWEST_OVER_MEDIAN] = slowest
        self._logged.clear()
        return values | {name: scalar(value) for name, value in numbers.items()}

    def system(self, status: Callable[[], FanOutStatus]) -> Values:
        """Returns the system's and the sinks' values where they are due, else nothing. status: is
        asked only then, since it looks at the journal."""
        now_s = time.monotonic()
        if now_s - self._metered_s < SYSTEM_EVERY_S:
            return {}
        self._metered_s = now_s
        read = {name: scalar(value) for name, value in self._meter.read().items()}
        return read | status().values()
