"""The page of control: what a person can ask of a run, where to it can go back, the answers."""

import streamlit as st

from ...platform.claims import how_to_go_on
from ...platform.errors import MoescopeError
from ...platform.store import Store
from ..reads_of_control import MOST_COMMANDS, ControlNow, control_now
from ..theme import LAMPS
from ..words import age, number, plain, plain_with_code
from ..words_of_commands import why_not
from . import asked, by_hand, going_back
from .panel import LIVE_S, LinkToRun, badge, live

SELDOM_S = 30.0
"""Seconds between refreshes of the timeline; an answer or a state on the disk is shown at once."""


def render(
    store: Store,
    wanted: str,
    link_to_run: LinkToRun | None = None,
    link_to_rules: LinkToRun | None = None,
    link_to_alerts: LinkToRun | None = None,
) -> None:
    """Draws the page of control of a run. wanted: id, beginning of an id, or name."""
    if not wanted:
        st.info("No run yet. `moescope train tiny --data FOLDER` starts one; it appears here.")
        return
    try:
        run = store.find_run(wanted)
    except MoescopeError as error:
        st.header("No such run")
        st.text(str(error))
        return
    links = {"Run": link_to_run, "Rules": link_to_rules, "Alerts": link_to_alerts}
    live(lambda: _head(store, run.id, links), LIVE_S)
    left, right = st.columns([3, 2], gap="large")
    with left:
        live(lambda: by_hand.render(store, run.id), LIVE_S)
        # drawn anew, a figure blinks and an open list closes, and states come every few steps
        live(lambda: going_back.render(store, run.id), SELDOM_S)
    with right:
        st.subheader("What was asked")
        live(lambda: asked.render(store, run.id, MOST_COMMANDS), LIVE_S)


def _is_news(here: ControlNow) -> bool:
    """Whether a command was answered, or a state saved on the disk, since this session last saw."""
    key = f"seen_on_control_{here.now.run.id}"
    states = [(s.step, s.segment, s.health) for s in here.states if s.place != "memory"]
    answered = [c.id for c in here.commands if c.state in ("done", "refused")]
    news = hash((tuple(states), tuple(answered), here.now.run.status))
    before = st.session_state.get(key)
    st.session_state[key] = news
    return before not in (None, news)


def _head(store: Store, run_id: str, links: dict[str, LinkToRun | None]) -> None:
    here = control_now(store, run_id)
    now = here.now
    if _is_news(here):
        # the timeline, which is drawn anew more seldom else, shows it at once
        st.rerun(scope="app")
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown(f"## {plain(now.run.name, 80)}", width="content")
        badge(LAMPS[now.lamp])
        if here.is_paused:
            st.badge("paused", icon=":material/pause_circle:", color="orange")
        for label, link in links.items():
            if link is not None:
                link(label, run_id)
    of = f" of {now.num_steps:,}" if now.num_steps else ""
    facts = ["before its first step" if now.step is None else f"step **{now.step + 1:,}**{of}"]
    if now.loss is not None:
        facts.append(f"loss **{number(now.loss)}**")
    if now.is_live:
        facts.append(f"heartbeat **{age(now.heartbeat_age_s)}** ago")
    st.markdown(" · ".join(facts))
    if reason := why_not(now):
        st.warning(
            f"{reason} {plain_with_code(how_to_go_on(now.run)).capitalize()}.",
            icon=LAMPS[now.lamp].icon,
        )
