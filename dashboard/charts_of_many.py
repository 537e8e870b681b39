"""Pure: many runs in one figure: a line for each, a band for each group, dots and threads for what
came of which setting.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from ..platform import palette
from ..platform.records import Bands
from . import theme
from .clock import Clock
from .spread import spread_of
from .window import middles, moving_mean
from .words import in_figure

MOST_RUNS = 10
"""More lines than this are told apart by nobody."""
_HEIGHT = 340

Span = tuple[float, float] | None
"""First and last place of the horizontal axis; None: from the first to the last of all runs."""


@dataclass(frozen=True, slots=True)
class Across:
    """The axes that all runs share."""

    title: str
    span: Span = None
    is_log_x: bool = False
    is_log: bool = False
    """Of values."""


@dataclass(frozen=True, slots=True)
class Line:
    """One run in a figure of many."""

    name: str
    place: int
    """Among the runs that were chosen: its colour and dash, in all figures the same."""
    bands: Bands
    clock: Clock
    smoothing: int = 0
    version: Hashable = None
    """Another one where anything of the buckets differs."""

    @property
    def x(self) -> NDArray[np.float64]:
        return self.clock.x(self.bands.segments, middles(self.bands))

    @property
    def is_smooth(self) -> bool:
        return self.smoothing > self.bands.width

    @property
    def y(self) -> NDArray[np.float32]:
        """What the line follows: the moving mean that was asked for, or each bucket's."""
        found = moving_mean(self.bands, self.smoothing) if self.is_smooth else self.bands.mean
        return found[:, 0]


