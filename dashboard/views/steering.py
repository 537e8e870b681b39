"""The widgets above a run's charts: which steps, which axis and scale, how smooth, moving or not.

They stand outside the live parts, and the address keeps them (`?steps=100-400&x=tokens&log=1`), so
what was seen can be passed on. A zoom made with the mouse in any chart over steps becomes the range
of all of them, is read anew in finer buckets, and stands in the address too.
"""

import re
from collections.abc import Callable
from typing import get_args

import streamlit as st

from ..clock import Axis, Clock
from ..reads import RunReader
from ..window import StepRange, Window
from .panel import keep, take_zoom, zoom_to

_ALL, _LAST_1000, _LAST_200, _RANGE = "all", "last 1000", "last 200", "from … to"
_IN_ADDRESS = {_ALL: "", _LAST_1000: "last-1000", _LAST_200: "last-200"}
SMOOTHINGS = (0, 10, 100, 1000, 10_000)
_AXES: dict[str, Axis] = {axis.replace(" ", "-"): axis for axis in get_args(Axis)}
"""{name in the address: axis}"""

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


def turned(first: int, last: int) -> tuple[int, int]:
    """The two in their order, and never the same.

    >>> turned(100, 50), turned(7, 7)
    ((50, 100), (7, 8))
    """
    low, high = min(first, last), max(first, last)
    return low, max(low + 1, high)


def step_range(choice: str, first: int, last: int, newest: int) -> StepRange:
    """Returns the steps of a choice. A range that was typed the wrong way round is turned."""
    if choice == _RANGE:
        return turned(first, last)
    if choice == _ALL:
        return None
    num_steps = 1000 if choice == _LAST_1000 else 200
    return max(0, newest - num_steps + 1), newest


def render(reader: RunReader, is_live: bool) -> tuple[WindowNow, bool]:
    """Draws the widgets. Returns the window they ask for, and whether the charts move."""
    take_zoom()
    _take_from_address()
    state = st.session_state
    axes = reader.axes()
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium", key="steering"):
        choice = st.segmented_control(
            "Steps",
            [_ALL, _LAST_1000, _LAST_200, _RANGE],
            required=True,
            key="steps",
            help="A range dragged in any chart over steps shows here, and in all charts.",
        )
        axis = st.selectbox("Across", axes, key="axis", width=130)
        smoothing = st.selectbox(
            "Smooth",
            SMOOTHINGS,
            key="smoothing",
            format_func=lambda n: f"{n:,} steps" if n else "not",
            width=130,
            help="Lines follow the mean of so many steps, of all data and not of what is drawn; at "
            "the ends of a range, of what lies inside it. The band stays: it shows each bucket's "
            "lowest and highest value.",
        )
        with st.container(horizontal=True, gap="small", width="content"):
            is_log = st.toggle("Log values", key="log")
            is_log_x = st.toggle("Log across", key="log_x", disabled=axis == "wall time")
            is_paused = is_live and st.toggle(
                "Pause", key="paused", help="Stands still until it is switched off."
            )
    # there even if empty: were it put in later, what stands below would be drawn as new
    with st.container(key="range_place"):
        if choice == _RANGE:
            _range_widgets(reader.newest_step())
    first, last = int(state["from"]), int(state["to"])
    low, high = turned(first, last)
    keep("steps", _IN_ADDRESS.get(choice or _ALL, f"{low}-{high}"))
    keep("x", "" if axis in (None, "step") else axis.replace(" ", "-"))
    keep("smooth", str(smoothing or ""))
    keep("log", "1" if is_log else "")
    keep("logx", "1" if is_log_x else "")

    def window_now(reader: RunReader) -> Window:
        clock = reader.clock(axis or "step")
        asked = step_range(choice or _ALL, first, last, reader.newest_step())
        is_log_across = is_log_x and clock.axis != "wall time"
        return Window(asked, is_log, is_log_across, smoothing or 0, clock, _zoom_with(clock))

    return window_now, is_live and not is_paused


def _take_from_address() -> None:
    asked, state = st.query_params, st.session_state
    choice, first, last = from_address(asked.get("steps", ""))
    state.setdefault("steps", choice)
    state.setdefault("from", first)
    state.setdefault("to", last)
    state.setdefault("axis", _AXES.get(asked.get("x", ""), "step"))
    smooth = asked.get("smooth", "")
    is_known = smooth in {str(number) for number in SMOOTHINGS}
    state.setdefault("smoothing", int(smooth) if is_known else 0)
    state.setdefault("log", asked.get("log") == "1")
    state.setdefault("log_x", asked.get("logx") == "1")
    for key in ("steps", "from", "to", "axis", "smoothing", "log", "log_x"):
        # said anew in each run: of two runs that a browser takes at once, as when a page has just
        # opened, it hears the last one, and would show something else than is drawn
        state[key] = state[key]


def _range_widgets(newest: int) -> None:
    """A slider for the hand, two numbers for the exact; each follows the other."""
    state = st.session_state
    most = max(newest, int(state["from"]), int(state["to"]), 1)
    state["range"] = (min(state["from"], state["to"]), max(state["from"], state["to"]))

    def slid() -> None:
        state["from"], state["to"] = state["range"]

    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium", key="range_row"):
        st.number_input("From", min_value=0, key="from", width=130)
        st.slider("Range of steps", 0, most, key="range", on_change=slid)
        st.number_input("To", min_value=1, key="to", width=130)


def _zoom_with(clock: Clock) -> Callable[[tuple[float, float] | None], None]:
    def zoomed(asked: tuple[float, float] | None) -> None:
        if asked is None:
            zoom_to({"steps": _ALL})
        else:
            first, last = sorted(max(0, clock.step_at(x)) for x in asked)
            zoom_to({"steps": _RANGE, "from": first, "to": max(first + 1, last)})

    return zoomed
