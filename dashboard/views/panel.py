"""What every page is made of: a heading in the catalogue's words, a chart, a badge, a live part."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import plotly.graph_objects as go
import streamlit as st

from ...platform.catalogue import signal_spec
from ...platform.errors import MoescopeError
from ...platform.store import Store
from ..sign_in import who_asks
from ..theme import Look
from ..window import Window
from ..words import plain

Answer = TypeVar("Answer")

LIVE_S = 3.0
"""Seconds between refreshes of the parts that a person watches."""
CALM_S = 10.0
"""The same for the other charts: a redrawn chart blinks, and costs the trainer's cores."""

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

    st.fragment(guarded, run_every=every_s)()


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


def act(ask: Callable[..., Answer], store: Store, *args: Any) -> Answer | None:
    """Asks for something, a function of `asks.py`, as whoever sits at this session at this moment.

    Where that is refused, or the store is away, a toast says so and None comes back.
    """
    try:
        return ask(store, who_asks(), *args)
    except (MoescopeError, OSError) as error:
        st.toast(plain(str(error)), icon=":material/block:")
        return None


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
