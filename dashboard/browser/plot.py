"""A chart whose node stays: a refresh keeps zoom, hover box and scroll, as `st.plotly_chart` does
not (facts: ecosystem.md section 5).
"""

import json
from collections.abc import Callable

import streamlit as st

from .drawn import Drawn
from .served import address, plotly_address

# all but the start of the script is a file that is loaded once
_START_JS = """
const decoder = new TextDecoder();
export default async function (component) {
  const { data } = component;
  const told = JSON.parse(decoder.decode(data));
  const { draw } = await import(new URL(told.script, document.baseURI).href);
  return draw(component, told);
}
"""

Range = tuple[float, float] | None
"""First and last x that a person zoomed to; None: all of it."""


def plot(
    figure: Drawn,
    *,
    key: str,
    says: str,
    view: str = "",
    on_range: Callable[[Range], None] | None = None,
) -> None:
    """Shows a figure, or brings the one that is there up to date.

    says: its description for those who do not see it, and its file name when saved. view: while it
    stays the same a zoom survives. on_range: is told once a zoom along x has settled; x of a date
    axis in milliseconds. A figure that is out of sight is drawn when it comes into sight.
    """
    mount = st.components.v2.component("moescope.plot", js=_START_JS, isolate_styles=False)
    head = {
        "script": address("plot.js"),
        "plotly": plotly_address(),
        "says": says,
        "view": view,
        "height": figure.height,
        "steers": on_range is not None,
        "version": figure.version,
    }

    answer = mount(
        key=key,
        data=f'{json.dumps(head)[:-1]}, "figure": {figure.json}}}'.encode(),
        on_range_change=lambda: None,
    )
    # a state and not an event: what comes while a run of the page is under way is not lost
    told, seen = answer.get("range"), f"moescope_range_{key}"
    if on_range is None or not told or told["at"] == st.session_state.get(seen):
        return
    st.session_state[seen] = told["at"]
    on_range(None if told["all"] else (float(told["first"]), float(told["last"])))
