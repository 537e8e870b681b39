"""How losses of samples, noise levels, gradients and loads are spread, and how that changes."""

from dataclasses import dataclass

import streamlit as st

from ...platform import catalogue
from ...platform.catalogue import MODALITIES, signal_spec
from ...platform.store import Store
from ..distributions import distribution_over_time
from ..reads import RunReader
from ..reads_of_distributions import columns_of
from .panel import CALM_S, chart, heading, live, nothing_yet
from .steering import WindowNow


@dataclass(frozen=True, slots=True)
class Spread:
    """One that can be drawn."""

    signal: str
    row: int | None = None
    is_log: bool = True
    ends: tuple[float, float] | None = None
    """Of the axis of values; None: as far as they go."""


SPREADS: dict[str, Spread] = {
    **{
        f"loss of {m} samples": Spread(catalogue.LOSS_PER_SAMPLE, i)
        for i, m in enumerate(MODALITIES)
    },
    **{
        f"noise level of {m} samples": Spread(catalogue.LOSS_SIGMA, i, False, (0.0, 1.0))
        for i, m in enumerate(MODALITIES)
    },
    "gradient norm of blocks": Spread(catalogue.GRAD_LAYER_NORM),
    "update over weight of blocks": Spread(catalogue.UPDATE_WEIGHT_RATIO),
    "activation RMS of blocks": Spread(catalogue.ACTIVATION_RMS),
    "load of experts": Spread(catalogue.EXPERT_LOAD, is_log=False),
}


def render(store: Store, run_id: str, window_now: WindowNow, is_live: bool) -> None:
    if not st.toggle("Distributions over time", key="distributions"):
        return
    measured = RunReader(store, run_id).signals
    offered = [name for name, spread in SPREADS.items() if spread.signal in measured]
    if not offered:
        nothing_yet("This run measures no samples, blocks or experts, or not yet.")
        return
    chosen = st.selectbox(
        "Distribution", offered, key="distribution", width=320, label_visibility="collapsed"
    )
    live(lambda: _one(store, run_id, window_now, chosen), CALM_S if is_live else None)


def _one(store: Store, run_id: str, window_now: WindowNow, name: str) -> None:
    spread = SPREADS[name]
    heading(f"{name[0].upper()}{name[1:]}", spread.signal)
    reader = RunReader(store, run_id)
    window = window_now(reader).linear()
    columns = columns_of(store, reader, spread.signal, spread.row, window.step_range)
    if columns is None:
        nothing_yet("Nothing was measured in these steps, or it was forgotten by rule.")
        return
    figure = distribution_over_time(
        columns,
        window,
        unit=signal_spec(spread.signal).unit,
        is_log=spread.is_log,
        ends=spread.ends,
    )
    chart(figure, window, "chart_distribution", f"{name}: shares of values over the steps.")
    if columns.num_read < columns.width:
        st.caption(
            f"Each column stands for {columns.width:,} steps and shows the first "
            f"{columns.num_read} of them. The dotted line is the median."
        )
    else:
        st.caption("The dotted line is the median.")
