"""What signals are called in Prometheus: its words, in base units, with the unit as the last word.

`time/step_s` is `moescope_time_step_seconds`, `system/memory_gib` `moescope_system_memory_bytes`, a
share is a `_ratio`. Only counters end in `_total` there, so `loss/total` is `moescope_loss`.
Source: prometheus.io/docs/practices/naming and the OpenMetrics specification, section 4.4.
"""

from dataclasses import dataclass

from ..signals.spec import SignalSpec

PREFIX = "moescope"
_GIB = 2.0**30
_TERA = 1e12
_RESERVED = ("_total", "_count", "_sum", "_bucket", "_created", "_info")
"""Endings that mean a counter or a part of another metric."""


@dataclass(frozen=True, slots=True)
class MetricName:
    name: str
    factor: float
    """From the signal's unit to the base unit."""


def metric_name(spec: SignalSpec) -> MetricName:
    """The name and unit of a signal of the catalogue. A user's own signals share one metric, with
    the name as a label: see `page.py`."""
    name = f"{PREFIX}_{spec.name.replace('/', '_')}"
    factor = 1.0
    if spec.unit == "GiB":
        name, factor = f"{name.removesuffix('_gib')}_bytes", _GIB
    elif spec.unit == "TFLOP/s":
        name, factor = name.replace("_tflop_per_s", "_flops_per_second"), _TERA
    elif spec.unit.endswith("/s"):
        name = f"{name.removesuffix('_per_s')}_per_second"
    elif spec.unit == "s":
        name = f"{name.removesuffix('_s')}_seconds"
    elif spec.unit == "share":
        name = f"{name.removesuffix('_share')}_ratio"
    for ending in _RESERVED:
        name = name.removesuffix(ending)
    return MetricName(name, factor)
