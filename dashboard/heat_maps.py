"""Pure: heat maps of layers and experts, over steps or at one step.

Each column is the mean of a bucket of steps; arrays stay float32 numpy, about 400 columns at most.
"""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from ..platform.records import Bands
from . import theme
from .window import Window, middles

_MOST_TICKS = 16
"""Rows or columns that are all named."""
_MOST_WRITTEN = 8
"""Columns whose cells have room for a number on a phone."""
_FULL_SCALE = 2.0
"""Loads from twice the mean upwards share the scale's last colour; the hover box says the value."""


def load_over_time(load: Bands, window: Window, *, layer: int, unit: str) -> go.Figure:
    """Draws one layer's expert loads: experts upwards, steps to the right.

    load: living buckets of that layer; shown relative to each column's mean, so tokens will do as
    well as loads.
    """
    means, x = load.mean, window.clock.x(load.segments, middles(load))
    fair = means.mean(1, keepdims=True)
    means = np.divide(means, fair, out=np.zeros_like(means), where=fair > 0)
    return _load_figure(
        x, np.arange(means.shape[1]), means.T, unit,
        x_title=window.clock.title, y_title=f"expert of MoE layer {layer}",
        hover=f"{window.clock.title} %{{x}}<br>expert %{{y}}", window=window,
    )  # fmt: skip


def load_at_step(load_LE: NDArray[np.float32], *, unit: str) -> go.Figure:
    """Draws every layer's expert loads at one step: layers upwards, experts to the right.

    load_LE: (layers, experts), relative to each layer's mean load.
    """
    layers, experts = load_LE.shape
    return _load_figure(
        np.arange(experts), np.arange(layers), load_LE, unit,
        x_title="expert", y_title="MoE layer", hover="MoE layer %{y}<br>expert %{x}",
    )  # fmt: skip


def level_over_time(
    living: Bands,
    window: Window,
    *,
    row: str,
    unit: str,
    names: Sequence[str] | None = None,
) -> go.Figure:
    """Draws a signal of layers: layers upwards, steps to the right. names: of the layers."""
    means, x = living.mean, window.clock.x(living.segments, middles(living))
    num_rows = means.shape[1]
    figure = go.Figure(
        go.Heatmap(
            x=x,
            y=np.arange(num_rows),
            z=means.T,
            customdata=_rows_text(names or [f"{row} {i}" for i in range(num_rows)], len(x)),
            colorscale=theme.LEVEL_SCALE,
            colorbar=_bar(unit),
            hovertemplate=f"{window.clock.title} %{{x}}<br>%{{customdata}}<br>%{{z:.4g}} "
            f"{theme.unit_text(unit)}<extra></extra>",
        )
    )
    _laid_out(figure, unit, x_title=window.clock.title, y_title=row, num_rows=num_rows)
    _over_time(figure, window)
    return figure if names is None else _with_named_rows(figure, names)


def who_goes_where(share_VE: NDArray[np.float32], names: Sequence[str]) -> go.Figure:
    """Draws which experts the tokens of each kind go to: kinds downwards, experts to the right.

    share_VE: (values of the trait, experts); each row adds up to 1, or is 0 where no token had that
    value, and is left blank. names: of the values.
    """
    is_there = share_VE.sum(1, keepdims=True) > 0
    shown_VE = np.where(is_there, share_VE, np.nan).astype(np.float32)
    hover = "%{customdata}<br>expert %{x} gets %{z:.1%} of the choices"
    return _share_figure(shown_VE, names, x_title="expert", hover=hover)


def working_together(share_EE: NDArray[np.float32]) -> go.Figure:
    """Draws, of the tokens that an expert (downwards) gets, the share that each other gets too.

    share_EE: (experts, other experts). The diagonal, which is 1, is left blank.
    """
    shown_EE = share_EE.astype(np.float32)
    np.fill_diagonal(shown_EE, np.nan)
    names = [f"expert {i}" for i in range(len(share_EE))]
    hover = "of the tokens of %{customdata}<br>expert %{x} gets %{z:.1%} too"
    return _share_figure(shown_EE, names, x_title="is shared with expert", hover=hover)


def shares_over_time(figure: go.Figure, window: Window, *, y_title: str) -> go.Figure:
    """Gives a heat map of shares, values upwards and steps to the right, the look of the others."""
    bar = _bar("share") | {"tickformat": ".0%"}
    figure.update_traces(colorbar=bar, selector={"type": "heatmap"})
    x_title = window.clock.title
    _laid_out(figure, "share", x_title=x_title, y_title=y_title, num_rows=_MOST_TICKS + 1)
    figure.update_yaxes(tickformat="~g")
    return _over_time(figure, window)


