"""Pure: signals by buckets and records in, plotly figures out. No Streamlit and no store here.

What is drawn was read range first and thinned second, in buckets that stand still while the run
grows; a band shows each bucket's lowest and highest value, so a spike of one step is seen at every
zoom.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import log10

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from ..platform import palette
from ..platform.catalogue import MODALITIES
from ..platform.records import Bands
from . import theme
from .heat_maps import level_over_time
from .marks import Marks, add_marks
from .window import Branches, Window, middles, moving_mean
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
    living = series.living
    x = _x(living, window)
    is_smooth = window.smoothing > living.width
    if living.width > 1:
        _add_band(figure, living, x)
    elif is_smooth:
        figure.add_scatter(
            x=x, y=living.mean[:, 0], mode="lines", name=f"{name}, each step",
            line={"color": palette.faded(palette.BLUE, 0.35), "width": 1},
            hovertemplate="%{y:.4g}",
        )  # fmt: skip
    line = _line(living, window)[:, 0]
    figure.add_scatter(
        x=x,
        y=line,
        mode=_mode(line),
        line={"color": palette.BLUE, "width": 1.6},
        name=name + _of(living, window),
        hovertemplate=f"%{{y:.4g}} {theme.unit_text(unit)}",
    )
    _add_undrawn(figure, living, x, window.is_log)
    height = _LINE_HEIGHT if marks is None else _MARKED_HEIGHT
    theme.laid_out(figure, height=height, unit=unit, x_title=window.clock.title)
    if marks is not None:
        add_marks(figure, marks, series, window)
    return _with_axes(figure, window, [series])


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
    is_peak: where points are thinned, a line follows the maxima instead of both extremes.
    """
    figure = go.Figure()
    for index, (name, series) in enumerate(lines.items()):
        colour = colours[index % len(colours)]
        _add_ghosts(figure, series.ghosts, window, palette.faded(colour, 0.5), unit)
        x, y = _x(series.living, window), _line(series.living, window)[:, 0]
        if is_peak:
            y = _finite(series.living.high[:, 0])
        elif series.living.width > 1 and window.smoothing <= series.living.width:
            x, y = _both_extremes(series.living, x)
        figure.add_scatter(
            x=x,
            y=y,
            mode=_mode(y),
            line={"color": colour, "width": 1.6, "dash": dashes[index % len(dashes)]},
            name=in_figure(name),
            hovertemplate=f"%{{y:.4g}} {theme.unit_text(unit)}",
        )
    theme.laid_out(figure, height=_LINE_HEIGHT, unit=unit, x_title=window.clock.title)
    for name, level in levels:
        _add_level(figure, name, level, window.is_log)
    return _with_axes(figure, window, list(lines.values()))


def per_layer_figure(
    series: Branches,
    window: Window,
    *,
    layer: str,
    unit: str,
    levels: Levels = (),
    names: Sequence[str] | None = None,
) -> go.Figure:
    """Draws a signal of layers as a line per layer, or as a heat map from 13 layers on.

    names: of the layers, where they have any; else the layers are numbered.
    """
    num_layers = series.living.low.shape[1]
    if num_layers > _MOST_NAMED_LINES:
        return level_over_time(series.living, window, row=layer, unit=unit, names=names)
    lines = {
        f"{layer} {i}" if names is None else names[i]: series.column(i) for i in range(num_layers)
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
    series: Branches,
    window: Window,
    *,
    num_layers: int,
    layer: str,
    unit: str,
    levels: Levels = (),
) -> go.Figure:
    """Draws a signal of (layers, modalities) side by side: a colour per layer, a dash per modality.

    From 13 lines on it is a heat map, one modality above the other, on one scale.
    """
    num_modalities = series.living.low.shape[1] // max(1, num_layers)
    order = [i * num_modalities + m for m in range(num_modalities) for i in range(num_layers)]
    flat = Branches(_reordered(series.living, order), _reordered(series.ghosts, order))
    names = [f"{name} {i}" for name in MODALITIES[:num_modalities] for i in range(num_layers)]
    if len(names) > _MOST_NAMED_LINES:
        return level_over_time(flat.living, window, row=layer, unit=unit, names=names)
    return lines_figure(
        {name: flat.column(i) for i, name in enumerate(names)},
        window,
        unit=unit,
        levels=levels,
        colours=palette.ramp(num_layers) * num_modalities,
        dashes=[palette.DASHES[m] for m in range(num_modalities) for _ in range(num_layers)],
    )


def stacked_figure(parts: Mapping[str, Branches], window: Window, *, unit: str) -> go.Figure:
    """Draws parts of a whole (the step's time) as stacked areas of their means."""
    figure = go.Figure()
    for index, (name, series) in enumerate(parts.items()):
        colour = palette.SERIES[index % len(palette.SERIES)]
        figure.add_scatter(
            x=_x(series.living, window),
            y=_line(series.living, window)[:, 0],
            mode="lines",
            stackgroup="parts",
            line={"color": colour, "width": 1},
            fillcolor=palette.faded(colour, 0.55),
            fillpattern={"shape": ("", "/", "", "\\", "x")[index % 5], "fgopacity": 0.35},
            name=in_figure(name),
            hovertemplate=f"%{{y:.3g}} {theme.unit_text(unit)}",
        )
    theme.laid_out(figure, height=_LINE_HEIGHT, unit=unit, x_title=window.clock.title)
    return _with_axes(figure, window, list(parts.values()))


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
    theme.laid_out(figure, height=_LINE_HEIGHT, unit=unit)
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


def _x(bands: Bands, window: Window) -> NDArray[np.float64]:
    return window.clock.x(bands.segments, middles(bands))


