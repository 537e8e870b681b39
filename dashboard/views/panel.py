"""What every page is made of: a heading in the catalogue's words, a chart, a badge, a live part."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle

import plotly.graph_objects as go
import streamlit as st

from ...platform.catalogue import signal_spec
from ...platform.errors import MoescopeError
from ..theme import Look
from ..window import Window

LIVE_S = 3.0
"""Seconds between refreshes of the parts that a person watches."""
CALM_S = 10.0
"""The same for the other charts: a redrawn chart blinks, and costs the trainer's cores."""

_APART_S = cycle((0.0, 0.17, 0.34, 0.51, 0.68, 0.85))
"""Added to the time between refreshes, so that no two parts of a page keep ticking together."""

LinkToRun = Callable[[str, str], None]
"""Draws a link with a label (text of a run, not yet escaped) to the page of the run with an id."""

LinkToIncident = Callable[[str, str], None]
"""Draws a link with a label to the page of the incident of an alert's id."""


def live(part: Callable[[], None], every_s: float | None) -> None:
    """Draws a part, and again every so many seconds by itself; None draws it once.

    Widgets that steer the part stay outside. An unchanged figure keeps its zoom in the browser.
    """

    def guarded() -> None:
        with store_may_be_away():
            part()

    # parts that tick at the same moment make the browser keep what they do not draw any more: it
    # takes the end of one part's run for that of another's
    apart_s = next(_APART_S)
    st.fragment(guarded, run_every=None if every_s is None else every_s + apart_s)()


@contextmanager
def store_may_be_away() -> Iterator[None]:
    """Shows one line where the store cannot be read; the next refresh tries again."""
    try:
        yield
    except (MoescopeError, OSError) as error:
        st.warning(
            "The store cannot be read at the moment. Training does not wait for it; "
            "this page tries again.",
            icon=":material/cloud_off:",
        )
        st.text(str(error).splitlines()[0])


def tried(deed: Callable[[], object], run_id: str) -> None:
    """Does what a click asks for; where that fails, `failed` says so at the next drawing, since a
    callback must draw nothing itself."""
    try:
        deed()
    except (MoescopeError, OSError) as error:
        st.session_state[f"failed_{run_id}"] = str(error).splitlines()[0]


def failed(run_id: str) -> None:
    """Draws once what became of a click whose deed failed."""
    said = st.session_state.pop(f"failed_{run_id}", None)
    if said is not None:
        st.error("It was not asked.", icon=":material/block:")
        st.text(said)


def heading(title: str, signal: str) -> None:
    """Heads a chart with its title, the signal's name, and the catalogue's words as help."""
    spec = signal_spec(signal)
    sentences = [spec.help]
    if spec.high:
        sentences.append(f"High: {spec.high}")
    if spec.low:
        sentences.append(f"Low: {spec.low}")
    sentences.append(f"Cost: {spec.cost}.")
    st.markdown(f"**{title}** :gray[`{signal}`]", help="\n\n".join(sentences))


def chart(figure: go.Figure, window: Window, key: str, says: str) -> None:
    """Shows a figure; `says` is its description for those who do not see it."""
    st.plotly_chart(
        figure,
        key=key,
        theme="streamlit",
        alt=says,
        config={
            "displaylogo": False,
            "displayModeBar": "hover" if window.is_zoomable else False,
            "modeBarButtonsToRemove": ["select2d", "lasso2d"],
        },
    )


def badge(look: Look, help: str | None = None) -> None:
    st.badge(look.word, icon=look.icon, color=look.badge, help=help)


def nothing_yet(what: str) -> None:
    st.caption(what)
