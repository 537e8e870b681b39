"""Settings and results: a dot and a thread for each run, to see which setting did what."""

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from ...platform.catalogue import signal_spec
from ...platform.records import Run
from ...platform.store import Store
from ..charts_of_many import scatter_figure
from ..configurations import ABSENT, differing
from ..reads_of_many import Result, find_runs, results_of
from ..settings_of_runs import is_seed, numbers_of, text_of, wants_log
from ..threads import threads_figure
from ..words import plain
from .compare_steering import Look
from .panel import chart, nothing_yet, store_may_be_away

MOST_RESULTS = 500
"""Newest runs: what is looked at is a sweep, not a life's work."""
MOST_THREADS = 8
"""Settings that have an axis."""
_CHOSEN, _ALL = "of the chosen runs", "of all runs"


def render(store: Store, look: Look) -> None:
    st.subheader("Settings and results")
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        shown = st.segmented_control(
            "Of", [_CHOSEN, _ALL], key="compare_results_of", label_visibility="collapsed"
        )
        words = ""
        if shown == _ALL:
            words = st.text_input(
                "Find",
                key="compare_results_find",
                placeholder="name, project, tag or status",
                label_visibility="collapsed",
            )
    if shown is None:
        nothing_yet("A chart of what each run came to, over its settings.")
        return
    with store_may_be_away():
        if shown == _ALL:
            runs = [run for run in store.runs() if has_words(run, words or "")][:MOST_RESULTS]
        else:
            runs, _ = find_runs(store, look.run_ids)
        _results(store, look, runs)


def has_words(run: Run, wanted: str) -> bool:
    """Says whether every wanted word occurs in a run's name, project, tags or status."""
    text = " ".join((run.name, run.project, *run.tags, run.status)).lower()
    return all(word in text for word in wanted.lower().split())


def _results(store: Store, look: Look, runs: Sequence[Run]) -> None:
    if not look.signals:
        nothing_yet("Choose a signal above.")
        return
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        signal = st.selectbox("Result", look.signals, key="compare_result", width=220)
        which = st.segmented_control(
            "Its", ["last", "lowest"], default="last", required=True, key="compare_result_which"
        )
    results = [
        (result, value)
        for result in results_of(store, runs, signal)
        if (value := result.last if which == "last" else result.low) is not None
    ]
    configs = {result.run.id: result.config for result, _ in results}
    keys = _in_order(differing(configs), [result for result, _ in results])
    if len(results) < 2 or not keys:
        nothing_yet("It takes two runs that have measured it and differ in a setting.")
        return
    title = f"{which} {signal}"
    _dots(results, keys, signal, title)
    _threads(results, keys, signal, title)


def _in_order(found: Mapping[str, Any], results: Sequence[Result]) -> list[str]:
    """Returns the settings that differ: numbers first, seeds and what a program adds last."""

    def rank(key: str) -> tuple[bool, bool, bool, str]:
        values = _values(results, key)
        return (key.startswith("("), is_seed(key), numbers_of(values) is None, key)

    return sorted(found, key=rank)


def _values(results: Sequence[Result], key: str) -> list[Any]:
    return [result.config.get(key) for result in results]


def _dots(
    results: Sequence[tuple[Result, float]], keys: Sequence[str], signal: str, title: str
) -> None:
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        key = st.selectbox("Over", keys, key="compare_over", width=260)
        by = st.selectbox(
            "Coloured by", ["nothing", *(k for k in keys if k != key)], key="compare_by", width=260
        )
    found = [result for result, _ in results]
    values = _values(found, key)
    x = numbers_of(values)
    groups = [
        "runs" if by == "nothing" else f"{by} = {_text(value)}" for value in _values(found, by)
    ]
    figure = scatter_figure(
        x if x is not None else [_text(value) for value in values],
        [value for _, value in results],
        [result.run.name for result in found],
        groups,
        x_title=key,
        y_title=title,
        unit=signal_spec(signal).unit,
        is_log_x=x is not None and wants_log(x),
    )
    chart(figure, None, "compare_dots", f"{title} of {len(found)} runs over {key}.")


def _threads(
    results: Sequence[tuple[Result, float]], keys: Sequence[str], signal: str, title: str
) -> None:
    state = st.session_state
    kept = [key for key in state.get("compare_threads", keys[:5]) if key in keys]
    state["compare_threads"] = kept[:MOST_THREADS]
    chosen = st.multiselect(
        "Axes of the threads", keys, key="compare_threads", max_selections=MOST_THREADS
    )
    if not chosen:
        nothing_yet("Choose a setting that gets an axis.")
        return
    found = [result for result, _ in results]
    settings = {key: _values(found, key) for key in chosen}
    figure = threads_figure(settings, [value for _, value in results], result=signal)
    says = f"{len(found)} runs as threads through {', '.join(map(plain, chosen))} to {title}."
    chart(figure, None, "compare_threads_chart", says)


def _text(value: Any) -> str:
    return ABSENT if value is None else text_of(value)
