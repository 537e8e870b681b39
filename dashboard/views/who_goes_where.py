"""Who goes where: which experts the probe's tokens of each kind go to, and which work together."""

from collections.abc import Callable, Sequence

import streamlit as st

from ...platform import catalogue
from ...platform.store import Store
from ..heat_maps import who_goes_where, working_together
from ..reads import RunReader
from ..window import Window
from .panel import CALM_S, chart, heading, live, nothing_yet
from .steering import WindowNow

_NO_PROBE = "Not measured, or no probe lies in this range of steps."


def _noise_names(number: int) -> list[str]:
    names = [str(i + 1) for i in range(number)]
    names[0] += ", data"
    names[-1] += ", noise"
    return names


def _class_names(number: int) -> list[str]:
    return [f"class {i}" for i in range(number)]


_TRAITS: dict[str, tuple[str, Sequence[str] | Callable[[int], list[str]]]] = {
    "noise level": (catalogue.ROUTING_BY_TIMESTEP, _noise_names),
    "kind of token": (catalogue.ROUTING_BY_KIND, catalogue.TOKEN_KINDS),
    "motion": (catalogue.ROUTING_BY_MOTION, catalogue.MOTION_BINS),
    "place in the picture": (catalogue.ROUTING_BY_REGION, catalogue.REGIONS),
    "class of the clip": (catalogue.ROUTING_BY_CLASS, _class_names),
}
"""{what tells tokens apart: (signal, names of its values or what gives them their number)}."""


def render(store: Store, run_id: str, window_now: WindowNow, is_live: bool) -> None:
    """Draws nothing of a run whose probe counts no choices: a dense one, or one without a probe."""
    reader = RunReader(store, run_id)
    traits = [name for name, (signal, _) in _TRAITS.items() if signal in reader.signals]
    load = reader.expert_load_at(None)
    if not traits or load is None:
        return
    num_layers, num_experts = load[1].shape
    if not st.toggle("Who goes where", key="who", help="Routing of the probe's tokens."):
        return
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        trait = st.selectbox("Tokens by", traits, key="who_trait", width=220)
        layer = st.selectbox("MoE layer", range(num_layers), key="who_layer", width=150)

    def charts() -> None:
        reader = RunReader(store, run_id)
        window = window_now(reader)
        left, right = st.columns(2)
        with left:
            _by_trait(reader, window, trait or traits[0], layer or 0, num_experts)
        with right:
            _together(reader, window, layer or 0, num_experts)

    live(charts, CALM_S if is_live else None)


def _by_trait(reader: RunReader, window: Window, trait: str, layer: int, num_experts: int) -> None:
    signal, names = _TRAITS[trait]
    heading(f"Who goes where, by {trait}", signal)
    found = reader.at_probe(signal, window.step_range)
    if found is None:
        nothing_yet(_NO_PROBE)
        return
    at, rows = found
    share_VE = rows[layer].reshape(-1, num_experts)
    row_names = names(len(share_VE)) if callable(names) else names
    st.caption(f"MoE layer {layer}, probe of step {at:,}. An even share is {1 / num_experts:.1%}.")
    figure = who_goes_where(share_VE, row_names)
    says = f"Share of each of {num_experts} experts in the choices of tokens by {trait}."
    chart(figure, None, "chart_who", says)


def _together(reader: RunReader, window: Window, layer: int, num_experts: int) -> None:
    heading("Who works together", catalogue.CO_ACTIVATION)
    found = reader.at_probe(catalogue.CO_ACTIVATION, window.step_range)
    if found is None:
        nothing_yet(_NO_PROBE)
        return
    at, rows = found
    st.caption(f"MoE layer {layer}, probe of step {at:,}.")
    figure = working_together(rows[layer].reshape(num_experts, num_experts))
    says = f"Share of the tokens of each of {num_experts} experts that each other one gets too."
    chart(figure, None, "chart_together", says)
