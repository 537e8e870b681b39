"""The page that Prometheus reads: gauges of runs, signals and alerts.

The number of series is bounded: runs that run or ended within a day (50 at most), of each its
signals, a vector as its least, greatest and mean entry, 100 signals of the user's own, and its
alerts by rule. Labels are the run's name, id and project; names may come twice, ids do not.
"""

from collections.abc import Callable, Iterator
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric

from ..catalogue import CATALOGUE
from ..errors import MoescopeError
from ..records import RunStatus, Severity
from .metric_names import PREFIX, metric_name
from .readings import Reading, Readings, RunReading

OF_RUN = ("run", "run_id", "project")
_STATES = ("open", "acknowledged", "silenced")
_AGGREGATES: dict[str, Callable[[NDArray[np.float64]], np.float64]] = {
    "min": np.min,
    "max": np.max,
    "mean": np.mean,
}


class Page:
    """Collects what `readings` has; asked by several threads."""

    def __init__(self, readings: Readings, version: str, clock: Callable[[], float]) -> None:
        self._readings = readings
        self._version = version
        self._clock = clock

    def collect(self) -> Iterator[Metric]:
        """Yields the metrics. While the store is away it says so, and nothing that is old."""
        info = InfoMetricFamily(f"{PREFIX}_build", "The program that serves this page.")
        info.add_metric((), {"version": self._version})
        yield info
        try:
            reading = self._readings.now()
        except MoescopeError:
            yield GaugeMetricFamily(f"{PREFIX}_store_up", _STORE_UP, value=0)
            return
        yield GaugeMetricFamily(f"{PREFIX}_store_up", _STORE_UP, value=1)
        yield _runs(reading)
        yield from _pulse(reading, self._clock())
        yield from _alerts(reading)
        yield from _signals(reading)


_STORE_UP = "Whether the store answers; without it there is nothing else on this page."


def _labels(reading: RunReading) -> tuple[str, str, str]:
    run = reading.run
    return run.name, run.id, run.project


def _runs(reading: Reading) -> Metric:
    runs = GaugeMetricFamily(f"{PREFIX}_runs", "Runs of the store by status.", labels=("status",))
    for status in get_args(RunStatus):
        runs.add_metric((status,), reading.num_runs.get(status, 0))
    return runs


def _pulse(reading: Reading, now_s: float) -> Iterator[Metric]:
    def gauge(name: str, help: str, *more: str) -> GaugeMetricFamily:
        return GaugeMetricFamily(f"{PREFIX}_run_{name}", help, labels=(*OF_RUN, *more))

    status = gauge("status", "1 for the status that the run has, 0 for the others.", "status")
    step = gauge("step", "The newest measured optimizer step.")
    age = gauge("heartbeat_age_seconds", "Since the trainer's last sign of life, while it runs.")
    beat = gauge("heartbeat_timestamp_seconds", "When the trainer last gave a sign of life.")
    left = gauge("signals_left_out", "Signals of the user's own beyond those on this page.")
    for one in reading.runs:
        labels, run = _labels(one), one.run
        for name in get_args(RunStatus):
            status.add_metric((*labels, name), float(run.status == name))
        if one.step is not None:
            step.add_metric(labels, one.step)
        if run.status == "running":
            # by the clock of now: the beat itself was read some seconds ago at most
            age.add_metric(labels, max(0.0, now_s - run.heartbeat_s))
        beat.add_metric(labels, run.heartbeat_s)
        left.add_metric(labels, one.num_left)
    yield from (status, step, age, beat, left)


def _alerts(reading: Reading) -> Iterator[Metric]:
    count = GaugeMetricFamily(
        f"{PREFIX}_alerts",
        "Alerts of the run that are not resolved.",
        labels=(*OF_RUN, "severity", "state"),
    )
    active = GaugeMetricFamily(
        f"{PREFIX}_alert_active",
        "1 for each rule that has an alert which is not resolved, in its state.",
        labels=(*OF_RUN, "rule", "severity", "state"),
    )
    for one in reading.runs:
        own = [alert for alert in reading.alerts if alert.run_id == one.run.id]
        for severity in get_args(Severity):
            for state in _STATES:
                found = sum((a.severity, a.state) == (severity, state) for a in own)
                count.add_metric((*_labels(one), severity, state), found)
        for rule, severity, state in sorted({(a.rule, a.severity, a.state) for a in own}):
            active.add_metric((*_labels(one), rule, severity, state), 1)
    yield from (count, active)


def _signals(reading: Reading) -> Iterator[Metric]:
    for signal, spec in CATALOGUE.items():
        here = [(one, one.values[signal]) for one in reading.runs if signal in one.values]
        if not here:
            continue
        named = metric_name(spec)
        more = () if spec.is_scalar else ("aggregate",)
        family = GaugeMetricFamily(named.name, spec.help, labels=(*OF_RUN, *more))
        for one, value in here:
            if spec.is_scalar:
                family.add_metric(_labels(one), named.factor * float(value))
            elif value.size:
                numbers = value.astype(np.float64)
                # where infinities of both signs meet, the mean is no number
                with np.errstate(invalid="ignore"):
                    for name, aggregate in _AGGREGATES.items():
                        family.add_metric(
                            (*_labels(one), name), named.factor * float(aggregate(numbers))
                        )
        yield family
    own = GaugeMetricFamily(
        f"{PREFIX}_user", "Signals of the user's own, by name.", labels=(*OF_RUN, "signal")
    )
    for one in reading.runs:
        for signal, value in one.values.items():
            if signal.startswith("user/"):
                own.add_metric((*_labels(one), signal.removeprefix("user/")), float(value))
    yield own
