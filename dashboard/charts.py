"""Pure: series and records in, plotly figures out. No Streamlit and no store here.

Every line is filtered to the asked range first and thinned second (`buckets.py`), as numpy
arrays of at most about 400 points.
"""

from collections.abc import Mapping, Sequence
from math import log10

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from ..platform import palette
from ..platform.catalogue import MODALITIES
from ..platform.records import Series
from . import theme
from .buckets import bucketed
from .heat_maps import level_over_time
from .marks import Marks, add_marks
from .window import Branches, Window, in_range, with_values
from .words import in_figure

_LINE_HEIGHT = 280
_MARKED_HEIGHT = 430
_MOST_NAMED_LINES = 12
"""More lines than this cannot be told apart; a heat map shows them instead."""

Levels = Sequence[tuple[str, float]]
"""Named levels that mean something whatever the run: (name, value)."""


def scalar_figure(
    series: Branches, window: Window, *, name: str, unit: str, marks: Marks | None = None
) -> go.Figure:
    """Draws a scalar with its min-max band, abandoned branches in thin grey, marks below."""
    figure = go.Figure()
    _add_ghosts(figure, series.ghosts, window, palette.GREY, unit, is_named=True)
    living = in_range(series.living, window.step_range)
    line = bucketed(living.steps, living.values)
    if line.width > 1:
        edge = {"width": 0, "color": palette.BLUE}
        figure.add_scatter(
            x=line.steps, y=line.high, mode="lines", line=edge, showlegend=False,
            name="max", hovertemplate="%{y:.4g}",
        )  # fmt: skip
        figure.add_scatter(
            x=line.steps, y=line.low, mode="lines", line=edge, fill="tonexty",
            fillcolor=palette.faded(palette.BLUE, 0.28), name=f"min to max of {line.width} steps",
            hovertemplate="%{y:.4g}",
        )  # fmt: skip
    figure.add_scatter(
        x=line.steps,
        y=line.middle,
        mode="lines" if line.steps.size > 1 else "markers",
        line={"color": palette.BLUE, "width": 1.6},
        name=name if line.width == 1 else f"{name}, median",
        hovertemplate=f"%{{y:.4g}} {theme.unit_text(unit)}",
    )
    height = _LINE_HEIGHT if marks is None else _MARKED_HEIGHT
    theme.laid_out(figure, height=height, unit=unit, is_zoomable=window.is_zoomable)
    if marks is not None:
        add_marks(figure, marks, series, window.step_range)
    return _with_axes(figure, window, series.steps)


def lines_figure(
    lines: Mapping[str, Branches],
    window: Window,
    *,
    unit: str,
    levels: Levels = (),
    colours: Sequence[str] = palette.SERIES,
    dashes: Sequence[str] = palette.DASHES,
    is_peak: bool = False,
) -> go.Figure:
    """Draws several scalars, abandoned branches faded; levels are dashed, with their names.

    Each line differs from the next by dash as well as by colour; layers in order need not.
    is_peak: where points are thinned, a line follows the maxima instead of the medians.
    """
    figure = go.Figure()
    for index, (name, series) in enumerate(lines.items()):
        colour = colours[index % len(colours)]
        _add_ghosts(figure, series.ghosts, window, palette.faded(colour, 0.5), unit)
        here = in_range(series.living, window.step_range)
        line = bucketed(here.steps, here.values, 300)
        figure.add_scatter(
            x=line.steps,
            y=line.high if is_peak else line.middle,
            mode="lines" if line.steps.size > 1 else "markers",
            line={"color": colour, "width": 1.6, "dash": dashes[index % len(dashes)]},
            name=in_figure(name),
            hovertemplate=f"%{{y:.4g}} {theme.unit_text(unit)}",
        )
    theme.laid_out(figure, height=_LINE_HEIGHT, unit=unit, is_zoomable=window.is_zoomable)
    for name, level in levels:
        _add_level(figure, name, level, window.is_log)
    steps = [series.steps for series in lines.values() if series.steps.size]
    return _with_axes(figure, window, np.concatenate(steps) if steps else np.empty(0, np.int64))


