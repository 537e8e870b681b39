"""The line charts of a run's page: loss, gradient, activations, router, probe, system."""

from math import log

import numpy as np
import streamlit as st

from ...platform import catalogue
from ...platform.catalogue import CATALOGUE
from ...platform.records import Series
from ...platform.store import Store
from ..charts import lines_figure, per_layer_figure, scalar_figure, stacked_figure
from ..reads import RunReader
from ..window import Window
from .panel import CALM_S, LIVE_S, chart, heading, live, nothing_yet
from .steering import WindowNow

_ACTIVATIONS = {
    "RMS": catalogue.ACTIVATION_RMS,
    "largest": catalogue.ACTIVATION_ABSMAX,
    "outlier ratio": catalogue.ACTIVATION_OUTLIER_RATIO,
}
_TIME_PARTS = {
    "data wait": catalogue.DATA_WAIT_S,
    "forward": catalogue.FORWARD_S,
    "backward": catalogue.BACKWARD_S,
    "optimizer": catalogue.OPTIMIZER_S,
    "watching": catalogue.MONITOR_S,
}


def render(store: Store, run_id: str, window_now: WindowNow, is_live: bool) -> None:
    """Draws all but experts and system; the loss is refreshed oftener than the rest."""

    def loss() -> None:
        reader = RunReader(store, run_id)
        _loss(reader, window_now(reader))

    def gradient_and_scores() -> None:
        reader = RunReader(store, run_id)
        window = window_now(reader)
        left, right = st.columns(2)
        with left:
            _scalar(reader, window, "Gradient norm", catalogue.GRAD_NORM, is_log=True)
            _scores(reader, window)
        with right:
            _modalities(reader, window)
            _scalar(reader, window, "Probe loss", catalogue.PROBE_LOSS)

    def layers() -> None:
        reader = RunReader(store, run_id)
        window = window_now(reader)
        left, right = st.columns(2)
        with left:
            signal = _ACTIVATIONS[which or "RMS"]
            _per_layer(reader, window, "Activation per block", signal, "block")
        with right:
            _entropy(reader, window)

    live(loss, LIVE_S if is_live else None)
    live(gradient_and_scores, CALM_S if is_live else None)
    st.subheader("Activations and routing")
    which = st.segmented_control(
        "Activation statistic", list(_ACTIVATIONS), default="RMS", required=True, key="activation"
    )
    live(layers, CALM_S if is_live else None)


def render_system(store: Store, run_id: str, window_now: WindowNow, is_live: bool) -> None:
    def system() -> None:
        reader = RunReader(store, run_id)
        window = window_now(reader)
        left, right = st.columns(2)
        with left:
            _time(reader, window)
            _scalar(reader, window, "Speed", catalogue.TOKENS_PER_S)
        with right:
            _shares(reader, window)
            _memory(reader, window)
        _sinks(reader)

    st.subheader("System")
    live(system, CALM_S if is_live else None)


def _loss(reader: RunReader, window: Window) -> None:
    heading("Loss", catalogue.LOSS_TOTAL)
    series = reader.branches(catalogue.LOSS_TOTAL)
    if series is None:
        nothing_yet("Not measured in this run.")
        return
    marks = reader.marks()
    figure = scalar_figure(
        series,
        window,
        name="loss",
        unit=CATALOGUE[catalogue.LOSS_TOTAL].unit,
        marks=marks,
    )
    says = (
        f"Loss up to step {int(series.steps.max())}, with {len(marks.alerts)} alerts, "
        f"{sum(s.reason == 'rollback' for s in marks.segments)} rollbacks and "
        f"{len(marks.checkpoints)} checkpoints."
    )
    chart(figure, window, "chart_loss", says)


def _scalar(
    reader: RunReader, window: Window, title: str, signal: str, *, is_log: bool = False
) -> None:
    heading(title, signal)
    series = reader.branches(signal)
    if series is None:
        nothing_yet("Not measured in this run, or not yet.")
        return
    chart(
        scalar_figure(
            series,
            Window(window.step_range, window.is_log or is_log, window.is_zoomable),
            name=title.lower(),
            unit=CATALOGUE[signal].unit,
        ),
        window,
        f"chart_{signal}",
        f"{title} over the steps.",
    )