def _share_figure(
    share_RE: NDArray[np.float32],
    names: Sequence[str],
    *,
    x_title: str,
    hover: str,
) -> go.Figure:
    """Draws shares of named rows; few are written into their cells. share_RE: (rows, experts)."""
    num_rows, num_experts = share_RE.shape
    figure = go.Figure(
        go.Heatmap(
            x=np.arange(num_experts),
            y=np.arange(num_rows),
            z=share_RE,
            zmin=0,
            customdata=_rows_text(names, num_experts),
            colorscale=theme.LEVEL_SCALE,
            colorbar=_bar("share") | {"tickformat": ".0%"},
            texttemplate="%{z:.0%}" if num_experts <= _MOST_WRITTEN else None,
            hovertemplate=f"{hover}<extra></extra>",
        )
    )
    _laid_out(figure, "share", x_title=x_title, y_title="", num_rows=num_rows)
    figure.update_layout(height=int(min(640, 110 + max(100, 24 * num_rows))))
    figure.update_xaxes(**_whole(num_experts))
    figure.update_yaxes(autorange="reversed")
    return _with_named_rows(figure, names)


def _load_figure(
    x: NDArray[np.float64] | NDArray[np.int64],
    y: NDArray[np.int64],
    z: NDArray[np.float32],
    unit: str,
    *,
    x_title: str,
    y_title: str,
    hover: str,
    window: Window | None = None,
) -> go.Figure:
    """window: where steps go to the right."""
    figure = go.Figure(
        go.Heatmap(
            x=x,
            y=y,
            z=z,
            zmin=0,
            zmax=_FULL_SCALE,
            colorscale=[list(stop) for stop in theme.LOAD_SCALE],
            colorbar=_bar(unit)
            | {"tickvals": [0, 1, 2], "ticktext": ["0 idle", "1 fair", "2 or more"]},
            hovertemplate=f"{hover}<br>%{{z:.3g}} {theme.unit_text(unit)}<extra></extra>",
        )
    )
    _laid_out(figure, unit, x_title=x_title, y_title=y_title, num_rows=len(y))
    return figure if window is None else _over_time(figure, window)


def _over_time(figure: go.Figure, window: Window) -> go.Figure:
    """Gives a heat map over steps the horizontal axis of the window."""
    if window.clock.axis == "wall time" and not window.clock.is_steps:
        return figure.update_xaxes(type="date")
    if window.step_range is not None and window.clock.is_steps:
        return figure.update_xaxes(range=list(window.step_range))
    return figure.update_xaxes(type="log") if window.is_log_x else figure


def _bar(unit: str) -> dict[str, object]:
    return {
        "title": {"text": theme.unit_text(unit), "side": "top", "font": {"size": 11}},
        "orientation": "h",
        "thickness": 10,
        "len": 0.6,
        "x": 0,
        "xanchor": "left",
        "y": 1.0,
        "yanchor": "bottom",
        "tickfont": {"size": 11},
    }


def _laid_out(
    figure: go.Figure, unit: str, *, x_title: str, y_title: str, num_rows: int
) -> go.Figure:
    height = int(min(640, 110 + max(150, 16 * num_rows)))
    theme.laid_out(figure, height=height, unit=unit)
    # the colour bar and the title of the axis need their room told: they do not make it themselves
    figure.update_layout(hovermode="closest", margin={"l": 8, "r": 8, "t": 48, "b": 48})
    figure.update_xaxes(title={"text": ""}, showgrid=False, automargin=False)
    # an axis title is put among the tick labels where a colour bar stands above
    figure.add_annotation(
        text=x_title, showarrow=False, x=0.5, y=0, xref="paper", yref="paper", yshift=-40
    )
    figure.update_yaxes(title={"text": y_title}, showgrid=False, **_whole(num_rows))
    return figure


def _whole(number: int) -> dict[str, object]:
    """Returns the ticks of an axis of so many layers or experts."""
    return {"tickformat": "d"} | ({"dtick": 1} if number <= _MOST_TICKS else {})


def _with_named_rows(figure: go.Figure, names: Sequence[str]) -> go.Figure:
    """Writes the rows' names beside them, of many rows some."""
    shown = range(0, len(names), 1 + (len(names) - 1) // _MOST_TICKS)
    return figure.update_yaxes(
        title={"text": ""},
        dtick=None,
        tickmode="array",
        tickvals=list(shown),
        ticktext=[names[i] for i in shown],
    )


def _rows_text(names: Sequence[str], num_columns: int) -> NDArray[np.object_]:
    """Returns the name of each cell's row, for its hover box."""
    return np.repeat(np.array(names, object)[:, None], num_columns, axis=1)