def per_layer_figure(
    series: Branches,
    window: Window,
    *,
    layer: str,
    unit: str,
    levels: Levels = (),
    names: Sequence[str] | None = None,
) -> go.Figure:
    """Draws a signal (points, layers) as a line per layer, or as a heat map from 13 layers on.

    names: of the layers, where they have any; else the layers are numbered.
    """
    num_layers = series.living.values.shape[1]
    if num_layers > _MOST_NAMED_LINES:
        living = in_range(series.living, window.step_range)
        return level_over_time(living, window, row=layer, unit=unit, names=names)
    lines = {
        f"{layer} {i}" if names is None else names[i]: _layer(series, i) for i in range(num_layers)
    }
    return lines_figure(
        lines,
        window,
        unit=unit,
        levels=levels,
        colours=palette.ramp(num_layers),
        dashes=("solid",),
    )


def per_modality_figure(
    series: Branches, window: Window, *, layer: str, unit: str, levels: Levels = ()
) -> go.Figure:
    """Draws a signal (points, layers, modalities): a colour per layer, a dash per modality.

    From 13 lines on it is a heat map, one modality above the other, on one scale.
    """
    num_layers, num_modalities = series.living.values.shape[1:]
    flat = Branches(_modalities_first(series.living), _modalities_first(series.ghosts))
    names = [f"{name} {i}" for name in MODALITIES[:num_modalities] for i in range(num_layers)]
    if len(names) > _MOST_NAMED_LINES:
        living = in_range(flat.living, window.step_range)
        return level_over_time(living, window, row=layer, unit=unit, names=names)
    return lines_figure(
        {name: _layer(flat, i) for i, name in enumerate(names)},
        window,
        unit=unit,
        levels=levels,
        colours=palette.ramp(num_layers) * num_modalities,
        dashes=[palette.DASHES[m] for m in range(num_modalities) for _ in range(num_layers)],
    )


def stacked_figure(parts: Mapping[str, Branches], window: Window, *, unit: str) -> go.Figure:
    """Draws parts of a whole (the step's time) as stacked areas of their medians."""
    figure = go.Figure()
    for index, (name, series) in enumerate(parts.items()):
        here = in_range(series.living, window.step_range)
        line = bucketed(here.steps, here.values, 200)
        colour = palette.SERIES[index % len(palette.SERIES)]
        figure.add_scatter(
            x=line.steps,
            y=line.middle,
            mode="lines",
            stackgroup="parts",
            line={"color": colour, "width": 1},
            fillcolor=palette.faded(colour, 0.55),
            fillpattern={"shape": ("", "/", "", "\\", "x")[index % 5], "fgopacity": 0.35},
            name=in_figure(name),
            hovertemplate=f"%{{y:.3g}} {theme.unit_text(unit)}",
        )
    theme.laid_out(figure, height=_LINE_HEIGHT, unit=unit, is_zoomable=window.is_zoomable)
    steps = [series.living.steps for series in parts.values() if series.living.steps.size]
    return _with_axes(figure, window, np.concatenate(steps) if steps else np.empty(0, np.int64))


