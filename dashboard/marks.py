"""The marks of a run's charts, in a strip of their own below the line.

Alerts, rollbacks, steps that were held or skipped, and checkpoints.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from ..platform import palette
from ..platform.records import Alert, Bands, Checkpoint, Event, Segment
from . import theme
from .window import Branches, Window, is_in, middles
from .words import gib, in_figure

ROWS = ("saved", "held", "rollback", "alert")
"""From the bottom up."""
_MOST_LINES = 24
"""Alerts and rollbacks with a line through the chart; older ones keep their mark in the strip."""


@dataclass(frozen=True, slots=True)
class Marks:
    alerts: Sequence[Alert] = ()
    segments: Sequence[Segment] = ()
    checkpoints: Sequence[Checkpoint] = ()
    events: Sequence[Event] = ()
    held: Sequence[tuple[int, int]] = ()
    """(segment, step) whose update the guard held back; of a bucket of steps its first."""


def add_marks(figure: go.Figure, marks: Marks, series: Branches, window: Window) -> None:
    """Puts the strip under the chart, and a marker where each alert's stretch was at its worst."""
    figure.update_layout(
        yaxis={"domain": [0.27, 1.0]},
        yaxis2={
            "domain": [0.0, 0.2],
            "anchor": "x",
            "range": [-0.6, len(ROWS) - 0.4],
            "tickmode": "array",
            "tickvals": list(range(len(ROWS))),
            "ticktext": list(ROWS),
            "tickfont": {"size": 11},
            "automargin": True,
            "zeroline": False,
            "fixedrange": True,
        },
        xaxis={"anchor": "y2"},
    )
    # an axis that no trace uses is not drawn, and a strip without marks says that there are none
    figure.add_scatter(x=[None], y=[None], yaxis="y2", showlegend=False, hoverinfo="skip")
    _add_saved(figure, marks.checkpoints, window)
    _add_held(figure, marks, window)
    _add_rollbacks(figure, marks.segments, series, window)
    _add_alerts(figure, marks.alerts, series, window)


def _add_saved(figure: go.Figure, checkpoints: Sequence[Checkpoint], window: Window) -> None:
    for health, look in theme.CHECKPOINTS.items():
        here = [c for c in checkpoints if c.health == health and is_in(c.step, window.step_range)]
        _strip(
            figure,
            "saved",
            [window.clock.x_of(c.segment, c.step) for c in here],
            [
                f"checkpoint at step {c.step}: {look.word}, {gib(c.num_bytes)}"
                + ("" if c.is_on_disk else ", no longer on the disk")
                for c in here
            ],
            look.symbol,
            look.line,
        )


def _add_held(figure: go.Figure, marks: Marks, window: Window) -> None:
    held = [at for at in marks.held if is_in(at[1], window.step_range)]
    _strip(
        figure,
        "held",
        [window.clock.x_of(*at) for at in held],
        [f"step {step}: the guard held the update back" for _, step in held],
        "x-thin",
        palette.PINK,
    )
    skipped = [
        e
        for e in marks.events
        if e.kind in ("skip_data", "damp") and is_in(e.step, window.step_range)
    ]
    _strip(
        figure,
        "held",
        [window.clock.x_of(e.segment, e.step) for e in skipped],
        [f"step {e.step}: {in_figure(e.text)}" for e in skipped],
        "line-ns",
        palette.PINK,
    )


