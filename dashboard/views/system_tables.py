"""What of the system comes in tables: the sinks of living runs, the store's tables, large runs."""

from collections.abc import Sequence

import streamlit as st

from ...platform import catalogue
from ...platform.store import Store
from ...platform.store_sizes import RunSize, TableSize
from .. import reads_of_the_system as reads
from ..reads_of_deeds import MOST_SHOWN, deed_rows, recent_deeds
from ..words import age, counted, gib, plain

LAG_S = 30.0
"""A sink that is further behind wants a look."""
_SIGNALS = {
    "behind, s": catalogue.SINK_LAG_S,
    "left out": catalogue.SINK_COALESCED,
    "lost steps": catalogue.SINK_LOST,
    "refused": catalogue.SINK_REFUSED,
}


def render(store: Store) -> None:
    """Draws the tables of the store and its largest runs; read once, as that costs some."""
    left, right = st.columns(2, gap="medium")
    with left, st.container(border=True, gap="small"):
        st.markdown("#### Tables")
        _tables(reads.tables_now(store.url, store))
    with right, st.container(border=True, gap="small"):
        st.markdown("#### Largest runs")
        _largest(reads.runs_by_size(store.url, store))


def sinks(runs: Sequence[reads.SinksOfARun], now_s: float) -> None:
    """Draws what becomes of the samples of each run on their way; what a silent run told is old."""
    if not runs:
        st.markdown("No run trains at the moment.")
        return
    rows = [
        {"run": one.run.name}
        | {name: one.values.get(signal) for name, signal in _SIGNALS.items()}
        | {
            "waits in the journal": _depths(one),
            "last heard of": f"{age(now_s - one.run.heartbeat_s)} ago",
        }
        for one in runs
    ]
    columns = {
        name: st.column_config.NumberColumn(
            format="%.1f" if signal == catalogue.SINK_LAG_S else "localized",
            help=catalogue.CATALOGUE[signal].help,
        )
        for name, signal in _SIGNALS.items()
    }
    st.dataframe(rows, key="system_sinks", hide_index=True, column_config=columns)


def what_was_done(store: Store) -> None:
    """Draws the newest deeds: who did what in the dashboard, when, and what came of it."""
    found = recent_deeds(store)
    if not found:
        st.markdown("Nothing yet. What operators do in the dashboard is listed here.")
        return
    names = {run.id: run.name for run in store.runs(include_archived=True)}
    # a table's cells are text: neither Markdown nor HTML of a name or a rule is read in them
    st.dataframe(
        deed_rows(found, names),
        key="system_deeds",
        hide_index=True,
        height=min(390, 38 + 35 * len(found)),
        column_config={
            "when": st.column_config.DatetimeColumn("when, UTC", format="YYYY-MM-DD HH:mm:ss")
        },
    )
    if len(found) == MOST_SHOWN:
        st.caption(f"The newest {MOST_SHOWN}.")


def wants_of_sinks(runs: Sequence[reads.SinksOfARun]) -> list[str]:
    """A sentence for each thing that is wrong on the way from a run to a store."""
    wants = []
    for one in runs:
        name = plain(one.run.name, 60)
        if (lag_s := one.values.get(catalogue.SINK_LAG_S, 0.0)) > LAG_S:
            wants.append(f"{name}: the slowest sink is {age(lag_s)} behind.")
        if lost := one.values.get(catalogue.SINK_LOST):
            wants.append(f"{name}: {counted(lost, 'step')} lost, as its disk took nothing.")
        if refused := one.values.get(catalogue.SINK_REFUSED):
            wants.append(f"{name}: {counted(refused, 'record')} that no store could hold.")
    return wants


def _depths(one: reads.SinksOfARun) -> str:
    if one.depths is None:
        return "not seen from here"
    waits = [f"{sink} {gib(size)}" for sink, size in one.depths.items() if size]
    return ", ".join(waits) or "nothing"


def _tables(found: Sequence[TableSize]) -> None:
    shown = [one for one in found if one.num_rows != 0]
    if not shown:
        st.markdown("Nothing has been written yet.")
        return
    _table(
        [{"table": one.name, "rows": one.num_rows, "MiB": _mib(one.num_bytes)} for one in shown],
        "system_tables",
    )
    if any(one.num_rows is None for one in shown):
        st.caption("What is not told would take long to count: `moescope db check` does.")


def _largest(runs: Sequence[RunSize]) -> None:
    if not runs:
        st.markdown("No run has samples yet.")
        return
    _table(
        [{"run": one.name, "steps": one.num_steps, "MiB": _mib(one.num_bytes)} for one in runs],
        "system_runs",
    )
    more = " Some have more than was added up." if any(one.is_more for one in runs) else ""
    st.caption(f"Packed numbers, without what a table adds to each row.{more}")


def _mib(num_bytes: int | None) -> float | None:
    return None if num_bytes is None else num_bytes / 2**20


def _table(rows: list[dict[str, object]], key: str) -> None:
    whole = st.column_config.NumberColumn(format="localized")
    columns = {
        "rows": whole,
        "steps": whole,
        "MiB": st.column_config.NumberColumn(format="%.2f"),
    }
    st.dataframe(rows, key=key, hide_index=True, column_config=columns)
