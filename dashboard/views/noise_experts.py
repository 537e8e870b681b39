"""Experts by noise level: who has which levels, how much of the work, and how well it goes."""

import streamlit as st

from ...platform import catalogue
from ...platform.store import Store
from ..reads import RunReader
from ..window import Window
from .panel import CALM_S, live
from .signal_charts import per_layer, scalar
from .steering import WindowNow


def render(store: Store, run_id: str, window_now: WindowNow, is_live: bool) -> None:
    """Draws nothing of a run with a single network, which is most of them."""
    if catalogue.NOISE_EXPERT_SHARE not in RunReader(store, run_id).signals:
        return
    st.subheader("Experts by noise level")

    def charts() -> None:
        reader = RunReader(store, run_id)
        window = window_now(reader)
        left, right = st.columns(2)
        with left:
            _per_expert(reader, window, "Loss per expert", catalogue.NOISE_EXPERT_LOSS)
            _per_expert(reader, window, "Noise level from which", catalogue.NOISE_EXPERT_BOUNDARY)
        with right:
            _per_expert(reader, window, "Share of the samples", catalogue.NOISE_EXPERT_SHARE)
            scalar(reader, window, "Blended samples", catalogue.NOISE_EXPERT_BLENDED)

    live(charts, CALM_S if is_live else None)


def _per_expert(reader: RunReader, window: Window, title: str, signal: str) -> None:
    per_layer(reader, window, title, signal, "noise expert")
