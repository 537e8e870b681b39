"""Pure: heat maps of layers and experts, over steps or at one step.

Arrays stay float32 numpy, at most about 400 columns.
"""

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from ..platform.records import Series
from . import theme
from .buckets import column_means
from .window import Window

_MOST_COLUMNS = 400
_FULL_SCALE = 2.0
"""Loads from twice the mean upwards share the scale's last colour; the hover box says the value."""


def load_over_time(load: Series, window: Window, *, layer: int, unit: str) -> go.Figure:
    """Draws one layer's expert loads: experts upwards, steps to the right.

    load: living points of that layer, values (points, experts); shown relative to each column's
    mean, so tokens will do as well as loads.
    """
    steps, means = column_means(load.steps, load.values, _MOST_COLUMNS)
    fair = means.mean(1, keepdims=True)
    means = np.divide(means, fair, out=np.zeros_like(means), where=fair > 0)
    return _load_figure(
        steps, np.arange(means.shape[1]), means.T, window, unit,
        x_title="step", y_title=f"expert of MoE layer {layer}",
        hover="step %{x}<br>expert %{y}",
    )  # fmt: skip


def load_at_step(load_LE: NDArray[np.float32], window: Window, *, unit: str) -> go.Figure:
    """Draws every layer's expert loads at one step: layers upwards, experts to the right.

    load_LE: (layers, experts), relative to each layer's mean load.
    """
    layers, experts = load_LE.shape
    return _load_figure(
        np.arange(experts), np.arange(layers), load_LE, window, unit,
        x_title="expert", y_title="MoE layer", hover="MoE layer %{y}<br>expert %{x}",
    )  # fmt: skip


def level_over_time(living: Series, window: Window, *, row: str, unit: str) -> go.Figure:
    """Draws a signal (points, layers): layers upwards, steps to the right."""
    steps, means = column_means(living.steps, living.values, _MOST_COLUMNS)
    figure = go.Figure(
        go.Heatmap(
            x=steps,
            y=np.arange(means.shape[1]),
            z=means.T,
            colorscale=theme.LEVEL_SCALE,
            colorbar=_bar(unit),
            hovertemplate=f"step %{{x}}<br>{row} %{{y}}<br>%{{z:.4g}} "
            f"{theme.unit_text(unit)}<extra></extra>",
        )
    )
    return _laid_out(figure, window, unit, x_title="step", y_title=row, num_rows=means.shape[1])


def _load_figure(
    x: NDArray[np.int64],
    y: NDArray[np.int64],
    z: NDArray[np.float32],
    window: Window,
    unit: str,
    *,
    x_title: str,
    y_title: str,
    hover: str,
) -> go.Figure:
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
    return _laid_out(figure, window, unit, x_title=x_title, y_title=y_title, num_rows=len(y))


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
    figure: go.Figure, window: Window, unit: str, *, x_title: str, y_title: str, num_rows: int
) -> go.Figure:
    height = int(min(640, 110 + max(150, 16 * num_rows)))
    theme.laid_out(figure, height=height, unit=unit, is_zoomable=window.is_zoomable)
    # the colour bar and the title of the axis need their room told: they do not make it themselves
    figure.update_layout(hovermode="closest", margin={"l": 8, "r": 8, "t": 48, "b": 48})
    whole = {"tickformat": "d"} | ({"dtick": 1} if num_rows <= 16 else {})
    figure.update_xaxes(title={"text": ""}, showgrid=False, automargin=False)
    # an axis title is put among the tick labels where a colour bar stands above
    figure.add_annotation(
        text=x_title, showarrow=False, x=0.5, y=0, xref="paper", yref="paper", yshift=-40
    )
    figure.update_yaxes(title={"text": y_title}, showgrid=False, **whole)
    return figure
