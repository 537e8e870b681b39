"""What a run's trainer said: the end of its log, and what of it has the wanted words."""

from pathlib import Path

import streamlit as st

from ...platform.run_log import cleaned, end_of
from ...platform.store import Store
from ..reads_of_logs import logs_of
from ..words import short
from .panel import CALM_S, live, nothing_yet

MOST_LINES = 500
_HEIGHT = 420


def render(store: Store, run_id: str, is_live: bool) -> None:
    if st.toggle("Log", key="log_of_run"):
        _steered(store, run_id, is_live)


def _steered(store: Store, run_id: str, is_live: bool) -> None:
    sources = logs_of(store, store.find_run(run_id))
    if not sources:
        nothing_yet(
            "No log of this run is on this machine: it lies in the run's folder where it trains."
        )
        return
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        chosen = st.selectbox(
            "Log of the run",
            list(sources),
            key="log_source",
            width=300,
            label_visibility="collapsed",
        )
        words = st.text_input(
            "Lines with",
            key="log_words",
            placeholder="lines with these words",
            label_visibility="collapsed",
        )
    source = sources[chosen]
    live(lambda: _end(source, words or ""), CALM_S if is_live else None)


def _end(source: Path | str, words: str) -> None:
    if isinstance(source, str):
        every = [cleaned(line) for line in source.splitlines()]
        lines = [line for line in every if words.lower() in line.lower()]
        said = f"Lines: {len(lines):,}"
    else:
        found = end_of(source, MOST_LINES, words)
        if found is None:
            nothing_yet("This log cannot be read any more.")
            return
        lines = list(found.lines)
        said = f"The last {len(lines):,} lines of {short(found.num_bytes)}B"
        if words:
            said = f"Lines with these words: {found.num_found:,}"
            said += f", of which the last {len(lines):,} are shown" * (found.num_found > len(lines))
            said += "" if found.is_whole else "; what lies further back was not looked through"
    st.caption(said)
    if lines:
        with st.container(height=_HEIGHT, autoscroll=True, key="log_text"):
            # text of a run: never markup
            st.code("\n".join(lines), language=None, wrap_lines=True)
