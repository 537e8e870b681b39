"""The page that compares: up to ten runs laid over each other, what each came to, and what they
were asked to do otherwise.
"""

import time
from collections.abc import Mapping, Sequence

import pandas as pd
import streamlit as st

from ...platform import catalogue
from ...platform.catalogue import signal_spec
from ...platform.records import DamagedConfig
from ...platform.store import Store
from ..charts_of_many import Line, grouped_figure, overlaid_figure
from ..configurations import differing
from ..finals import finals_over_seeds, finals_table
from ..reads import lamp, open_alerts_by_run
from ..reads_of_many import Compared, compared, final_of, find_runs, lines_of
from ..settings_of_runs import by_all_but_the_seed, by_key, flat_config
from ..theme import LAMPS
from ..words import age, plain
from . import compare_results, saved_views
from .compare_steering import APART, BY_SEED, Look
from .compare_steering import render as steer
from .panel import CALM_S, LinkToRun, badge, chart, heading, live, nothing_yet, page_of_the_store

_NAMES = {
    catalogue.LOSS_TOTAL: "Loss",
    catalogue.GRAD_NORM: "Gradient norm",
    catalogue.TOKENS_PER_S: "Tokens/s",
}


def render(store: Store, link_to_run: LinkToRun) -> None:
    with page_of_the_store():
        _page(store, link_to_run)


def _page(store: Store, link_to_run: LinkToRun) -> None:
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.header("Compare", width="stretch")
        saved_views.render(store, "compare")
    look = steer(store)
    if look is None:
        return
    every_s = None if look.is_paused else CALM_S
    live(lambda: _links(store, look, link_to_run), every_s)
    live(lambda: _charts(store, look), every_s)
    live(lambda: _finals(store, look), every_s)
    _differences(store, look)
    compare_results.render(store, look)


def title_of(signal: str) -> str:
    """Says a signal in words, without its group."""
    words = signal.rpartition("/")[2].replace("_", " ")
    return plain(_NAMES.get(signal, words[:1].upper() + words[1:]), 60)


def _links(store: Store, look: Look, link_to_run: LinkToRun) -> None:
    runs, _ = find_runs(store, look.run_ids)
    now_s, alerts = time.time(), open_alerts_by_run(store)
    with st.container(horizontal=True, vertical_alignment="center", gap="small", key="links"):
        for run in runs:
            word = lamp(run, alerts.get(run.id, []), now_s)
            since = f"No heartbeat for {age(now_s - run.heartbeat_s)}."
            with st.container(
                horizontal=True, vertical_alignment="center", gap="xsmall", width="content"
            ):
                link_to_run(run.name, run.id)
                badge(LAMPS[word], since if word == "silent" else None)


def _charts(store: Store, look: Look) -> None:
    runs = compared(store, find_runs(store, look.run_ids)[0], look.axis)
    _say_who_is_missing(runs, look)
    for first in range(0, len(look.signals), 2):
        pair = look.signals[first : first + 2]
        # a row for each pair, so that a phone shows them in their order
        for column, signal in zip(st.columns(2), pair, strict=False):
            with column:
                heading(title_of(signal), signal)
                _chart(runs, look, signal)


def _say_who_is_missing(runs: Sequence[Compared], look: Look) -> None:
    unmeasured = [one.label for one in runs if not one.reader.signals]
    untold = [one.label for one in runs if one.reader.signals and one.clock is None]
    if unmeasured:
        st.caption(f"No signal has arrived yet of {plain(', '.join(unmeasured))}.")
    if untold:
        st.caption(
            f"Not drawn, since {look.axis} were not measured: {plain(', '.join(untold))}. "
            "Across steps they are."
        )


