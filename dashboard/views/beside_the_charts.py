"""What stands beside a run's charts: its note and tags, saved views, export, comparing it."""

import streamlit as st

from ...platform.records import Run
from ...platform.store import Store
from . import export, notes, saved_views
from .panel import LinkToRun
from .steering import WindowNow


def render(
    store: Store, run: Run, window_now: WindowNow | None, link_to_compare: LinkToRun | None
) -> None:
    """window_now: None where nothing has been measured yet."""
    with st.container(horizontal=True, vertical_alignment="center", gap="small", key="beside"):
        notes.render(store, run)
        saved_views.render(store, "run")
        if window_now is not None:
            export.render(store, run, window_now)
        if link_to_compare is not None:
            link_to_compare("Compare", run.id)
