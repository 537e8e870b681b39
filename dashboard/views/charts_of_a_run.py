"""The charts that tell how a run is: loss, gradient, scores, probe, blocks, routers."""

import streamlit as st

from ...platform import catalogue
from ...platform.catalogue import CATALOGUE
from ...platform.store import Store
from ..charts import scalar_figure
from ..reads import RunReader
from ..window import Window
from .choices import BLOCKS, LOG_SIGNALS, ROUTERS, Choices, levels_of
from .panel import CALM_S, LIVE_S, chart, heading, live, nothing_yet
from .signal_charts import NOT_YET, lines, scalar, statistic
from .steering import WindowNow


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

    live(loss, LIVE_S if is_live else None)
    live(gradient_and_scores, CALM_S if is_live else None)
    st.subheader("Blocks and routers")
    left, right = st.columns(2)
    with left:
        _statistics(store, run_id, window_now, is_live, BLOCKS, "block")
    with right:
        _statistics(store, run_id, window_now, is_live, ROUTERS, "router")


def _statistics(
    store: Store,
    run_id: str,
    window_now: WindowNow,
    is_live: bool,
    choices: Choices,
    key: str,
) -> None:
    """Draws the choice of a group and of one of its statistics, and the chart of that."""
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        group = st.segmented_control(
            "Group",
            list(choices),
            default=next(iter(choices)),
            required=True,
            key=f"{key}_group",
            label_visibility="collapsed",
        )
        of_group = choices[group or next(iter(choices))]
        chosen = st.selectbox(
            "Statistic",
            list(of_group),
            key=f"{key}_{group}",
            label_visibility="collapsed",
            width=240,
        )

    def one() -> None:
        reader = RunReader(store, run_id)
        signal = of_group[chosen]
        title = f"{chosen[0].upper()}{chosen[1:]}"
        is_log = signal in LOG_SIGNALS
        levels = levels_of(reader, signal)
        statistic(reader, window_now(reader), title, signal, levels=levels, is_log=is_log)

    live(one, CALM_S if is_live else None)


def _loss(reader: RunReader, window: Window) -> None:
    heading("Loss", catalogue.LOSS_TOTAL)
    series = reader.branches(catalogue.LOSS_TOTAL, window)
    if series is None:
        nothing_yet(NOT_YET)
        return
    marks = reader.marks(window)
    unit = CATALOGUE[catalogue.LOSS_TOTAL].unit
    figure = scalar_figure(series, window, name="loss", unit=unit, marks=marks)
    says = (
        f"Loss up to step {reader.newest_step()}, with {len(marks.alerts)} alerts, "
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
