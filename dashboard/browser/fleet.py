"""The table of runs in the browser: a component of ours that keeps its place while values come in.

Streamlit's own table would be drawn anew at each refresh, and has neither lines nor words with a
sign. The component's node stays, as it has a key; its script writes text as text.
"""

from collections.abc import Callable, Mapping
from typing import Any

import streamlit as st

from .served import address

KEY = "fleet_table"
MOST_CHOSEN = 10
"""Runs that can be compared at once."""
_FRAME = '<div class="fleet"><p class="loading">Reading the runs…</p></div>'
# all but the start of the script is files that are loaded once
_START_JS = """
let loaded;
export default async function (component) {
  const at = (name) => new URL(component.data.files[name], document.baseURI).href;
  loaded ??= Promise.all([
    import(at("cells")), import(at("table")), fetch(at("look")).then((answer) => answer.text()),
  ]);
  const [cells, table, look] = await loaded;
  return table.draw(component, cells, look);
}
"""


def fleet_table(
    data: Mapping[str, Any], *, on_view: Callable[[], None], on_ask: Callable[[], None]
) -> Mapping[str, Any]:
    """Draws the table. What comes back, once each: `open` with a run's id, `compare` with several.

    on_view, on_ask: called before the page runs again, when search, order or list have changed and
    when the table misses something; `told` has what it said.
    """
    mount = st.components.v2.component("moescope.fleet", html=_FRAME, js=_START_JS)
    files = {"cells": "fleet_cells.js", "table": "fleet_table.js", "look": "fleet.css"}
    answer: Mapping[str, Any] = mount(
        key=KEY,
        data={**data, "files": {name: address(file) for name, file in files.items()}},
        on_view_change=on_view,
        on_ask_change=on_ask,
        on_open_change=lambda: None,
        on_compare_change=lambda: None,
    )
    return answer


def told(name: str) -> Any:
    """What the table said last under a name; None where it said nothing."""
    state = st.session_state.get(KEY)
    return None if state is None else state.get(name)
