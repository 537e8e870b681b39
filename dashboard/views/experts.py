"""The experts: heat maps of their load, one layer over the steps, every layer at one step, or what
became of every layer over the steps; and how alike they are.
"""

import streamlit as st

from ...platform import catalogue
from ...platform.catalogue import CATALOGUE
from ...platform.store import Store
from ..heat_maps import level_over_time, load_at_step, load_over_time
from ..reads import RunReader
from ..window import Window
from .panel import CALM_S, chart, heading, live, nothing_yet
from .signal_charts import per_layer
from .steering import WindowNow

HOMOGENISED = 0.99
"""Cosine of answers above which experts are such in name only. Source: facts: model.md section 9
(arXiv 2605.19378)."""
_OVER_TIME, _AT_STEP = "one layer over time", "all layers at a step"
_ALL_OVER_TIME = "all layers over time"
_OF_LAYERS = {
    "MaxVio": catalogue.MAX_VIOLATION,
    "load entropy": catalogue.LOAD_ENTROPY_NATS,
    "router entropy": catalogue.ROUTER_ENTROPY_NATS,
    "mutual information": catalogue.MUTUAL_INFORMATION_NATS,
    "dead experts": catalogue.DEAD_EXPERTS,
    "deadlocked": catalogue.DEADLOCKED,
}
"""What is shown of every layer over the steps: depth upwards, so that a deadlock that climbs or
sinks through the layers is seen as such."""


def render(store: Store, run_id: str, window_now: WindowNow, is_live: bool) -> None:
    heading("Expert load", catalogue.EXPERT_LOAD)
    newest = RunReader(store, run_id).expert_load_at(None)
    if newest is None:
        nothing_yet(
            "Not measured in this run, or not yet: a dense model has no experts, "
            "and the first sample comes with the first sampled step."
        )
        return
    num_layers = newest[1].shape[0]
    step: int | None = None
    layer = 0
    signal, of_layers = catalogue.EXPERT_LOAD, "MaxVio"
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        how = st.segmented_control(
            "Show",
            [_OVER_TIME, _AT_STEP, _ALL_OVER_TIME],
            default=_OVER_TIME,
            required=True,
            key="experts",
        )
        if how == _AT_STEP:
            asked = st.number_input(
                "Step",
                min_value=0,
                value=None,
                placeholder="newest",
                key="experts_step",
                width=150,
                help="The nearest sampled step at or before this one; empty follows the newest.",
            )
            step = None if asked is None else int(asked)
        elif how == _ALL_OVER_TIME:
            of_layers = st.selectbox("What", list(_OF_LAYERS), key="experts_what", width=220)
        else:
            layer = st.selectbox("MoE layer", range(num_layers), key="experts_layer", width=150)
            if st.toggle(
                "Every step",
                key="experts_every_step",
                help="Counted at every step instead of at sampled ones: sharper, and more to read.",
            ):
                signal = catalogue.EXPERT_TOKENS

    def heat_map() -> None:
        reader = RunReader(store, run_id)
        window = window_now(reader)
        if how == _AT_STEP:
            _at_step(reader, step)
        elif how == _ALL_OVER_TIME:
            _all_over_time(reader, window, of_layers or "MaxVio")
        else:
            _over_time(reader, window, signal, min(layer or 0, num_layers - 1))

    def alike() -> None:
        reader = RunReader(store, run_id)
        _alike(reader, window_now(reader))

    live(heat_map, CALM_S if is_live else None)
    live(alike, CALM_S if is_live else None)


def _alike(reader: RunReader, window: Window) -> None:
    if catalogue.EXPERT_OUTPUT_COSINE not in reader.signals:
        return  # the run has no probe, or its layers one expert each
    # a cosine may be 0 and less
    linear = window.linear()
    left, right = st.columns(2)
    with left:
        signal, level = catalogue.EXPERT_OUTPUT_COSINE, ("homogenised", HOMOGENISED)
        per_layer(reader, linear, "How alike experts answer", signal, "MoE layer", [level])
    with right:
        signal, level = catalogue.EXPERT_WEIGHT_COSINE, ("clones", 1.0)
        per_layer(reader, linear, "How alike their weights are", signal, "MoE layer", [level])


def _over_time(reader: RunReader, window: Window, signal: str, layer: int) -> None:
    load = reader.branches(signal, window, row=layer)
    if load is None or not load.living.steps.size:
        nothing_yet("No sampled step lies in this range.")
        return
    unit = CATALOGUE[catalogue.EXPERT_LOAD].unit
    chart(
        lambda: load_over_time(load.living, window, layer=layer, unit=unit),
        window,
        "chart_experts",
        f"Load of each of {load.living.low.shape[1]} experts of MoE layer {layer} over the steps.",
        load.version,
    )


def _all_over_time(reader: RunReader, window: Window, what: str) -> None:
    signal = _OF_LAYERS[what]
    heading(what[0].upper() + what[1:], signal)
    found = reader.branches(signal, window)
    if found is None or not found.living.steps.size:
        nothing_yet("Not measured in this run, or no sampled step lies in this range.")
        return
    unit = CATALOGUE[signal].unit
    chart(
        lambda: level_over_time(found.living, window, row="MoE layer", unit=unit),
        window,
        "chart_layers",
        f"{what} of every MoE layer over the steps.",
        found.version,
    )


def _at_step(reader: RunReader, step: int | None) -> None:
    found = reader.expert_load_at(step)
    if found is None:
        nothing_yet("No sampled step lies there.")
        return
    at, load_LE = found
    st.caption(f"Step {at:,}.")
    figure = load_at_step(load_LE, unit=CATALOGUE[catalogue.EXPERT_LOAD].unit)
    chart(figure, None, "chart_experts_now", f"Load of each expert in every layer at step {at}.")
