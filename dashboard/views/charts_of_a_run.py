"""The charts that tell how a run is: loss, gradient, scores, probe, activations, routers."""

from math import log

import streamlit as st

from ...platform import catalogue
from ...platform.catalogue import CATALOGUE
from ...platform.store import Store
from ..charts import scalar_figure
from ..reads import RunReader
from ..window import Window
from .panel import CALM_S, LIVE_S, chart, heading, live, nothing_yet
from .signal_charts import NOT_YET, lines, per_layer, scalar
from .steering import WindowNow

_ACTIVATIONS = {
    "RMS": catalogue.ACTIVATION_RMS,
    "largest": catalogue.ACTIVATION_ABSMAX,
    "outlier ratio": catalogue.ACTIVATION_OUTLIER_RATIO,
    "clamped": catalogue.ACTIVATION_CLAMPED_SHARE,
    "attention logits": catalogue.ATTENTION_LOGIT_BOUND,
}
_ROUTERS = {
    "entropy": catalogue.ROUTER_ENTROPY_NATS,
    "load entropy": catalogue.LOAD_ENTROPY_NATS,
    "MaxVio": catalogue.MAX_VIOLATION,
    "dead": catalogue.DEAD_EXPERTS,
    "bias": catalogue.BIAS_RANGE,
    "balance": catalogue.ROUTER_BALANCE,
    "z": catalogue.ROUTER_Z,
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
            scalar(reader, window, "Gradient norm", catalogue.GRAD_NORM, is_log=True)
            _scores(reader, window)
        with right:
            _modalities(reader, window)
            scalar(reader, window, "Probe loss", catalogue.PROBE_LOSS)

    def layers() -> None:
        reader = RunReader(store, run_id)
        window = window_now(reader)
        left, right = st.columns(2)
        with left:
            signal = _ACTIVATIONS[activation or "RMS"]
            per_layer(reader, window, "Activation per block", signal, "block")
        with right:
            _router(reader, window, _ROUTERS[router or "entropy"])

    live(loss, LIVE_S if is_live else None)
    live(gradient_and_scores, CALM_S if is_live else None)
    st.subheader("Activations and routing")
    with st.container(horizontal=True, gap="medium"):
        activation = st.segmented_control(
            "Activations", list(_ACTIVATIONS), default="RMS", required=True, key="activation"
        )
        router = st.segmented_control(
            "Routers", list(_ROUTERS), default="entropy", required=True, key="router"
        )
    live(layers, CALM_S if is_live else None)


def _loss(reader: RunReader, window: Window) -> None:
    heading("Loss", catalogue.LOSS_TOTAL)
    series = reader.branches(catalogue.LOSS_TOTAL)
    if series is None:
        nothing_yet(NOT_YET)
        return
    marks = reader.marks()
    unit = CATALOGUE[catalogue.LOSS_TOTAL].unit
    figure = scalar_figure(series, window, name="loss", unit=unit, marks=marks)
    says = (
        f"Loss up to step {int(series.steps.max())}, with {len(marks.alerts)} alerts, "
        f"{sum(s.reason == 'rollback' for s in marks.segments)} rollbacks and "
        f"{len(marks.checkpoints)} checkpoints."
    )
    chart(figure, window, "chart_loss", says)


def _modalities(reader: RunReader, window: Window) -> None:
    signals = {
        "video": catalogue.LOSS_VIDEO,
        "audio": catalogue.LOSS_AUDIO,
        "experts' own": catalogue.LOSS_EXPERTS,
    }
    lines(reader, window, "Loss by modality", signals)


def _scores(reader: RunReader, window: Window) -> None:
    signals = {
        "spike": catalogue.LOSS_SPIKE_SCORE,
        "drift": catalogue.LOSS_DRIFT_SCORE,
        "gradient": catalogue.GRAD_NORM_SCORE,
    }
    lines(reader, window, "Scores of the detectors", signals, is_linear=True, is_peak=True)


def _router(reader: RunReader, window: Window, signal: str) -> None:
    reference = None
    load = reader.series(catalogue.EXPERT_LOAD, row=0)
    if load is not None and CATALOGUE[signal].unit == "nats":
        num_experts = load.values.shape[-1]
        words = "undecided" if signal == catalogue.ROUTER_ENTROPY_NATS else "balanced"
        reference = (f"ln {num_experts}: {words}", log(num_experts))
    per_layer(reader, window, "Router per MoE layer", signal, "MoE layer", reference)
