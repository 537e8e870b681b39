"""Colours, symbols and words: one look for light and dark, readable without seeing colour.

Line colours are those of `platform/palette.py`, which do on both backgrounds; a figure's text and
grid follow the browser.
"""

from dataclasses import dataclass
from typing import Literal

import plotly.graph_objects as go

from ..platform.attention import Worst
from ..platform.palette import AMBER, BLUE, GREEN, GREY, ORANGE, RED, SERIES
from ..platform.records import Health, RunStatus, Severity

BACKGROUNDS = ("#FFFFFF", "#0F1419")
"""Light and dark, as in .streamlit/config.toml."""

LOAD_SCALE = (
    (0.0, "#12324F"),
    (0.25, "#2F6C8F"),
    (0.5, "#8FB9A8"),
    (0.75, "#E8C468"),
    (1.0, "#C8401F"),
)
"""Load of an expert: dark is idle, pale its fair share, red overloaded."""
LEVEL_SCALE = "Cividis"

_TABS: dict[Worst, tuple[str, str]] = {
    "fine": ("0E7ABF", "M4 18h6l3-9 5 15 3-6h7"),
    "warning": ("B25E00", "M4 18h6l3-9 5 15 3-6h7"),
    "critical": ("B3261E", "M3 20l5-13 4 19 4-21 4 18 4-12 5 9"),
    "silent": ("5B6470", "M4 18h24"),
}
"""{state: colour, line}: a pulse, a wild one, and none."""


def icon_of(state: Worst) -> str:
    """A tab's icon, drawn here: Streamlit would fetch a Material symbol's picture from the
    internet."""
    colour, line = _TABS[state]
    return (
        "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 32 32'%3E"
        f"%3Crect width='32' height='32' rx='7' fill='%23{colour}'/%3E%3Cpath d='{line}' "
        "fill='none' stroke='white' stroke-width='2.6' stroke-linejoin='round'/%3E%3C/svg%3E"
    )


ICON = icon_of("fine")
PAGE_STYLE = """<style>
.stMainBlockContainer { padding-top: 4.5rem; padding-bottom: 3rem; }
[data-testid="stMetricValue"] { font-size: 1.6rem; }
.st-key-rule_editor textarea { font-family: monospace; font-size: 0.85rem; }
.stAppToolbar { padding-right: 9.5rem; }
.st-key-you { position: fixed; top: 0.6rem; right: 0.75rem; width: 9rem; z-index: 999991; }
.st-key-moescope_keeper { position: absolute; width: 1px; overflow: hidden; }
.st-key-you button { max-width: 9rem; }
@media (max-width: 640px) {
  .stMainBlockContainer { padding-left: 0.9rem; padding-right: 0.9rem; }
  [data-testid="stMetricValue"] { font-size: 1.25rem; }
}
</style>"""
"""Less empty space than Streamlit leaves above a page, who you are in its bar, and numbers that fit
a phone."""

LampWord = Literal[
    "healthy", "warning", "critical", "silent", "finished", "stopped", "crashed", "halted"
]


@dataclass(frozen=True, slots=True)
class Look:
    """A state as word, icon and colour: the colour is never alone."""

    word: str
    icon: str
    """A Material symbol that Streamlit brings along."""
    badge: Literal["red", "orange", "yellow", "blue", "green", "violet", "gray"]
    line: str = GREY
    symbol: str = "circle"
    """The marker in a figure."""


LAMPS: dict[LampWord, Look] = {
    "healthy": Look("healthy", ":material/check_circle:", "green"),
    "warning": Look("warning", ":material/warning:", "orange"),
    "critical": Look("critical", ":material/error:", "red"),
    "silent": Look("silent", ":material/signal_disconnected:", "red"),
    "finished": Look("finished", ":material/flag:", "blue"),
    "stopped": Look("stopped", ":material/stop_circle:", "gray"),
    "crashed": Look("crashed", ":material/heart_broken:", "red"),
    "halted": Look("halted", ":material/front_hand:", "red"),
}

STATUS: dict[RunStatus, str] = {
    "running": "running",
    "finished": "finished",
    "stopped": "stopped",
    "crashed": "crashed",
    "halted": "halted, waits for a person",
}

SEVERITIES: dict[Severity, Look] = {
    "info": Look("info", ":material/info:", "blue", BLUE, "circle"),
    "warning": Look("warning", ":material/warning:", "orange", AMBER, "triangle-up"),
    "critical": Look("critical", ":material/error:", "red", RED, "diamond"),
}

CHECKPOINTS: dict[Health, Look] = {
    "fresh": Look("fresh, not yet certified", ":material/hourglass:", "gray", GREY, "circle-open"),
    "certified": Look("certified", ":material/verified:", "green", GREEN, "circle"),
    "tainted": Look("tainted", ":material/block:", "red", ORANGE, "x-thin"),
}


def unit_text(unit: str) -> str:
    """Returns a unit as it is written behind a number; a plain number has none."""
    return "" if unit == "1" else unit


def laid_out(figure: go.Figure, *, height: int, unit: str, x_title: str = "step") -> go.Figure:
    """Gives a figure the common layout: unit at the left, legend above, one hover box.

    Text and grid take the page's colours in the browser. What is set here replaces what was there:
    to merge the two takes plotly eight times as long.
    """
    axis = {"automargin": True, "zeroline": False}
    figure.update_layout(
        # plotly's own template would be sent along with each figure
        template={"layout": {"colorway": list(SERIES)}},
        height=height,
        margin={"l": 8, "r": 8, "t": 8, "b": 8, "pad": 0},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        hovermode="x unified",
        dragmode="zoom",
        legend={
            "orientation": "h",
            "x": 0,
            "xanchor": "left",
            "y": 1.01,
            "yanchor": "bottom",
            "font": {"size": 11},
            "itemwidth": 30,
            "title": {"text": ""},
        },
        font={"size": 12},
        xaxis={"title": {"text": x_title, "standoff": 4}, **axis},
        yaxis={"title": {"text": unit_text(unit), "standoff": 4}, **axis},
        overwrite=True,
    )
    return figure
