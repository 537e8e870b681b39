"""One look for a study's figures, on light and on dark: text and grid take the page's colours, as
the figure has none of its own.
"""

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

import plotly.graph_objects as go

from ...platform.palette import AMBER, BLUE, GREEN, GREY, RED
from .words import power, short


class Look(NamedTuple):
    colour: str
    symbol: str


VERDICTS = {
    "healthy": Look(GREEN, "circle"),
    "healed": Look(BLUE, "diamond"),
    "rolled back": Look(AMBER, "triangle-up"),
    "diverged": Look(RED, "x"),
    "stopped early": Look(GREY, "square-open"),
}
"""A verdict is told by its symbol as well as by its colour."""
LINES = ("#7A5BC7", "#B44FB0", "#078D86", "#8A6A45", GREY)
"""Of lines that markers of verdicts stand on: none of their colours."""
HEIGHT = 420
_MOST_TICKS = 6


def verdict_of(words: str) -> str:
    """Returns the key of VERDICTS: `rolled back twice` is `rolled back`."""
    return "rolled back" if words.startswith("rolled back") else words


def in_figure(text: object) -> str:
    """Returns text as a figure may show it: plotly reads some HTML in its texts."""
    return escape(str(text), quote=False)


def empty_figure(x: str, y: str, height: int = HEIGHT) -> go.Figure:
    """Returns a figure with titled axes, a legend above the plot, and no colours of its own."""
    axis = {
        "automargin": True, "zeroline": False, "showgrid": True, "ticks": "outside", "ticklen": 4,
    }  # fmt: skip
    figure = go.Figure()
    figure.update_layout(
        template=go.layout.Template(),
        height=height,
        margin={"l": 8, "r": 12, "t": 8, "b": 8, "pad": 0},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        hovermode="closest",
        dragmode=False,
        font={"size": 13},
        legend={
            "orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom",
            "font": {"size": 12}, "itemwidth": 30, "title": {"text": ""}, "traceorder": "normal",
        },
        xaxis={"title": {"text": x, "standoff": 8}, **axis},
        yaxis={"title": {"text": y, "standoff": 8}, **axis},
        overwrite=True,
    )  # fmt: skip
    return figure


def log_axis(values: Sequence[float], *, is_count: bool) -> dict[str, object]:
    """Returns a log axis over the values: at most 6 round ticks, of 1, 2 and 5 where there is room.

    is_count: ticks as 1.6M, else as powers of ten.
    """
    finite = [value for value in values if value > 0 and math.isfinite(value)]
    if not finite:
        return {"type": "log"}
    low, high = math.log10(min(finite)), math.log10(max(finite))
    room = max(0.06 * (high - low), 0.03)
    low, high = low - room, high + room
    ticks = _ticks(low, high)
    tell = short if is_count else power
    return {
        "type": "log",
        "range": [low, high],
        "tickvals": ticks,
        "ticktext": [tell(tick) for tick in ticks],
    }


def value_axis(values: Sequence[float], *, is_count: bool) -> dict[str, object]:
    """Returns a log axis whose ticks are the values themselves, where they are few."""
    own = sorted(set(values))
    axis = log_axis(own, is_count=is_count)
    if 1 < len(own) <= _MOST_TICKS:
        axis |= {"tickvals": own, "ticktext": [short(value) for value in own]}
    return axis


def _ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(low), math.ceil(high) + 1)
    found: list[float] = []
    for factors in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
        ticks = [f * 10.0**d for d in decades for f in factors]
        ticks = [tick for tick in ticks if low <= math.log10(tick) <= high]
        if found and len(ticks) > _MOST_TICKS:
            break
        found = ticks
        if len(found) >= 3:
            break
    step = math.ceil(len(found) / _MOST_TICKS) if found else 1
    return found[::step]
