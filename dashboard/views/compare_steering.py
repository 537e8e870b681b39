"""What steers the page that compares: which runs, by what they are laid beside each other, what is
drawn. The address keeps all of it (`?runs=a,b&x=tokens&signals=loss/total&group=seed`).
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote, unquote

import streamlit as st

from ...platform import catalogue
from ...platform.records import Run
from ...platform.store import Store
from ..charts_of_many import MOST_RUNS, Across, Span
from ..clock import Clock
from ..configurations import differing
from ..reads_of_many import AXES, TITLES, SharedAxis, compared, find_runs, labels_of, scalars_of
from ..settings_of_runs import flat_config, is_seed
from ..window import Window
from ..words import plain
from .panel import keep, take_zoom, zoom_to
from .steering import SMOOTHINGS

DEFAULT_SIGNALS = (catalogue.LOSS_TOTAL, catalogue.GRAD_NORM, catalogue.TOKENS_PER_S)
MOST_SIGNALS = 8
APART, BY_SEED = "each run", "seed"
_NUM_AT_FIRST = 3
"""Newest runs that are chosen where the address names none."""
_NUMBER = r"(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)"


@dataclass(frozen=True, slots=True)
class Look:
    """What is to be drawn, as the widgets say."""

    run_ids: tuple[str, ...]
    axis: SharedAxis
    signals: tuple[str, ...]
    group: str
    """`APART`, `BY_SEED`, or the configuration's key that groups the runs."""
    smoothing: int
    across: Across
    is_paused: bool

    @property
    def window(self) -> Window:
        """Says what is looked at, and takes up a zoom: runs have clocks of their own."""
        span, across = self.across.span, self.across
        rounded = None if span is None else (round(span[0]), round(span[1]))
        clock = Clock("wall time" if self.axis == "hours" else self.axis)
        return Window(rounded, across.is_log, across.is_log_x, self.smoothing, clock, zoomed)


def span_of(text: str) -> Span:
    """Reads `1000..2e6`; None, which is all, where it is empty or no range.

    >>> span_of("1000..2e6"), span_of("all")
    ((1000.0, 2000000.0), None)
    """
    found = re.fullmatch(rf"\s*{_NUMBER}\s*(?:\.\.|…|to|-)\s*{_NUMBER}\s*", text)
    if found is None:
        return None
    low, high = sorted((float(found[1]), float(found[2])))
    return (low, high) if low < high and math.isfinite(high) else None


def text_of_span(span: Span) -> str:
    """Writes what `span_of` reads."""
    return "" if span is None else f"{span[0]:.7g}..{span[1]:.7g}"


def render(store: Store) -> Look | None:
    """Draws the widgets. Returns what they ask for; None where no run is chosen, which is said."""
    take_zoom()
    runs = _runs(store)
    if not runs:
        return None
    asked = st.query_params
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        begun("compare_axis", asked.get("x") if asked.get("x") in AXES else "step")
        chosen = st.segmented_control("Across", AXES, required=True, key="compare_axis")
        axis: SharedAxis = chosen or "step"
        smooth = asked.get("smooth", "")
        known = {str(number) for number in SMOOTHINGS}
        begun("compare_smoothing", int(smooth) if smooth in known else 0)
        smoothing = st.selectbox(
            "Smooth",
            SMOOTHINGS,
            key="compare_smoothing",
            format_func=lambda n: f"{n:,} steps" if n else "not",
            width=130,
            help="Lines follow the mean of so many steps, of all data and not of what is drawn; at "
            "the ends of a range, of what lies inside it.",
        )
        begun("compare_span", text_of_span(span_of(asked.get("span", ""))))
        span = span_of(
            st.text_input(
                "Range",
                key="compare_span",
                placeholder="all, or 1000..2e6",
                width=190,
                help="Of the axis, in its measure. A range dragged in any chart shows here, and in "
                "all charts, in finer buckets.",
            )
            or ""
        )
        begun("compare_log", asked.get("log") == "1")
        begun("compare_log_x", asked.get("logx") == "1")
        group = _group(runs)
        with st.container(horizontal=True, gap="small", width="content"):
            is_log = st.toggle("Log values", key="compare_log")
            is_log_x = st.toggle("Log across", key="compare_log_x")
            is_live = any(run.status == "running" for run in runs)
            is_paused = is_live and st.toggle("Pause", key="compare_paused")
    signals = _signals(store, runs)
    keep("x", "" if axis == "step" else axis)
    keep("smooth", str(smoothing or ""))
    keep("span", text_of_span(span))
    keep("log", "1" if is_log else "")
    keep("logx", "1" if is_log_x else "")
    across = Across(TITLES[axis], span, is_log_x, is_log)
    ids = tuple(run.id for run in runs)
    return Look(ids, axis, signals, group, smoothing, across, is_paused or not is_live)