def look_of(place: int) -> tuple[str, str]:
    """Returns (colour, dash) of a place; all ten differ, neighbours in both.

    >>> len({look_of(place) for place in range(MOST_RUNS)})
    10
    """
    num_colours, num_dashes = len(palette.SERIES), len(palette.DASHES)
    return (
        palette.SERIES[place % num_colours],
        palette.DASHES[(place + place // num_colours) % num_dashes],
    )


def overlaid_figure(lines: Sequence[Line], across: Across, *, unit: str) -> go.Figure:
    """Draws a line for each run, over a faint band from its buckets' lowest to highest value."""
    figure = go.Figure()
    for line in lines:
        colour, dash = look_of(line.place)
        x, name = line.x, in_figure(line.name)
        if line.bands.width > 1:
            _add_band(
                figure, x, _finite(line.bands.low), _finite(line.bands.high), colour, 0.16, name
            )
        elif line.is_smooth:
            figure.add_scatter(
                x=x, y=line.bands.mean[:, 0], mode="lines", hoverinfo="skip", showlegend=False,
                line={"color": palette.faded(colour, 0.3), "width": 1}, legendgroup=name,
            )  # fmt: skip
        figure.add_scatter(
            x=x,
            y=line.y,
            mode="lines" if len(x) > 1 else "markers",
            line={"color": colour, "dash": dash, "width": 1.7},
            name=name,
            legendgroup=name,
            hovertemplate=f"%{{y:.4g}} {theme.unit_text(unit)}",
        )
        _add_non_finite(figure, line, name)
    return _finished(figure, across, unit, [line.x for line in lines])


def grouped_figure(groups: Mapping[str, Sequence[Line]], across: Across, *, unit: str) -> go.Figure:
    """Draws the mean of each group's runs, a band of ± its standard error, and a fainter one from
    the lowest to the highest run. A group of one is a line alone.
    """
    figure, drawn = go.Figure(), []
    for place, (group, lines) in enumerate(groups.items()):
        spread = spread_of([(line.x, line.y.astype(float)) for line in lines], across.is_log_x)
        if spread is None:
            continue
        colour, dash = look_of(place)
        name = in_figure(group)
        drawn.append(spread.x)
        if spread.num > 1:
            _add_band(figure, spread.x, spread.low, spread.high, colour, 0.14, name)
            low, high = spread.mean - spread.error, spread.mean + spread.error
            _add_band(figure, spread.x, low, high, colour, 0.3, name)
        figure.add_scatter(
            x=spread.x,
            y=spread.mean,
            customdata=np.stack([spread.low, spread.high, spread.error], axis=1),
            mode="lines" if len(spread.x) > 1 else "markers",
            line={"color": colour, "dash": dash, "width": 1.9},
            name=f"{name} (n = {spread.num})",
            legendgroup=name,
            hovertemplate="%{y:.4g}"
            + (
                " ± %{customdata[2]:.2g}, from %{customdata[0]:.4g} to %{customdata[1]:.4g}"
                if spread.num > 1
                else ""
            ),
        )
    return _finished(figure, across, unit, drawn)


def scatter_figure(
    x: Sequence[float] | Sequence[str],
    y: Sequence[float],
    names: Sequence[str],
    groups: Sequence[str],
    *,
    x_title: str,
    y_title: str,
    unit: str,
    is_log_x: bool = False,
    is_log: bool = False,
) -> go.Figure:
    """Draws a dot for each run: what it came to over one of its settings.

    groups: of each dot, by colour and symbol; the same word for all of them draws one.
    """
    figure = go.Figure()
    symbols = ("circle", "diamond", "square", "cross", "triangle-up")
    for place, group in enumerate(dict.fromkeys(groups)):
        here = [i for i, other in enumerate(groups) if other == group]
        figure.add_scatter(
            x=[_word(x[i]) for i in here],
            y=[y[i] for i in here],
            text=[in_figure(names[i]) for i in here],
            mode="markers",
            marker={
                "size": 9,
                "opacity": 0.85,
                "color": look_of(place)[0],
                "symbol": symbols[(place + place // len(palette.SERIES)) % len(symbols)],
            },
            name=in_figure(group),
            showlegend=len(set(groups)) > 1,
            hovertemplate="%{text}<br>%{x}<br>%{y:.4g}<extra></extra>",
        )
    theme.laid_out(figure, height=_HEIGHT, unit=unit, x_title=in_figure(x_title))
    figure.update_layout(hovermode="closest")
    figure.update_yaxes(title={"text": in_figure(y_title)}, type="log" if is_log else "linear")
    if all(isinstance(value, str) for value in x):
        return figure.update_xaxes(type="category")
    return figure.update_xaxes(type="log") if is_log_x else figure


def _word(value: float | str) -> float | str:
    return in_figure(value) if isinstance(value, str) else value


def _add_band(
    figure: go.Figure,
    x: NDArray[np.float64],
    low: NDArray[np.float64] | NDArray[np.float32],
    high: NDArray[np.float64] | NDArray[np.float32],
    colour: str,
    opacity: float,
    name: str,
) -> None:
    edge = {"width": 0, "color": colour}
    figure.add_scatter(
        x=x, y=high, mode="lines", line=edge, showlegend=False, legendgroup=name, hoverinfo="skip"
    )
    figure.add_scatter(
        x=x, y=low, mode="lines", line=edge, fill="tonexty", showlegend=False, legendgroup=name,
        fillcolor=palette.faded(colour, opacity), hoverinfo="skip",
    )  # fmt: skip


def _add_non_finite(figure: go.Figure, line: Line, name: str) -> None:
    """Marks where values were not finite: a gap alone is overlooked."""
    is_bad = line.bands.num_finite[:, 0] < line.bands.num_points
    if not is_bad.any():
        return
    finite = line.bands.low[np.isfinite(line.bands.low)]
    figure.add_scatter(
        x=line.x[is_bad],
        y=np.full(int(is_bad.sum()), float(finite.min()) if finite.size else 1.0, np.float32),
        mode="markers",
        marker={"symbol": "x", "size": 8, "color": palette.RED},
        name=f"{name}: not finite",
        legendgroup=name,
        showlegend=False,
        hovertemplate="NaN or infinite",
    )


def _finite(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.where(np.isfinite(values[:, 0]), values[:, 0], np.nan).astype(np.float32)


def _finished(
    figure: go.Figure, across: Across, unit: str, xs: Sequence[NDArray[np.float64]]
) -> go.Figure:
    theme.laid_out(figure, height=_HEIGHT, unit=unit, x_title=across.title)
    # groups tie a run's band to its line, and must not make the legend a column
    figure.update_layout(legend={"traceorder": "normal"})
    if across.is_log:
        figure.update_yaxes(type="log", tickformat="~g")
    every = np.concatenate(xs) if xs else np.empty(0)
    every = every[np.isfinite(every)]
    if not every.size:
        return figure
    low, high = across.span or (float(every.min()), float(every.max()))
    if across.is_log_x:
        above = every[every > 0]
        least = float(above.min()) if above.size else 1.0
        low, high = np.log10(max(low, least)), np.log10(max(high, least))
        margin = 0.02 * max(high - low, 0.1)
        return figure.update_xaxes(type="log", range=[low - margin, high + margin])
    margin = 0.02 * (high - low) or 1.0
    return figure.update_xaxes(range=[low - margin, high + margin])
