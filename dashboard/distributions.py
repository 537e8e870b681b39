"""Pure: how the values of many samples, blocks or experts are spread, and how that changes.

Each column stands for a stretch of steps and adds up to 1; its share in a bin is its colour.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from ..platform import palette
from . import theme
from .heat_maps import shares_over_time
from .window import Window

NUM_BINS = 32


@dataclass(frozen=True, slots=True)
class Columns:
    """Values by stretches of steps; C stretches."""

    width: int
    """Steps of a stretch."""
    num_read: int
    """Steps at the beginning of each that were read."""
    segments: NDArray[np.int32]
    steps: NDArray[np.float64]
    """(C,) the middle of each."""
    values: Sequence[NDArray[np.float32]]
    """What was measured in each, in no order."""


def edges_of(
    values: Sequence[NDArray[np.float32]], *, is_log: bool, ends: tuple[float, float] | None = None
) -> NDArray[np.float64]:
    """Returns the edges of the bins, from the lowest to the highest finite value or between `ends`.

    is_log: bins of equal width in the logarithm; values of 0 and below are then in none.
    """
    every = np.concatenate([v.ravel() for v in values]) if values else np.empty(0, np.float32)
    every = every[np.isfinite(every)].astype(np.float64)
    if is_log:
        every = every[every > 0]
    low, high = ends or ((every.min(), every.max()) if every.size else (0.0, 1.0))
    if not low < high:
        low, high = (low / 1.1, low * 1.1) if is_log and low > 0 else (low - 0.5, low + 0.5)
    if is_log:
        return np.geomspace(low, high, NUM_BINS + 1)
    return np.linspace(low, high, NUM_BINS + 1)


def shares_of(
    values: Sequence[NDArray[np.float32]], edges: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Returns (bins, columns): which share of a column's values is in each bin; of all, so what is
    not finite, or outside, is missing in the sum. 0 columns have none."""
    counts = [np.histogram(_finite(v), _closed(edges))[0] / max(1, v.size) for v in values]
    return np.stack(counts, axis=1).astype(np.float32) if counts else np.empty((0, 0), np.float32)


def distribution_over_time(
    columns: Columns,
    window: Window,
    *,
    unit: str,
    is_log: bool,
    ends: tuple[float, float] | None = None,
) -> go.Figure:
    """Draws the share of values in each bin over the steps, and the median as a line."""
    edges = edges_of(columns.values, is_log=is_log, ends=ends)
    shares = shares_of(columns.values, edges)
    x = window.clock.x(columns.segments, columns.steps)
    shown = np.where(shares > 0, shares, np.nan)  # an empty bin is no colour
    ranges = [f"{a:.3g} to {b:.3g}" for a, b in pairwise(edges)]
    middles = np.sqrt(edges[:-1] * edges[1:]) if is_log else (edges[:-1] + edges[1:]) / 2
    figure = go.Figure(
        go.Heatmap(
            x=x,
            y=middles,
            z=shown.astype(np.float32),
            zmin=0,
            customdata=np.repeat(np.array(ranges, object)[:, None], len(x), axis=1),
            colorscale=theme.LEVEL_SCALE,
            hovertemplate=f"{window.clock.title} %{{x}}<br>%{{customdata}} "
            f"{theme.unit_text(unit)}<br>%{{z:.1%}}<extra></extra>",
        )
    )
    medians = [float(np.median(v)) if (v := _finite(value)).size else np.nan
               for value in columns.values]  # fmt: skip
    figure.add_scatter(
        x=x, y=medians, mode="lines", name="median", showlegend=False,
        line={"color": palette.ORANGE, "dash": "dot", "width": 2}, hoverinfo="skip",
    )  # fmt: skip
    shares_over_time(figure, window, y_title=theme.unit_text(unit))
    return figure.update_yaxes(type="log") if is_log else figure


def _finite(values: NDArray[np.float32]) -> NDArray[np.float32]:
    flat = values.ravel()
    return flat[np.isfinite(flat)]


def _closed(edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Moves the outer edges out by a hair: a root of a power misses the value that it came from."""
    out = edges.copy()
    hair = 1e-6 * (edges[-1] - edges[0])
    out[0], out[-1] = out[0] - hair, out[-1] + hair
    return out
