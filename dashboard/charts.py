"""Pure: series and records in, plotly figures out. No Streamlit and no store here.

Every line is filtered to the asked range first and thinned second (`buckets.py`), as numpy
arrays of at most about 400 points.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from ..platform.records import Series
from . import theme
from .buckets import bucketed
from .heat_maps import level_over_time
from .marks import Marks, add_marks
from .window import Window, in_range, kept
from .words import in_figure

_LINE_HEIGHT = 280
_MARKED_HEIGHT = 430
_MOST_NAMED_LINES = 12
"""More lines than this cannot be told apart; a heat map shows them instead."""


def scalar_figure(
    series: Series,
    is_living: NDArray[np.bool_],
    window: Window,
    *,
    name: str,
    unit: str,
    marks: Marks | None = None,
) -> go.Figure:
    """Draws a scalar with its min-max band, abandoned branches in thin grey, marks below."""
    figure = go.Figure()
    ghosts = in_range(kept(series, ~is_living), window.step_range)
    for index, segment in enumerate(np.unique(ghosts.segments)):
        is_here = ghosts.segments == segment
        branch = bucketed(ghosts.steps[is_here], ghosts.values[is_here], 200)
        figure.add_scatter(
            x=branch.steps,
            y=branch.high,
            mode="lines",
            line={"color": theme.GREY, "width": 1, "dash": "dot"},
            name="abandoned branch",
            legendgroup="ghost",
            showlegend=index == 0,
            hovertemplate=f"%{{y:.4g}} {unit}",
        )
    living = in_range(kept(series, is_living), window.step_range)
    line = bucketed(living.steps, living.values)
    if line.width > 1:
        edge = {"width": 0, "color": theme.BLUE}
        figure.add_scatter(
            x=line.steps, y=line.high, mode="lines", line=edge, showlegend=False,
            name="max", hovertemplate="%{y:.4g}",
        )  # fmt: skip
        figure.add_scatter(
            x=line.steps, y=line.low, mode="lines", line=edge, fill="tonexty",
            fillcolor=theme.faded(theme.BLUE, 0.28), name=f"min to max of {line.width} steps",
            hovertemplate="%{y:.4g}",
        )  # fmt: skip
    figure.add_scatter(
        x=line.steps,
        y=line.middle,
        mode="lines" if line.steps.size > 1 else "markers",
        line={"color": theme.BLUE, "width": 1.6},
        name=name if line.width == 1 else f"{name}, median",
        hovertemplate=f"%{{y:.4g}} {unit}",
    )
    height = _LINE_HEIGHT if marks is None else _MARKED_HEIGHT
    theme.laid_out(figure, height=height, unit=unit, is_zoomable=window.is_zoomable)
    figure.update_yaxes(type="log" if window.is_log else "linear")
    if marks is not None:
        add_marks(figure, marks, series, window.step_range)
    return _ranged(figure, window, series.steps)


def lines_figure(
    lines: Mapping[str, Series],
    window: Window,
    *,
    unit: str,
    reference: tuple[str, float] | None = None,
    colours: Sequence[str] = theme.SERIES,
    is_depth: bool = False,
) -> go.Figure:
    """Draws several living scalars as their medians; the reference is a dashed level with its name.

    Each line differs from the next by dash as well as by colour, unless they are layers in order.
    """
    figure = go.Figure()
    for index, (name, series) in enumerate(lines.items()):
        here = in_range(series, window.step_range)
        line = bucketed(here.steps, here.values, 300)
        figure.add_scatter(
            x=line.steps,
            y=line.middle,
            mode="lines" if line.steps.size > 1 else "markers",
            line={
                "color": colours[index % len(colours)],
                "width": 1.6,
                "dash": "solid" if is_depth else theme.DASHES[index % len(theme.DASHES)],
            },
            name=in_figure(name),
            hovertemplate=f"%{{y:.4g}} {unit}",
        )
    theme.laid_out(figure, height=_LINE_HEIGHT, unit=unit, is_zoomable=window.is_zoomable)
    figure.update_yaxes(type="log" if window.is_log else "linear")
    if reference is not None:
        name, level = reference
        figure.add_hline(
            y=level,
            line={"color": theme.GREY, "dash": "dash", "width": 1},
            annotation={"text": in_figure(name), "font": {"size": 11}, "yshift": -2},
            annotation_position="bottom right",
        )
    steps = [series.steps for series in lines.values() if series.steps.size]
    return _ranged(figure, window, np.concatenate(steps) if steps else np.empty(0, np.int64))


def per_layer_figure(
    series: Series,
    is_living: NDArray[np.bool_],
    window: Window,
    *,
    layer: str,
    unit: str,
    reference: tuple[str, float] | None = None,
) -> go.Figure:
    """Draws a signal (points, layers) as a line per layer, or as a heat map from 13 layers on."""
    living = in_range(kept(series, is_living), window.step_range)
    num_layers = living.values.shape[1]
    if num_layers > _MOST_NAMED_LINES:
        return level_over_time(living, window, row=layer, unit=unit)
    lines = {
        f"{layer} {i}": Series(
            series.signal, living.segments, living.steps, living.times_s, living.values[:, i]
        )
        for i in range(num_layers)
    }
    return lines_figure(
        lines,
        window,
        unit=unit,
        reference=reference,
        colours=theme.layer_colours(num_layers),
        is_depth=True,
    )


def stacked_figure(parts: Mapping[str, Series], window: Window, *, unit: str) -> go.Figure:
    """Draws parts of a whole (the step's time) as stacked areas of their medians."""
    figure = go.Figure()
    for index, (name, series) in enumerate(parts.items()):
        here = in_range(series, window.step_range)
        line = bucketed(here.steps, here.values, 200)
        colour = theme.SERIES[index % len(theme.SERIES)]
        figure.add_scatter(
            x=line.steps,
            y=line.middle,
            mode="lines",
            stackgroup="parts",
            line={"color": colour, "width": 1},
            fillcolor=theme.faded(colour, 0.55),
            fillpattern={"shape": ("", "/", "", "\\", "x")[index % 5], "fgopacity": 0.35},
            name=in_figure(name),
            hovertemplate=f"%{{y:.3g}} {unit}",
        )
    theme.laid_out(figure, height=_LINE_HEIGHT, unit=unit, is_zoomable=window.is_zoomable)
    steps = [series.steps for series in parts.values() if series.steps.size]
    return _ranged(figure, window, np.concatenate(steps) if steps else np.empty(0, np.int64))


def _ranged(figure: go.Figure, window: Window, steps: NDArray[np.int64]) -> go.Figure:
    """Sets the step axis with a margin of 2 %: a zoom made by hand is lost when data change."""
    if window.step_range is not None:
        low, high = window.step_range
    elif steps.size:
        low, high = int(steps.min()), int(steps.max())
    else:
        return figure
    margin = max(1.0, 0.02 * (high - low))
    figure.update_xaxes(range=[low - margin, high + margin])
    return figure
