"""The marks of a run's charts, in a strip of their own below the line.

Alerts, rollbacks, steps that were held or skipped, and checkpoints.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from ..platform import palette
from ..platform.records import Alert, Checkpoint, Event, Segment, Series
from . import theme
from .window import Branches, StepRange, is_in
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
    held_steps: Sequence[int] = ()
    """Steps whose update the guard held back."""


def add_marks(figure: go.Figure, marks: Marks, series: Branches, step_range: StepRange) -> None:
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
    _add_saved(figure, [c for c in marks.checkpoints if is_in(c.step, step_range)])
    _add_held(figure, marks, step_range)
    _add_rollbacks(figure, marks.segments, series, step_range)
    _add_alerts(figure, marks.alerts, series, step_range)


def _add_saved(figure: go.Figure, checkpoints: Sequence[Checkpoint]) -> None:
    for health, look in theme.CHECKPOINTS.items():
        here = [c for c in checkpoints if c.health == health]
        _strip(
            figure,
            "saved",
            [c.step for c in here],
            [
                f"checkpoint at step {c.step}: {look.word}, {gib(c.num_bytes)}"
                + ("" if c.is_on_disk else ", no longer on the disk")
                for c in here
            ],
            look.symbol,
            look.line,
        )


def _add_held(figure: go.Figure, marks: Marks, step_range: StepRange) -> None:
    held = [s for s in marks.held_steps if is_in(s, step_range)]
    _strip(
        figure, "held", held, [f"step {s}: the guard held the update back" for s in held],
        "x-thin", palette.PINK,
    )  # fmt: skip
    skipped = [
        e for e in marks.events if e.kind in ("skip_data", "damp") and is_in(e.step, step_range)
    ]
    _strip(
        figure, "held", [e.step for e in skipped],
        [f"step {e.step}: {in_figure(e.text)}" for e in skipped], "line-ns", palette.PINK,
    )  # fmt: skip


def _add_rollbacks(
    figure: go.Figure,
    segments: Sequence[Segment],
    series: Branches,
    step_range: StepRange,
) -> None:
    back = [s for s in segments if s.reason == "rollback" and is_in(s.start_step, step_range)]
    for segment in back:
        # where the parent ended: its last steps are the abandoned ones
        parent = series.ghosts.steps[series.ghosts.segments == segment.parent_segment]
        from_step = int(parent[-1]) if parent.size else segment.start_step
        figure.add_scatter(
            x=np.array([from_step, segment.start_step]),
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
        [s.start_step for s in back],
        [f"rolled back to step {s.start_step} (segment {s.index})" for s in back],
        "triangle-left",
        palette.ORANGE,
    )
    for segment in back[-_MOST_LINES:]:
        _line(figure, segment.start_step, palette.ORANGE, "dash")


def _add_alerts(
    figure: go.Figure, alerts: Sequence[Alert], series: Branches, step_range: StepRange
) -> None:
    here = [a for a in alerts if is_in(a.fired_step, step_range)]
    for severity, look in theme.SEVERITIES.items():
        fired = [a for a in here if a.severity == severity]
        texts = [
            f"{look.word}, fired at step {a.fired_step}, began at {a.onset_step}: "
            + in_figure(a.message)
            for a in fired
        ]
        _strip(figure, "alert", [a.fired_step for a in fired], texts, look.symbol, look.line)
        worst = [_worst(series, a) for a in fired]
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
        _line(figure, alert.onset_step, theme.SEVERITIES[alert.severity].line, "dot")


def _worst(branches: Branches, alert: Alert) -> tuple[int, float] | None:
    """Returns where the signal was highest from an alert's onset until it fired, on its branch."""
    tops = [top for part in (branches.living, branches.ghosts) if (top := _top(part, alert))]
    return max(tops, key=lambda top: top[1], default=None)


def _top(series: Series, alert: Alert) -> tuple[int, float] | None:
    is_there = (
        (series.segments == alert.segment)
        & (series.steps >= alert.onset_step)
        & (series.steps <= alert.fired_step)
        & np.isfinite(series.values)
    )
    at: NDArray[np.int64] = np.flatnonzero(is_there)
    if not at.size:
        return None
    top = at[np.argmax(series.values[at])]
    return int(series.steps[top]), float(series.values[top])


def _strip(
    figure: go.Figure,
    row: str,
    steps: Sequence[int],
    texts: Sequence[str],
    symbol: str,
    colour: str,
) -> None:
    if not steps:
        return
    figure.add_scatter(
        x=np.array(steps),
        y=np.full(len(steps), ROWS.index(row)),
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


def _line(figure: go.Figure, step: int, colour: str, dash: str) -> None:
    figure.add_shape(
        type="line", x0=step, x1=step, xref="x", y0=0, y1=1, yref="paper",
        line={"color": palette.faded(colour, 0.6), "width": 1, "dash": dash}, layer="below",
    )  # fmt: skip
