"""What a run was told to do, and in what that differs from another run."""

import pandas as pd
import streamlit as st

from ...platform.errors import MoescopeError
from ...platform.records import Run
from ...platform.store import Store
from ..configurations import differing, flattened
from ..words import plain

MOST_OFFERED = 200


def render(store: Store, run: Run) -> None:
    """Draws nothing until asked: most looks at a run are about how it is."""
    with st.expander("Configuration", icon=":material/settings:", key="configuration"):
        others = {one.id: one.name for one in store.runs()[:MOST_OFFERED] if one.id != run.id}
        left, right = st.columns(2)
        other = left.selectbox(
            "Differences to",
            ["", *others],
            format_func=lambda i: others.get(i, "no other run: show all of it"),
            key="configuration_of",
        )
        wanted = right.text_input("Find a key", key="configuration_find").strip().lower()
        if other:
            _differences(store, run, other, wanted)
        else:
            rows = [(k, v) for k, v in flattened(run.config).items() if wanted in k.lower()]
            _table(pd.DataFrame(rows, columns=["key", "value"]), "No key has this in its name.")


def _differences(store: Store, run: Run, other_id: str, wanted: str) -> None:
    try:
        other = store.find_run(other_id)
    except MoescopeError as error:
        st.text(str(error))
        return
    found = differing({"this run": run.config, "the other": other.config})
    rows = [
        {"key": path, "this run": row["this run"], other.name: row["the other"]}
        for path, row in found.items()
        if wanted in path.lower()
    ]
    st.caption(f"{len(found)} keys differ between {plain(run.name, 60)} and {plain(other.name)}.")
    _table(pd.DataFrame(rows), "Both were told the same." if not found else "No such key differs.")


def _table(rows: pd.DataFrame, if_empty: str) -> None:
    if rows.empty:
        st.caption(if_empty)
    else:
        st.dataframe(rows, hide_index=True, key="configuration_rows")
