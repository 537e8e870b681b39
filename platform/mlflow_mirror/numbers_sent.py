"""Which numbers of a run MLflow is offered: at most NUMBERS_PER_S, by a fair share for each kind.

MLflow takes some thousand numbers a second at a core's expense and stores each in some hundred
bytes, so there is never one per expert. Loss, spike score, gradient norm and tokens/s have a share
of their own, and so have the five signals of each layer: a deeper model is shown at fewer steps,
never with fewer layers.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from ..catalogue import (
    ACTIVATION_ABSMAX,
    ACTIVATION_RMS,
    GPU_SHARE,
    GRAD_NORM,
    LOAD_ENTROPY_NATS,
    LOSS_SPIKE_SCORE,
    LOSS_TOTAL,
    MAX_VIOLATION,
    ROUTER_ENTROPY_NATS,
    TOKENS_PER_S,
    signal_spec,
)
from ..records import Frame

if TYPE_CHECKING:
    from mlflow.entities import Metric

Share = Literal["main", "layers", "step", "sampled", "slow", "system", "user", "count"]

NUMBERS_PER_S = 100.0
"""Most numbers sent per second of training (facts: tracking.md 5.8)."""
MAIN = (LOSS_TOTAL, LOSS_SPIKE_SCORE, GRAD_NORM, TOKENS_PER_S)
"""Scalars with a share of their own, whose last values the run of the whole carries."""
PER_LAYER = (
    ACTIVATION_RMS,
    ACTIVATION_ABSMAX,
    MAX_VIOLATION,
    LOAD_ENTROPY_NATS,
    ROUTER_ENTROPY_NATS,
)
"""Signals that are sent layer by layer, as `activation/rms/layer_03`."""
NON_FINITE = "moescope/non_finite"
"""MLflow metric: how many of the step's numbers were not finite."""
SYSTEM_NAMES: Mapping[str, tuple[str, float]] = {
    GPU_SHARE: ("system/gpu_0_utilization_percentage", 100.0)
}
"""{signal: MLflow's own name for the same thing, and what it is to be multiplied by}. The others of
`system/` are of this process and not of the machine, and keep their names."""
_SHARES: Mapping[Share, float] = {
    "main": 0.35,
    "layers": 0.25,
    "step": 0.15,
    "sampled": 0.05,
    "system": 0.05,
    "user": 0.10,
    "count": 0.05,
}
# how many seconds' worth may come at once
_BURST_S = 2.0
# seconds by which times may be out of order; more means that the clock was put back
_CLOCK_S = 5.0


class _Gate(NamedTuple):
    free_from_s: float
    """From when on the share may send again."""
    newest_s: float
    """The latest time that it was asked."""
    sent: tuple[int, int]
    """Segment and step that it sent last: whatever else is of this step is sent as well."""


class NumbersSent:
    """What has been sent so far, and so what may be sent next. Goes by the frames' own times."""

    def __init__(self) -> None:
        self._gates: dict[Share, _Gate] = {}

    def copy(self) -> "NumbersSent":
        other = NumbersSent()
        other._gates = dict(self._gates)
        return other

    def metrics(self, frame: Frame) -> "list[Metric]":
        """Returns what is sent of a frame: finite values alone."""
        from mlflow.entities import Metric

        kinds = of_frame(frame)
        chosen: dict[str, float] = {}
        num_bad = 0
        for share, values in kinds.items():
            finite = {name: value for name, value in values.items() if math.isfinite(value)}
            num_bad += len(values) - len(finite)
            if self._may_send(share, frame, len(values)):
                chosen |= finite
        if num_bad and self._may_send("count", frame, 1):
            chosen[NON_FINITE] = float(num_bad)
        time_ms = int(frame.time_s * 1000)
        return [Metric(name, value, time_ms, frame.step) for name, value in chosen.items()]

    def _may_send(self, share: Share, frame: Frame, num_values: int) -> bool:
        """Whether a share may send so many numbers of this step, which are then counted."""
        if share == "slow":
            # rare, and always sent: at the expense of what comes at every step
            self._charge("step", frame, num_values)
            return True
        gate = self._gates.get(share)
        key = frame.segment, frame.step
        if (
            gate is not None
            and gate.sent != key
            and gate.newest_s - _CLOCK_S <= frame.time_s < gate.free_from_s
        ):
            self._gates[share] = gate._replace(newest_s=max(gate.newest_s, frame.time_s))
            return False
        self._charge(share, frame, num_values)
        self._gates[share] = self._gates[share]._replace(sent=key)
        return True

    def _charge(self, share: Share, frame: Frame, num_values: int) -> None:
        gate = self._gates.get(share, _Gate(0.0, frame.time_s, (-1, -1)))
        if frame.time_s < gate.newest_s - _CLOCK_S:
            gate = _Gate(0.0, frame.time_s, gate.sent)
        start_s = max(gate.free_from_s, frame.time_s - _BURST_S)
        free_s = start_s + num_values / (NUMBERS_PER_S * _SHARES[share])
        self._gates[share] = _Gate(free_s, max(gate.newest_s, frame.time_s), gate.sent)


def of_frame(frame: Frame) -> dict[Share, dict[str, float]]:
    """{share: {MLflow's metric: value}} of all that may be sent of a frame, finite or not."""
    kinds: dict[Share, dict[str, float]] = {}
    for name, value in frame.values.items():
        if value.ndim == 0:
            share: Share = "main" if name in MAIN else signal_spec(name).tier
            shown, factor = SYSTEM_NAMES.get(name, (name, 1.0))
            kinds.setdefault(share, {})[shown] = float(value) * factor
        elif name in PER_LAYER and value.ndim == 1:
            names = layer_names(name, len(value))
            kinds.setdefault("layers", {}).update(zip(names, map(float, value), strict=True))
    return kinds


def layer_names(name: str, num_layers: int) -> Sequence[str]:
    """Names that sort as the layers do; of a router's signal the layers are counted among those
    that have one."""
    width = max(2, len(str(num_layers - 1)))
    return [f"{name}/layer_{layer:0{width}d}" for layer in range(num_layers)]


def ends_of(frame: Frame) -> "dict[str, Metric]":
    """The main scalars of a frame as the run of the whole shows them: by segment."""
    from mlflow.entities import Metric

    time_ms = int(frame.time_s * 1000)
    return {
        name: Metric(name, float(frame.values[name]), time_ms, frame.segment)
        for name in MAIN
        if name in frame.values and math.isfinite(frame.values[name])
    }
