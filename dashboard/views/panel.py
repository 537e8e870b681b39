"""What every page is made of: a heading in the catalogue's words, a chart, a badge, a live part."""

from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from itertools import cycle
from typing import Any, TypeVar

import plotly.graph_objects as go
import streamlit as st

from ...platform.catalogue import signal_spec
from ...platform.errors import MoescopeError
from ...platform.store import Store
from ..browser.drawn import KeptFigures, drawn
from ..browser.plot import plot
from ..sign_in import who_asks
from ..theme import Look
from ..window import Window
from ..words import plain

Answer = TypeVar("Answer")

LIVE_S = 3.0
"""Seconds between refreshes of the parts that a person watches."""
CALM_S = 10.0
"""The same for the other charts: a redrawn chart blinks, and costs the trainer's cores."""

_ZOOMED = "moescope_zoomed"
_REFUSED = "refused"
_APART_S = cycle((0.0, 0.17, 0.34, 0.51, 0.68, 0.85))
"""Added to the time between refreshes, so that no two parts of a page keep ticking together."""

LinkToRun = Callable[[str, str], None]
"""Draws a link with a label (text of a run, not yet escaped) to the page of the run with an id."""

LinkToIncident = Callable[[str, str], None]
"""Draws a link with a label (not yet escaped) to the page of the incident of an alert's id."""


def live(part: Callable[[], None], every_s: float | None) -> None:
    """Draws a part, and again every so many seconds by itself; None draws it once.

    Widgets that steer the part stay outside. An unchanged figure keeps its zoom in the browser.
    """

    def guarded() -> None:
        say_what_was_refused()
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


@contextmanager
def page_of_the_store() -> Iterator[None]:
    """Does for a whole page what `store_may_be_away` does for a live part of one."""
    is_whole = False
    say_what_was_refused()
    with store_may_be_away():
        yield
        is_whole = True
    if not is_whole:
        _again_soon()


def _again_soon() -> None:
    """Draws the page anew after a while."""
    ticks = cycle((False, True))

    def part() -> None:
        if next(ticks):
            st.rerun(scope="app")

    st.fragment(part, run_every=LIVE_S)()


def act(ask: Callable[..., Answer], store: Store, *args: Any) -> Answer | None:
    """Asks for something, a function of `asks.py`, as whoever sits at this session at this moment.

    Where that is refused, or the store is away, None comes back and the page says so when it is
    drawn next: a callback must draw nothing.
    """
    try:
        return ask(store, who_asks(), *args)
    except (MoescopeError, OSError) as error:
        st.session_state[_REFUSED] = str(error).splitlines()[0]
        return None


def say_what_was_refused() -> None:
    """Says once why what was asked for was not done."""
    said = st.session_state.pop(_REFUSED, None)
    if said is not None:
        st.toast(plain(said), icon=":material/block:")


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


def chart(
    figure: go.Figure | Callable[[], go.Figure],
    window: Window | None,
    key: str,
    says: str,
    made_of: Hashable = None,
) -> None:
    """Shows a figure; `says` is its description for those who do not see it.

    window: of a figure over the steps of a run, whose zoom becomes everybody's range. figure: or
    what builds it, asked only while what it is `made_of`, beside the window, was not drawn yet.
    """
    if not callable(figure):
        ready = drawn(figure)
    elif made_of is None or (window is not None and not window.clock.is_steps):
        ready = drawn(figure())
    else:
        ready = _kept_figures().of((key, window, made_of), figure)
    if window is None:
        plot(ready, key=key, says=says)
        return
    plot(ready, key=key, says=says, view=window.view, on_range=window.on_zoom)
    follow_zoom()


@st.cache_resource(show_spinner=False)
def _kept_figures() -> KeptFigures:
    return KeptFigures()


def zoom_to(widgets: Mapping[str, Any]) -> None:
    """Notes what a zoom asks of the widgets above the charts, {key: value}: they stand already, so
    that only the page's next turn can set them."""
    st.session_state[_ZOOMED] = dict(widgets)


def follow_zoom() -> None:
    """Draws the page anew where a zoom has asked something of its widgets."""
    if _ZOOMED in st.session_state:
        st.rerun(scope="app")


def take_zoom() -> None:
    """Sets the widgets to what a zoom has asked of them; to be called before they are drawn."""
    st.session_state.update(st.session_state.pop(_ZOOMED, {}))


def keep(name: str, value: str) -> None:
    """Keeps a value in the address; an empty one is taken out of it."""
    if value == st.query_params.get(name, ""):
        return
    if value:
        st.query_params[name] = value
    else:
        st.query_params.pop(name, None)


def badge(look: Look, help: str | None = None) -> None:
    st.badge(look.word, icon=look.icon, color=look.badge, help=help)


def nothing_yet(what: str) -> None:
    st.caption(what)