def noise_figure(
    loss_PMB: NDArray[np.float32], sigma_PMB: NDArray[np.float32], window: Window, *, unit: str
) -> go.Figure:
    """Draws the loss of samples over their noise level, a symbol per modality.

    loss_PMB, sigma_PMB: (points, modalities, samples). A diffusion model's loss depends on sigma
    (0 is data, 1 is noise), so a sample is odd only beside others of its noise level.
    """
    figure = go.Figure()
    symbols = ("circle-open", "x-thin", "diamond-open", "cross-thin")
    for index, name in enumerate(MODALITIES[: loss_PMB.shape[1]]):
        colour = palette.SERIES[index]
        figure.add_scatter(
            x=sigma_PMB[:, index].ravel(),
            y=loss_PMB[:, index].ravel(),
            mode="markers",
            marker={
                "symbol": symbols[index],
                "size": 6,
                "color": colour,
                "line": {"width": 1, "color": colour},
            },
            name=name,
            hovertemplate=f"sigma %{{x:.3f}}<br>%{{y:.4g}} {theme.unit_text(unit)}",
        )
    theme.laid_out(figure, height=_LINE_HEIGHT, unit=unit, is_zoomable=window.is_zoomable)
    figure.update_layout(hovermode="closest")
    figure.update_xaxes(title={"text": "sigma (0 is data, 1 is noise)"}, range=[-0.02, 1.02])
    if window.is_log:
        figure.update_yaxes(type="log")
    return figure


def _spread(figure: go.Figure) -> float:
    """Returns the largest over the smallest positive value that a figure's main axis shows."""
    drawn = [np.asarray(t.y, float) for t in figure.data if t.yaxis is None and len(t.y)]
    values = np.concatenate(drawn) if drawn else np.empty(0)
    values = values[values > 0]
    return float(values.max() / values.min()) if values.size else 1.0


def _layer(series: Branches, index: int) -> Branches:
    return Branches(*(with_values(s, s.values[:, index]) for s in (series.living, series.ghosts)))


def _modalities_first(series: Series) -> Series:
    """Returns (points, layers, modalities) as (points, modalities * layers)."""
    values = series.values.swapaxes(1, 2)
    return with_values(series, values.reshape(len(values), values.shape[1] * values.shape[2]))


def _add_level(figure: go.Figure, name: str, level: float, is_log: bool) -> None:
    if is_log and level <= 0:
        return
    figure.add_hline(y=level, line={"color": palette.GREY, "dash": "dash", "width": 1})
    figure.add_annotation(
        # on a logarithmic axis a line takes the value, and a text its power of ten
        y=log10(level) if is_log else level,
        text=in_figure(name),
        font={"size": 11},
        showarrow=False,
        x=1,
        xref="x domain",
        xanchor="right",
        yanchor="top",
    )


def _add_ghosts(
    figure: go.Figure,
    ghosts: Series,
    window: Window,
    colour: str,
    unit: str,
    is_named: bool = False,
) -> None:
    """Adds each abandoned branch as a thin line of its maxima, so that what it died of is seen."""
    here = in_range(ghosts, window.step_range)
    for index, segment in enumerate(np.unique(here.segments)):
        is_branch = here.segments == segment
        line = bucketed(here.steps[is_branch], here.values[is_branch], 200)
        figure.add_scatter(
            x=line.steps,
            y=line.high,
            mode="lines" if line.steps.size > 1 else "markers",
            line={"color": colour, "width": 1.3},
            name="abandoned branch",
            # a group of its own would make the legend a column, even where it is not shown
            legendgroup="ghost" if is_named else None,
            showlegend=is_named and index == 0,
            hovertemplate=f"%{{y:.4g}} {theme.unit_text(unit)}",
        )


def _with_axes(figure: go.Figure, window: Window, steps: NDArray[np.int64]) -> go.Figure:
    """Sets scale and range: a zoom made by hand is lost when a figure's data change."""
    if window.is_log:
        # every digit of a decade gets its label, 1, 2 and 5 where there are several, else the 1
        spread = _spread(figure)
        dtick = "D1" if spread < 10 else "D2" if spread < 1e4 else 1
        figure.update_layout(yaxis={"type": "log", "dtick": dtick, "tickformat": "~g"})
    if window.step_range is not None:
        low, high = window.step_range
    elif steps.size:
        low, high = int(steps.min()), int(steps.max())
    else:
        return figure
    margin = max(1.0, 0.02 * (high - low))
    figure.update_xaxes(range=[low - margin, high + margin])
    return figure
