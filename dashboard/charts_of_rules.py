"""A dry run in a picture: the signal that a rule judges, with the alarms it would have raised."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from ..platform import palette
from ..platform.records import Bands, Severity
from . import theme
from .window import Branches, middles
from .words import in_figure

_HEIGHT = 320
MOST_SHADED = 60
"""Alarms whose stretch from the onset is shaded; each has its mark."""


@dataclass(frozen=True, slots=True)
class WouldAlarm:
    """An alarm of a dry run."""

    step: int
    onset_step: int
    rule: str
    severity: Severity
    value: float
    words: str


def trial_figure(
    series: Branches,
    alarms: Sequence[WouldAlarm],
    *,
    name: str,
    unit: str,
    threshold: float | None = None,
) -> go.Figure:
    """Draws a signal's highest entry over steps, with a mark for each alarm where it was then.

    threshold: where it is one of the value itself.
    """
    figure = go.Figure()
    theme.laid_out(figure, height=_HEIGHT, unit=unit)
    _add_ghosts(figure, series.ghosts)
    values = worst_entries(series.living)
    figure.add_scatter(
        x=middles(series.living), y=values, mode="lines" if len(values) > 1 else "markers",
        line={"color": palette.BLUE, "width": 1.6}, name=in_figure(name),
        hovertemplate=f"%{{y:.4g}} {theme.unit_text(unit)}",
    )  # fmt: skip
    if threshold is not None:
        figure.add_hline(y=threshold, line={"color": palette.GREY, "dash": "dash", "width": 1})
    for alarm in alarms[:MOST_SHADED]:
        colour = theme.SEVERITIES[alarm.severity].line
        figure.add_vrect(
            x0=alarm.onset_step, x1=max(alarm.step, alarm.onset_step + 0.5), line_width=0,
            layer="below", fillcolor=palette.faded(colour, 0.16),
        )  # fmt: skip
    for severity, look in theme.SEVERITIES.items():
        here = [alarm for alarm in alarms if alarm.severity == severity]
        if not here:
            continue
        steps = np.array([alarm.step for alarm in here])
        figure.add_scatter(
            x=steps,
            y=_height_at(steps, series),
            mode="markers",
            marker={
                "symbol": look.symbol,
                "size": 12,
                "color": look.line,
                "line": {"width": 1.5, "color": look.line},
            },
            name=f"would be {look.word}",
            hovertext=[
                f"{in_figure(alarm.rule)}: alarm at step {alarm.step:,}, began at "
                f"{alarm.onset_step:,}, score {alarm.value:.3g}: {in_figure(alarm.words)}"
                for alarm in here
            ],
            hoverinfo="text",
        )
    return figure


def _add_ghosts(figure: go.Figure, ghosts: Bands) -> None:
    """A line of its own for each abandoned branch: one for all would join their ends."""
    x, values = middles(ghosts), worst_entries(ghosts)
    for index, segment in enumerate(np.unique(ghosts.segments)):
        is_branch = ghosts.segments == segment
        figure.add_scatter(
            x=x[is_branch], y=values[is_branch], mode="lines",
            line={"color": palette.GREY, "width": 1}, name="abandoned branch",
            legendgroup="ghost", showlegend=index == 0, hovertemplate="%{y:.4g}",
        )  # fmt: skip


def _height_at(steps: NDArray[np.int64], series: Branches) -> NDArray[np.float32]:
    """The highest finite value at, or last before, each step, on whatever branch."""
    found = np.full(len(steps), np.nan, np.float32)
    for part in (series.living, series.ghosts):
        values = worst_entries(part)
        is_finite = np.isfinite(values)
        known, values = part.steps[is_finite], values[is_finite]
        if not known.size:
            continue
        at = np.searchsorted(known, steps, side="right") - 1
        there = np.where(at >= 0, values[np.maximum(at, 0)], np.nan)
        found = np.fmax(found, there.astype(np.float32))
    return found


def worst_entries(bands: Bands) -> NDArray[np.float32]:
    """The highest finite value of all numbers of each bucket; NaN where there is none. (B,)"""
    highest = bands.high.max(axis=1, initial=-np.inf)
    return np.where(np.isfinite(highest), highest, np.nan).astype(np.float32)