def _line(bands: Bands, window: Window) -> NDArray[np.float32]:
    """Returns what a line follows: each bucket's mean, or the moving mean that was asked for."""
    if window.smoothing > bands.width:
        return moving_mean(bands, window.smoothing)
    return bands.mean


def _mode(values: NDArray[np.float32]) -> str:
    """A line of one point would not be seen."""
    return "lines" if np.isfinite(values).sum() > 1 else "markers"


def _of(bands: Bands, window: Window) -> str:
    if window.smoothing > bands.width:
        return f", mean of {window.smoothing:,} steps"
    return "" if bands.width == 1 else f", mean of {bands.width:,} steps"


def _finite(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.where(np.isfinite(values), values, np.nan).astype(np.float32)


def _both_extremes(
    bands: Bands, x: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Returns a line that goes through each bucket's lowest and highest value."""
    both = np.stack([_finite(bands.low[:, 0]), _finite(bands.high[:, 0])], axis=1)
    return np.repeat(x, 2), both.ravel()


def _add_band(figure: go.Figure, bands: Bands, x: NDArray[np.float64]) -> None:
    edge = {"width": 0, "color": palette.BLUE}
    figure.add_scatter(
        x=x, y=_finite(bands.high[:, 0]), mode="lines", line=edge, showlegend=False,
        name="max", hovertemplate="%{y:.4g}",
    )  # fmt: skip
    figure.add_scatter(
        x=x, y=_finite(bands.low[:, 0]), mode="lines", line=edge, fill="tonexty",
        fillcolor=palette.faded(palette.BLUE, 0.28), name=f"min to max of {bands.width:,} steps",
        hovertemplate="%{y:.4g}",
    )  # fmt: skip


def _add_undrawn(figure: go.Figure, bands: Bands, x: NDArray[np.float64], is_log: bool) -> None:
    """Marks where values were not finite, or have no logarithm: a gap alone is overlooked."""
    floor = bands.low[np.isfinite(bands.low) & ((bands.low > 0) | (not is_log))]
    is_bad = bands.num_finite[:, 0] < bands.num_points
    is_low = np.isfinite(bands.low[:, 0]) & (bands.low[:, 0] <= 0) & is_log
    for is_there, name, says, symbol, colour in (
        (is_bad, "not finite", "NaN or infinite", "x", palette.RED),
        (is_low, "0 or less", "0 or less has no place here", "triangle-down", palette.ORANGE),
    ):
        if not is_there.any():
            continue
        figure.add_scatter(
            x=x[is_there],
            y=np.full(int(is_there.sum()), float(floor.min()) if floor.size else 1.0, np.float32),
            mode="markers",
            marker={"symbol": symbol, "size": 9, "color": colour},
            name=name,
            hovertemplate=f"{says}<extra></extra>",
        )


def _reordered(bands: Bands, order: Sequence[int]) -> Bands:
    return replace(
        bands,
        low=bands.low[:, order],
        high=bands.high[:, order],
        mean=bands.mean[:, order],
        num_finite=bands.num_finite[:, order],
    )


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
    ghosts: Bands,
    window: Window,
    colour: str,
    unit: str,
    is_named: bool = False,
) -> None:
    """Adds each abandoned branch as a thin line of its maxima, so that what it died of is seen."""
    x = _x(ghosts, window)
    for index, segment in enumerate(np.unique(ghosts.segments)):
        is_branch = ghosts.segments == segment
        figure.add_scatter(
            x=x[is_branch],
            y=_finite(ghosts.high[is_branch, 0]),
            mode="lines" if is_branch.sum() > 1 else "markers",
            line={"color": colour, "width": 1.3},
            name="abandoned branch",
            # a group of its own would make the legend a column, even where it is not shown
            legendgroup="ghost" if is_named else None,
            showlegend=is_named and index == 0,
            hovertemplate=f"%{{y:.4g}} {theme.unit_text(unit)}",
        )


def _with_axes(figure: go.Figure, window: Window, drawn: Sequence[Branches]) -> go.Figure:
    """Sets scales and range; the range follows the run, so a figure that grows does not jump."""
    if window.is_log:
        # every digit of a decade gets its label, 1, 2 and 5 where there are several, else the 1;
        # around a single value plotly shows two
        spread = _spread(figure)
        dtick = "D1" if 1 < spread < 10 else "D2" if spread < 1e4 else 1
        figure.update_layout(yaxis={"type": "log", "dtick": dtick, "tickformat": "~g"})
    return with_horizontal_axis(figure, window, [b for s in drawn for b in (s.living, s.ghosts)])


def with_horizontal_axis(figure: go.Figure, window: Window, drawn: Sequence[Bands]) -> go.Figure:
    """Sets type and range of the horizontal axis from the window, or from what is drawn."""
    found = [_x(bands, window) for bands in drawn if len(bands.steps)]
    xs = np.concatenate(found) if found else np.empty(0)
    if window.step_range is not None and window.clock.is_steps:
        low, high = map(float, window.step_range)
    elif xs.size and np.isfinite(xs).any():
        low, high = float(np.nanmin(xs)), float(np.nanmax(xs))
    else:
        return figure
    if window.clock.axis == "wall time" and not window.clock.is_steps:
        figure.update_xaxes(type="date")
    elif window.is_log_x:
        low, high = max(low, 1.0), max(high, 1.0)
        margin = 0.02 * log10(high / low)
        return figure.update_xaxes(
            type="log", range=[log10(low) - margin, log10(high) + margin], dtick=1
        )
    margin = max(1.0, 0.02 * (high - low))
    return figure.update_xaxes(range=[low - margin, high + margin])