def _add_rollbacks(
    figure: go.Figure, segments: Sequence[Segment], series: Branches, window: Window
) -> None:
    back = [
        s for s in segments if s.reason == "rollback" and is_in(s.start_step, window.step_range)
    ]
    begins = [window.clock.x_of(s.index, s.start_step) for s in back]
    for segment, begin in zip(back, begins, strict=True):
        # where the parent ended: its last steps are the abandoned ones
        parent = series.ghosts.segments == segment.parent_segment
        left = middles(series.ghosts)[parent][-1:]
        end = window.clock.x_of(segment.parent_segment or 0, left[0]) if left.size else begin
        figure.add_scatter(
            x=np.array([end, begin]),
            y=np.array([ROWS.index("rollback")] * 2),
            mode="lines",
            line={"color": palette.ORANGE, "width": 2},
            yaxis="y2",
            showlegend=False,
            hoverinfo="skip",
        )
    _strip(
        figure,
        "rollback",
        begins,
        [f"rolled back to step {s.start_step} (segment {s.index})" for s in back],
        "triangle-left",
        palette.ORANGE,
    )
    for begin in begins[-_MOST_LINES:]:
        _line(figure, begin, palette.ORANGE, "dash")


def _add_alerts(
    figure: go.Figure, alerts: Sequence[Alert], series: Branches, window: Window
) -> None:
    here = [a for a in alerts if is_in(a.fired_step, window.step_range)]
    for severity, look in theme.SEVERITIES.items():
        fired = [a for a in here if a.severity == severity]
        texts = [
            f"{look.word}, fired at step {a.fired_step}, began at {a.onset_step}: "
            + in_figure(a.message)
            for a in fired
        ]
        xs = [window.clock.x_of(a.segment, a.fired_step) for a in fired]
        _strip(figure, "alert", xs, texts, look.symbol, look.line)
        worst = [_worst(series, a, window) for a in fired]
        shown = [(w, text) for w, text in zip(worst, texts, strict=True) if w is not None]
        if shown:
            figure.add_scatter(
                x=np.array([w[0] for w, _ in shown]),
                y=np.array([w[1] for w, _ in shown], np.float32),
                mode="markers",
                marker={
                    "symbol": look.symbol + "-open",
                    "size": 12,
                    "color": look.line,
                    "line": {"width": 2, "color": look.line},
                },
                name=f"{look.word} alert",
                hovertext=[text for _, text in shown],
                hoverinfo="text",
            )
    for alert in sorted(here, key=lambda a: a.created_s)[-_MOST_LINES:]:
        at = window.clock.x_of(alert.segment, alert.onset_step)
        _line(figure, at, theme.SEVERITIES[alert.severity].line, "dot")


def _worst(branches: Branches, alert: Alert, window: Window) -> tuple[float, float] | None:
    """Returns where the signal was highest from an alert's onset until it fired, on its branch."""
    parts = (branches.living, branches.ghosts)
    tops = [top for part in parts if (top := _top(part, alert, window))]
    return max(tops, key=lambda top: top[1], default=None)


def _top(bands: Bands, alert: Alert, window: Window) -> tuple[float, float] | None:
    is_there = (
        (bands.segments == alert.segment)
        & (bands.steps + bands.width > alert.onset_step)
        & (bands.steps <= alert.fired_step)
        & np.isfinite(bands.high[:, 0])
    )
    at: NDArray[np.int64] = np.flatnonzero(is_there)
    if not at.size:
        return None
    top = at[np.argmax(bands.high[at, 0])]
    return window.clock.x_of(alert.segment, middles(bands)[top]), float(bands.high[top, 0])


def _strip(
    figure: go.Figure,
    row: str,
    xs: Sequence[float],
    texts: Sequence[str],
    symbol: str,
    colour: str,
) -> None:
    if not xs:
        return
    figure.add_scatter(
        x=np.array(xs),
        y=np.full(len(xs), ROWS.index(row)),
        mode="markers",
        marker={
            "symbol": symbol,
            "size": 9,
            "color": colour,
            "line": {"width": 1.5, "color": colour},
        },
        yaxis="y2",
        showlegend=False,
        hovertext=list(texts),
        hoverinfo="text",
        name=row,
    )


def _line(figure: go.Figure, x: float, colour: str, dash: str) -> None:
    figure.add_shape(
        type="line", x0=x, x1=x, xref="x", y0=0, y1=1, yref="paper",
        line={"color": palette.faded(colour, 0.6), "width": 1, "dash": dash}, layer="below",
    )  # fmt: skip
