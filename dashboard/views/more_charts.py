"""What a user logs, and charts that cost nothing until asked for: noise, schedule, data."""

import streamlit as st

from ...platform import catalogue
from ...platform.catalogue import CATALOGUE, MODALITIES, NUM_NOISE_BINS
from ...platform.store import Store
from ..charts import noise_figure, per_layer_figure
from ..reads import RunReader
from ..window import Branches, Window, without_zeros
from .panel import CALM_S, chart, heading, live, nothing_yet
from .signal_charts import NOT_YET, per_layer, scalar
from .steering import WindowNow

NUM_STEPS = 50
"""Newest steps whose samples are drawn over their noise level."""
_USER = "user/"


def render(store: Store, run_id: str, window_now: WindowNow, is_live: bool) -> None:
    own = sorted(name for name in RunReader(store, run_id).signals if name.startswith(_USER))
    if own:
        st.subheader("Logged by you")
        live(lambda: _own(RunReader(store, run_id), window_now, own), CALM_S if is_live else None)
    if st.toggle("Noise, schedule and data", key="more"):
        live(lambda: _more(RunReader(store, run_id), window_now), CALM_S if is_live else None)


def _own(reader: RunReader, window_now: WindowNow, names: list[str]) -> None:
    window = window_now(reader)
    for column, some in zip(st.columns(2), (names[::2], names[1::2]), strict=True):
        with column:
            for name in some:
                scalar(reader, window, name.removeprefix(_USER), name)


def _more(reader: RunReader, window_now: WindowNow) -> None:
    window = window_now(reader)
    left, right = st.columns(2)
    with left:
        _noise(reader, window)
        _noise_bins(reader, window, 0)
        scalar(reader, window, "Learning rate", catalogue.LEARNING_RATE)
    with right:
        per_layer(reader, window, "Probe loss by noise", catalogue.PROBE_LOSS_BIN, "bin")
        _noise_bins(reader, window, 1)
        scalar(reader, window, "Batch of the data order", catalogue.DATA_BATCH)
    bad_clips = reader.newest(catalogue.BAD_CLIPS)
    if bad_clips is not None:
        advice = f" {CATALOGUE[catalogue.BAD_CLIPS].high}" if bad_clips else ""
        st.caption(f"{bad_clips:,.0f} files passed over so far.{advice}")


def _noise(reader: RunReader, window: Window) -> None:
    heading("Loss by noise level", catalogue.LOSS_PER_SAMPLE)
    newest = reader.newest_step()
    losses = reader.stretch(catalogue.LOSS_PER_SAMPLE, newest - NUM_STEPS + 1, newest)
    sigmas = reader.stretch(catalogue.LOSS_SIGMA, newest - NUM_STEPS + 1, newest)
    if losses is None or sigmas is None or losses.values.shape != sigmas.values.shape:
        nothing_yet(NOT_YET)
        return
    unit = CATALOGUE[catalogue.LOSS_PER_SAMPLE].unit
    figure = noise_figure(losses.values, sigmas.values, window, unit=unit)
    says = f"Loss of each sample of the last {NUM_STEPS} steps over its noise level."
    chart(figure, None, "chart_noise", says)


def _noise_bins(reader: RunReader, window: Window, modality: int) -> None:
    name = MODALITIES[modality]
    heading(f"Loss of {name} by noise level", catalogue.LOSS_NOISE_BIN)
    series = reader.branches(catalogue.LOSS_NOISE_BIN, window, row=modality)
    # 0 stands where no sample has been yet
    if series is None or not (series.living.high > 0).any():
        nothing_yet(NOT_YET)
        return
    figure = per_layer_figure(
        Branches(without_zeros(series.living), without_zeros(series.ghosts)),
        window,
        layer="noise level",
        unit=CATALOGUE[catalogue.LOSS_NOISE_BIN].unit,
        names=[f"from {i / NUM_NOISE_BINS:g}" for i in range(NUM_NOISE_BINS)],
    )
    says = f"Loss of {name}: a line per part of the noise level, from data to noise."
    chart(figure, window, f"chart_noise_{name}", says)