def begun(key: str, value: object) -> None:
    """Keeps a widget's value, or begins with one.

    It is said anew in each run: where a browser takes two runs of a page at once, as when it has
    just opened, it misses what only the first one said, and shows something else than is drawn.
    """
    st.session_state[key] = st.session_state.get(key, value)


def zoomed(asked: tuple[float, float] | None) -> None:
    """Takes a zoom made with the mouse up as the range of all charts."""
    zoom_to({"compare_span": text_of_span(asked)})


def _runs(store: Store) -> list[Run]:
    every = store.runs()
    wanted, unknown = find_runs(
        store, [words for words in st.query_params.get("runs", "").split(",") if words]
    )
    if unknown:
        st.warning(
            "The address names runs that are not there, or several at once: "
            + ", ".join(plain(words, 40) for words in unknown),
            icon=":material/search_off:",
        )
    if not every and not wanted:
        st.info("No run yet. `moescope train tiny --data FOLDER` starts one; it appears here.")
        return []
    known = {run.id: run for run in (*every, *wanted)}
    at_first = wanted if wanted or unknown else every[:_NUM_AT_FIRST]
    state = st.session_state
    begun("compare_runs", [run.id for run in at_first][:MOST_RUNS])
    state["compare_runs"] = [run_id for run_id in state["compare_runs"] if run_id in known]
    labels = labels_of(list(known.values()))
    chosen = st.multiselect(
        "Runs",
        list(known),
        format_func=lambda run_id: labels.get(run_id, run_id),
        max_selections=MOST_RUNS,
        key="compare_runs",
        placeholder=f"up to {MOST_RUNS} runs",
        label_visibility="collapsed",
    )
    keep("runs", ",".join(chosen))
    if not chosen:
        st.info(f"Choose up to {MOST_RUNS} runs; they are laid over each other.")
    return [known[run_id] for run_id in chosen]


def _signals(store: Store, runs: Sequence[Run]) -> tuple[str, ...]:
    measured = scalars_of(compared(store, runs, "step"))
    asked = [unquote(word) for word in st.query_params.get("signals", "").split(",") if word]
    state = st.session_state
    begun("compare_signals", asked or list(DEFAULT_SIGNALS))
    # what is asked for and not measured yet stays to be chosen: it may come
    options = sorted({*measured, *DEFAULT_SIGNALS})
    state["compare_signals"] = [name for name in state["compare_signals"] if name in options]
    chosen = st.multiselect(
        "Signals",
        options,
        key="compare_signals",
        max_selections=MOST_SIGNALS,
        placeholder="scalars to draw, a chart for each",
    )
    is_default = chosen == list(DEFAULT_SIGNALS)
    keep("signals", "" if is_default else ",".join(quote(name, safe="/") for name in chosen))
    return tuple(chosen)


def _group(runs: Sequence[Run]) -> str:
    keys = [
        key for key in differing({run.id: flat_config(run) for run in runs}) if not is_seed(key)
    ]
    options = [APART, BY_SEED, *keys]
    state = st.session_state
    begun("compare_group", st.query_params.get("group", APART))
    if state["compare_group"] not in options:
        state["compare_group"] = APART
    names = {APART: "a line for each run", BY_SEED: "mean over seeds, all else equal"}
    group = st.selectbox(
        "Lines",
        options,
        format_func=lambda option: names.get(option, f"mean by {option}"),
        key="compare_group",
        width=280,
        help="A mean has a band of ± its standard error, and a fainter one from the lowest to the "
        "highest run; it ends where the first of its runs ends.",
    )
    keep("group", "" if group == APART else group)
    return group
