"""What a run costs: time of a step and its parts, speed, processors, memory, way to the store."""

import streamlit as st

from ...platform import catalogue
from ...platform.catalogue import CATALOGUE
from ...platform.store import Store
from ..charts import stacked_figure
from ..reads import RunReader
from ..window import Window
from .panel import CALM_S, chart, heading, live, nothing_yet
from .signal_charts import NOT_YET, lines, scalar
from .steering import WindowNow

_TIME_PARTS = {
    "data wait": catalogue.DATA_WAIT_S,
    "forward": catalogue.FORWARD_S,
    "backward": catalogue.BACKWARD_S,
    "optimizer": catalogue.OPTIMIZER_S,
    "watching": catalogue.MONITOR_S,
}
_PROCESSORS = {"CPU": catalogue.CPU_SHARE, "GPU": catalogue.GPU_SHARE}
_MEMORY = {"host": catalogue.MEMORY_GIB, "GPU": catalogue.GPU_MEMORY_GIB}


_SPEEDS = {
    "tokens": catalogue.TOKENS_PER_S,
    "TFLOP": catalogue.MODEL_TFLOP_PER_S,
    "utilisation": catalogue.UTILISATION,
    "slowest step": catalogue.SLOWEST_OVER_MEDIAN,
}


def render(store: Store, run_id: str, window_now: WindowNow, is_live: bool) -> None:
    def system() -> None:
        reader = RunReader(store, run_id)
        window = window_now(reader)
        left, right = st.columns(2)
        with left:
            scalar(reader, window, "Speed", _SPEEDS[speed or "tokens"])
            _time(reader, window)
        with right:
            lines(reader, window, "Processors", _PROCESSORS, is_linear=True)
            lines(reader, window, "Memory", _MEMORY, is_linear=True)
        _way_to_the_store(reader)

    st.subheader("System")
    speed = st.segmented_control(
        "Speed", list(_SPEEDS), default="tokens", required=True, key="speed"
    )
    live(system, CALM_S if is_live else None)


def _time(reader: RunReader, window: Window) -> None:
    heading("Time of a step", catalogue.STEP_TIME_S)
    found = {name: reader.branches(signal, window) for name, signal in _TIME_PARTS.items()}
    parts = {name: series for name, series in found.items() if series is not None}
    if not parts:
        nothing_yet(NOT_YET)
        return
    unit = CATALOGUE[catalogue.STEP_TIME_S].unit
    chart(
        lambda: stacked_figure(parts, window, unit=unit),
        window,
        "chart_time",
        f"Time of a step, split into {', '.join(parts)}.",
        tuple(series.version for series in parts.values()),
    )


def _way_to_the_store(reader: RunReader) -> None:
    """Says what was left out on the way and how old the oldest waiting sample is."""
    words = []
    if (lag := reader.newest(catalogue.SINK_LAG_S)) is not None:
        words.append(f"slowest sink {lag:.1f} s behind")
    if (left_out := reader.newest(catalogue.SINK_COALESCED)) is not None:
        words.append(f"{left_out:,.0f} vector samples left out so far")
    if lost := reader.newest(catalogue.SINK_LOST):
        words.append(f"{lost:,.0f} steps lost because the disk took nothing")
    if refused := reader.newest(catalogue.SINK_REFUSED):
        words.append(f"{refused:,.0f} records set aside that no store could hold")
    if words:
        st.caption(f"Way to the store: {', '.join(words)}.")
