"""The strip of control on a run's page: how far it acts by itself, what waits, the way there."""

import time

import streamlit as st

from ...platform.store import Store
from ..reads import RunNow, recent_commands
from ..states_of_a_run import is_paused
from ..words_of_commands import MODES
from .asked import newest_in_words, waiting
from .panel import LinkToRun

MODE_BADGES = {
    "on": (":material/autorenew:", "green"),
    "advisory": (":material/visibility:", "blue"),
    "off": (":material/motion_photos_off:", "gray"),
}


def render(
    store: Store,
    now: RunNow,
    link_to_control: LinkToRun | None = None,
    link_to_rules: LinkToRun | None = None,
) -> None:
    run = now.run
    commands = recent_commands(store, run.id)
    with st.container(border=True, key="control_strip"):
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            st.markdown("Automatic action", width="content")
            icon, colour = MODE_BADGES[run.mode]
            st.badge(run.mode, icon=icon, color=colour, help=MODES[run.mode])  # type: ignore[arg-type]
            if now.is_live and is_paused(commands, store.segments(run.id)):
                st.badge("paused", icon=":material/pause_circle:", color="orange")
            if num := len(waiting(commands)):
                st.badge(f"{num} without answer", icon=":material/schedule:", color="orange")
            if link_to_control is not None:
                link_to_control("Control", run.id)
            if link_to_rules is not None:
                link_to_rules("Rules", run.id)
        if said := newest_in_words(commands, time.time()):
            st.caption(said)
