"""The timeline of what a run can go back to: states, with alerts and rollbacks above; pure.

Nothing in it moves by itself: it says the time of day and no age, so that the figure is the same,
and stays in the browser, until there is news.
"""

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from ..platform import palette
from ..platform.records import Alert, Health
from . import theme
from .states_of_a_run import SavedState, WentBack
from .words import gib, in_figure

ROWS = ("no longer there", "in memory", "on disk", "rollback", "alert")
"""From the bottom up."""
_HEIGHT = 290
UNTOLD = theme.Look(
    "health known to the trainer", ":material/help:", "gray", palette.GREY, "circle-open-dot"
)
"""Of a state in the trainer's memory."""
_SHORT: Mapping[Health | None, str] = {
    "fresh": "fresh",
    "certified": "certified",
    "tainted": "tainted",
    None: "in memory",
}


def look_of(health: Health | None) -> theme.Look:
    return UNTOLD if health is None else theme.CHECKPOINTS[health]


def timeline_figure(
    states: Sequence[SavedState],
    alerts: Sequence[Alert],
    went_back: Sequence[WentBack],
    chosen: int | None = None,
) -> go.Figure:
    """Draws states by place and health, onsets of alerts and rollbacks over steps.

    A state that can be chosen has its step as customdata; what is tainted or gone has none.
    chosen: the step that a person looks at; None for none.
    """
    figure = go.Figure()
    theme.laid_out(figure, height=_HEIGHT, unit="1")
    figure.update_layout(
        hovermode="closest",
        clickmode="event+select",
        yaxis={
            "range": [-0.6, len(ROWS) - 0.4],
            "tickmode": "array",
            "tickvals": list(range(len(ROWS))),
            "ticktext": list(ROWS),
            "fixedrange": True,
        },
    )
    for health in ("fresh", "certified", "tainted", None):
        here = [s for s in states if s.health == health]
        there, gone = (
            [s for s in here if (s.place == "gone") == is_gone] for is_gone in (False, True)
        )
        _add_states(figure, there, health)
        _add_states(figure, gone, health, opacity=0.45, is_named=not there)
    _add_rollbacks(figure, went_back)
    _add_alerts(figure, alerts)
    if chosen is not None:
        figure.add_vline(x=chosen, line={"color": palette.BLUE, "width": 2, "dash": "dot"})
        figure.add_annotation(
            x=chosen, y=1, yref="y domain", text=f"step {chosen:,}", showarrow=False,
            xanchor="left", yanchor="top", font={"size": 11},
        )  # fmt: skip
    return figure


def _add_states(
    figure: go.Figure,
    states: Sequence[SavedState],
    health: Health | None,
    opacity: float = 1.0,
    is_named: bool = True,
) -> None:
    if not states:
        return
    look = look_of(health)
    row = {"gone": ROWS[0], "memory": ROWS[1], "disk": ROWS[2]}
    figure.add_scatter(
        x=np.array([s.step for s in states]),
        y=np.array([ROWS.index(row[s.place]) for s in states]),
        mode="markers",
        marker={
            "symbol": look.symbol,
            "size": 12,
            "color": look.line,
            "opacity": opacity,
            "line": {"width": 2, "color": look.line},
        },
        # a click must not fade what was not clicked: it would look as if it were gone
        unselected={"marker": {"opacity": opacity}},
        name=_SHORT[health],
        showlegend=is_named,
        legendgroup=_SHORT[health],
        customdata=[None if s.place == "gone" or s.health == "tainted" else s.step for s in states],
        hovertext=[state_in_words(s) for s in states],
        hoverinfo="text",
    )


def state_in_words(state: SavedState) -> str:
    """A state in one line: step, health, place, size and the time of day when it was saved."""
    places = {
        "disk": "on disk",
        "memory": "in memory, as configured",
        "gone": "no longer there",
    }
    parts = [f"step {state.step:,}: {look_of(state.health).word}", places[state.place]]
    if state.num_bytes:
        parts.append(gib(state.num_bytes))
    if state.saved_s is not None:
        parts.append(f"saved {time.strftime('%d %b %H:%M:%S', time.localtime(state.saved_s))}")
    return ", ".join(parts)


def _add_rollbacks(figure: go.Figure, went_back: Sequence[WentBack]) -> None:
    row = ROWS.index("rollback")
    for gone in went_back:
        figure.add_scatter(
            x=np.array([gone.from_step, gone.to_step]), y=np.array([row, row]), mode="lines",
            line={"color": palette.ORANGE, "width": 2}, showlegend=False, hoverinfo="skip",
        )  # fmt: skip
    _mark(
        figure,
        [gone.to_step for gone in went_back],
        row,
        [
            in_figure(gone.why) or f"went back from step {gone.from_step:,} to {gone.to_step:,}"
            for gone in went_back
        ],
        "triangle-left",
        palette.ORANGE,
        "rollback",
    )


def _add_alerts(figure: go.Figure, alerts: Sequence[Alert]) -> None:
    for severity, look in theme.SEVERITIES.items():
        here = [a for a in alerts if a.severity == severity]
        _mark(
            figure,
            [a.onset_step for a in here],
            ROWS.index("alert"),
            [
                f"{look.word}, {a.state}: {in_figure(a.rule)} began at step {a.onset_step:,}"
                for a in here
            ],
            look.symbol,
            look.line,
            f"{look.word} alert",
        )


def _mark(
    figure: go.Figure,
    steps: Sequence[int],
    row: int,
    texts: Sequence[str],
    symbol: str,
    colour: str,
    name: str,
) -> None:
    if not steps:
        return
    figure.add_scatter(
        x=np.array(steps),
        y=np.full(len(steps), row),
        mode="markers",
        marker={
            "symbol": symbol,
            "size": 10,
            "color": colour,
            "line": {"width": 1.5, "color": colour},
        },
        unselected={"marker": {"opacity": 1.0}},
        name=name,
        hovertext=list(texts),
        hoverinfo="text",
    )


Selection = Mapping[str, Mapping[str, Sequence[Mapping[str, object]]]]


def clicked_step(selection: Selection | None, is_target: Callable[[int], bool]) -> int | None:
    """The step of the state that was clicked; None where it was something else."""
    points = (selection or {}).get("selection", {}).get("points", ())
    for point in points:
        told = point.get("customdata")
        step = told[0] if isinstance(told, list | tuple) and told else told
        if isinstance(step, int | float) and is_target(int(step)):
            return int(step)
    return None