def _chart(runs: Sequence[Compared], look: Look, signal: str) -> None:
    lines = lines_of(runs, signal, look.across.span, look.smoothing)
    if not lines:
        nothing_yet("None of these runs has measured it, or not in this range.")
        return
    unit = signal_spec(signal).unit
    names = ", ".join(line.name for line in lines)
    says = f"{title_of(signal)} of {names} across {look.across.title}."
    key, made_of = f"compare_{signal}", None
    if look.axis == "step":  # another measure also depends on another signal
        told = tuple((line.name, line.place, line.version) for line in lines)
        made_of = (look.across, look.group, told)
    if look.group == APART:
        chart(
            lambda: overlaid_figure(lines, look.across, unit=unit),
            look.window, key, says, made_of,
        )  # fmt: skip
        return
    figure = grouped_figure(_grouped(runs, lines, look.group), look.across, unit=unit)
    if len(figure.data) == 0:
        nothing_yet("The runs of a group share no place of this axis.")
        return
    chart(figure, look.window, key, says)


def _grouped(
    runs: Sequence[Compared], lines: Sequence[Line], group: str
) -> Mapping[str, list[Line]]:
    configs = {one.run.id: flat_config(one.run) for one in runs}
    ids = by_all_but_the_seed(configs) if group == BY_SEED else by_key(configs, group)
    of_run = {one.run.id: line for one in runs for line in lines if line.place == one.place}
    groups = {name: [of_run[i] for i in run_ids if i in of_run] for name, run_ids in ids.items()}
    return {name: found for name, found in groups.items() if found}


def _finals(store: Store, look: Look) -> None:
    st.subheader("What they came to")
    if not look.signals:
        nothing_yet("Choose a signal above.")
        return
    signal = st.selectbox(
        "In",
        look.signals,
        key="compare_final",
        format_func=title_of,
        label_visibility="collapsed",
        width=240,
    )
    runs = compared(store, find_runs(store, look.run_ids)[0], look.axis)
    finals = {one.run.id: final_of(one, signal) for one in runs}
    st.dataframe(
        finals_table(list(finals.values())),
        key="compare_finals",
        hide_index=True,
        column_config={
            **{
                name: st.column_config.NumberColumn(format="%.5g")
                for name in ("last", "lowest", "mean of the last 5%")
            },
            "lowest": st.column_config.NumberColumn(
                format="%.5g", help="Of what counts, without abandoned branches."
            ),
            "steps": st.column_config.NumberColumn(format="localized"),
            "at step": st.column_config.NumberColumn(format="localized"),
            "tokens": st.column_config.NumberColumn(format="compact"),
            "FLOPs": st.column_config.NumberColumn(format="scientific"),
            "hours": st.column_config.NumberColumn(
                format="%.2f", help="From its beginning to its end, or to its newest heartbeat."
            ),
            "page": st.column_config.LinkColumn(display_text="open"),
        },
    )
    configs = {one.run.id: flat_config(one.run) for one in runs}
    groups = by_all_but_the_seed(configs)
    if any(len(ids) > 1 for ids in groups.values()):
        st.markdown(
            "**Over seeds** :gray[mean ± standard deviation of runs that differ in their seed only]"
        )
        of_groups = {name: [finals[run_id] for run_id in ids] for name, ids in groups.items()}
        st.dataframe(finals_over_seeds(of_groups), key="compare_over_seeds", hide_index=True)


def _differences(store: Store, look: Look) -> None:
    st.subheader("What they were asked to do otherwise")
    runs = compared(store, find_runs(store, look.run_ids)[0], look.axis)
    lost = [one.label for one in runs if isinstance(one.run.config, DamagedConfig)]
    if lost:
        st.warning(f"The configuration of {plain(', '.join(lost))} cannot be read.")
    if len(runs) < 2:
        nothing_yet("One run differs from nothing: choose another beside it.")
        return
    found = differing({one.run.id: flat_config(one.run) for one in runs})
    if not found:
        nothing_yet("Nothing: configuration, device and program are the same.")
        return
    rows = [
        {"key": key, **{one.label: of_run[one.run.id] for one in runs}}
        for key, of_run in found.items()
    ]
    st.dataframe(pd.DataFrame(rows), key="compare_differences", hide_index=True)
