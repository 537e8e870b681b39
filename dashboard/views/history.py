"""What happened to a run and what was asked of it, newest first."""

import time

import streamlit as st

from ...platform.records import EventKind
from ...platform.store import Store
from ..words import age, plain
from . import asked

_ICONS: dict[EventKind, str] = {
    "decay": ":material/trending_down:",
    "resolution": ":material/aspect_ratio:",
    "data_change": ":material/dataset:",
    "resume": ":material/play_arrow:",
    "rollback": ":material/undo:",
    "checkpoint": ":material/save:",
    "guard": ":material/shield:",
    "skip_data": ":material/skip_next:",
    "damp": ":material/volume_down:",
    "note": ":material/notes:",
    "halt": ":material/front_hand:",
}
MOST_SHOWN = 12


def render(store: Store, run_id: str) -> None:
    left, right = st.columns(2)
    with left:
        st.subheader("Events")
        events = sorted(store.events(run_id), key=lambda e: e.time_s, reverse=True)
        if not events:
            st.caption("Nothing has happened yet that is worth a mark.")
        now_s = time.time()
        for event in events[:MOST_SHOWN]:
            st.markdown(
                f"{_ICONS.get(event.kind, ':material/circle:')} step {event.step:,} · "
                f"**{event.kind.replace('_', ' ')}** · {plain(event.text, 200)} "
                f":gray[{age(now_s - event.time_s)} ago]"
            )
        if len(events) > MOST_SHOWN:
            st.caption(f"{len(events) - MOST_SHOWN} older ones are marked on the loss chart.")
    with right:
        st.subheader("Commands")
        asked.render(store, run_id)