def _lines(
    reader: RunReader,
    window: Window,
    title: str,
    signals: dict[str, str],
    *,
    is_log: bool | None = None,
    is_peak: bool = False,
) -> None:
    first = next(iter(signals.values()))
    heading(title, first)
    found = {name: reader.branches(signal) for name, signal in signals.items()}
    lines = {name: series for name, series in found.items() if series is not None}
    if not lines:
        nothing_yet("Not measured in this run, or not yet.")
        return
    shown = Window(
        window.step_range, window.is_log if is_log is None else is_log, window.is_zoomable
    )
    figure = lines_figure(lines, shown, unit=CATALOGUE[first].unit, is_peak=is_peak)
    chart(figure, window, f"chart_{title}", f"{title}: {', '.join(lines)} over the steps.")


def _modalities(reader: RunReader, window: Window) -> None:
    signals = {"video": catalogue.LOSS_VIDEO, "audio": catalogue.LOSS_AUDIO}
    _lines(reader, window, "Loss by modality", signals)


def _scores(reader: RunReader, window: Window) -> None:
    signals = {
        "spike": catalogue.LOSS_SPIKE_SCORE,
        "drift": catalogue.LOSS_DRIFT_SCORE,
        "gradient": catalogue.GRAD_NORM_SCORE,
    }
    _lines(reader, window, "Scores of the detectors", signals, is_log=False, is_peak=True)


def _per_layer(
    reader: RunReader,
    window: Window,
    title: str,
    signal: str,
    layer: str,
    reference: tuple[str, float] | None = None,
) -> None:
    heading(title, signal)
    series = reader.branches(signal)
    if series is None:
        nothing_yet("Not measured in this run, or not yet.")
        return
    figure = per_layer_figure(
        series,
        window,
        layer=layer,
        unit=CATALOGUE[signal].unit,
        reference=reference,
    )
    chart(figure, window, f"chart_{signal}", f"{title}: one line per layer over the steps.")


def _entropy(reader: RunReader, window: Window) -> None:
    load = reader.series(catalogue.EXPERT_LOAD, row=0)
    reference = None
    if load is not None:
        num_experts = load.values.shape[-1]
        reference = (f"ln {num_experts}: undecided", log(num_experts))
    _per_layer(
        reader,
        window,
        "Router entropy per MoE layer",
        catalogue.ROUTER_ENTROPY_NATS,
        "MoE layer",
        reference,
    )


def _time(reader: RunReader, window: Window) -> None:
    heading("Time of a step", catalogue.STEP_TIME_S)
    found = {name: reader.branches(signal) for name, signal in _TIME_PARTS.items()}
    parts = {name: series for name, series in found.items() if series is not None}
    if not parts:
        nothing_yet("Not measured in this run, or not yet.")
        return
    figure = stacked_figure(parts, window, unit=CATALOGUE[catalogue.STEP_TIME_S].unit)
    chart(figure, window, "chart_time", f"Time of a step, split into {', '.join(parts)}.")


def _shares(reader: RunReader, window: Window) -> None:
    signals = {"CPU": catalogue.CPU_SHARE, "GPU": catalogue.GPU_SHARE}
    _lines(reader, window, "Processors", signals, is_log=False)


def _memory(reader: RunReader, window: Window) -> None:
    signals = {"host": catalogue.MEMORY_GIB, "GPU": catalogue.GPU_MEMORY_GIB}
    _lines(reader, window, "Memory", signals, is_log=False)


def _sinks(reader: RunReader) -> None:
    """Says what the way to the store has cost: nothing is left out in silence."""
    left_out, lag = _newest(reader, catalogue.SINK_COALESCED), _newest(reader, catalogue.SINK_LAG_S)
    if left_out is None and lag is None:
        return
    words = []
    if lag is not None:
        words.append(f"slowest sink {lag:.1f} s behind")
    if left_out is not None:
        words.append(f"{left_out:,.0f} vector samples left out so far")
    st.caption("Way to the store: " + ", ".join(words) + ".")


def _newest(reader: RunReader, signal: str) -> float | None:
    series: Series | None = reader.series(signal)
    return float(np.asarray(series.values[-1])) if series is not None else None
