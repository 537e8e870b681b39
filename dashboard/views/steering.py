"""The widgets above a run's charts: which steps, which scale, moving or not.

They stand outside the live parts, and the address keeps them (`?steps=100-400&log=1`): so a range
of steps outlives every refresh, which a zoom made with the mouse does not, and can be passed on.
"""

import re
from collections.abc import Callable

import streamlit as st

from ..reads import RunReader
from ..window import StepRange, Window

_ALL, _LAST_1000, _LAST_200, _RANGE = "all", "last 1000", "last 200", "from … to"
_IN_ADDRESS = {_ALL: "", _LAST_1000: "last-1000", _LAST_200: "last-200"}

WindowNow = Callable[[RunReader], Window]
"""The window that the widgets ask for, once the reader says which step is the newest."""


def from_address(text: str) -> tuple[str, int, int]:
    """Reads `last-200` or `100-400` into (choice, first, last); all steps if unreadable."""
    for choice, name in _IN_ADDRESS.items():
        if text == name:
            return choice, 0, 1000
    if found := re.fullmatch(r"(\d{1,12})-(\d{1,12})", text):
        first, last = int(found[1]), int(found[2])
        if first < last:
            return _RANGE, first, last
    return _ALL, 0, 1000


def step_range(choice: str, first: int, last: int, newest: int) -> StepRange:
    """Returns the steps of a choice. A range that was typed the wrong way round is turned."""
    if choice == _RANGE:
        return min(first, last), max(first + 1, last)
    if choice == _ALL:
        return None
    num_steps = 1000 if choice == _LAST_1000 else 200
    return max(0, newest - num_steps + 1), newest


def render(is_live: bool) -> tuple[WindowNow, bool]:
    """Draws the widgets. Returns the window they ask for, and whether the charts move."""
    choice, first, last = from_address(st.query_params.get("steps", ""))
    st.session_state.setdefault("steps", choice)
    st.session_state.setdefault("from", first)
    st.session_state.setdefault("to", last)
    st.session_state.setdefault("log", st.query_params.get("log") == "1")
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium", key="steering"):
        choice = (
            st.segmented_control(
                "Steps", [_ALL, _LAST_1000, _LAST_200, _RANGE], required=True, key="steps"
            )
            or _ALL
        )
        if choice == _RANGE:
            first = int(st.number_input("From", min_value=0, key="from", width=130))
            last = int(st.number_input("To", min_value=1, key="to", width=130))
        is_log = st.toggle("Log scale", key="log")
        is_paused = is_live and st.toggle(
            "Pause",
            key="paused",
            help="Stands still, so that you can zoom with the mouse; a refresh undoes a zoom.",
        )
    _keep("steps", _IN_ADDRESS.get(choice, f"{min(first, last)}-{max(first + 1, last)}"))
    _keep("log", "1" if is_log else "")

    def window_now(reader: RunReader) -> Window:
        asked = step_range(choice, first, last, reader.newest_step())
        return Window(asked, is_log, is_zoomable=is_paused or not is_live)

    return window_now, is_live and not is_paused


def _keep(name: str, value: str) -> None:
    if value == st.query_params.get(name, ""):
        return
    if value:
        st.query_params[name] = value
    else:
        st.query_params.pop(name, None)
