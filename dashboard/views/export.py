"""The measured data of a run as a file: every point, of the whole run or of the steps shown."""

from functools import partial

import streamlit as st

from ...platform import catalogue
from ...platform.history.export_files import Format
from ...platform.records import Run
from ...platform.store import Store
from ..reads import RunReader
from ..reads_of_exports import MOST_NUMBERS, exported, num_numbers
from ..words import plain, short
from .panel import store_may_be_away
from .steering import WindowNow

_FORMATS: dict[str, tuple[Format, str]] = {
    "CSV": ("csv", "text/csv"),
    "Parquet": ("parquet", "application/vnd.apache.parquet"),
    "JSON Lines": ("jsonl", "application/jsonl"),
}
_WHOLE, _SHOWN = "whole run", "steps shown"


def render(store: Store, run: Run, window_now: WindowNow) -> None:
    with (
        st.popover("Export", icon=":material/download:", key="export", width="content"),
        store_may_be_away(),
    ):
        _form(store, run, window_now)


def _form(store: Store, run: Run, window_now: WindowNow) -> None:
    reader = RunReader(store, run.id)
    measured = sorted(reader.signals)
    default = [name for name in (catalogue.LOSS_TOTAL,) if name in measured]
    signals = st.multiselect("Signals", measured, default=default, key="export_signals")
    word = st.segmented_control(
        "As", list(_FORMATS), default="CSV", required=True, key="export_format"
    )
    steps = st.segmented_control(
        "Of the", [_WHOLE, _SHOWN], default=_WHOLE, required=True, key="export_steps"
    )
    is_living_only = st.toggle("Without abandoned branches", key="export_living")
    if not signals:
        st.caption("Choose a signal.")
        return
    format, mime = _FORMATS[word or "CSV"]
    step_range = window_now(reader).step_range if steps == _SHOWN else None
    num = num_numbers(store, run.id, signals, step_range)
    if num > MOST_NUMBERS[format]:
        st.caption(
            f"Up to {short(num)} numbers are too many for a page as {word}. Take fewer signals or "
            f"steps, or `moescope export {plain(run.id, 40)} --format {format}` on the machine."
        )
        return
    st.caption(f"Every point, not thinned: up to {short(num)} numbers.")
    st.download_button(
        "Download",
        partial(exported, store, run, signals, format, step_range, is_living_only),
        file_name=f"{run.id}.{format}",
        mime=mime,
        key="export_download",
        icon=":material/download:",
        on_click="ignore",
    )
