"""Approaches 1 and 2 of Chinchilla: the best size by budget, without a law of the loss.

Both are ways to look at runs; the estimate is approach 3 (`fit`). Approach 2 is off where the two
exponents differ or the vertices drift (facts: scaling.md 2.1).
"""

# R runs  G budgets
from typing import Any, NamedTuple

import numpy as np

from ...platform.errors import MoescopeError
from .forms import Array
from .table import read_columns

SAME_BUDGET = 0.02
"""FLOPs of one budget differ by less, relatively."""
LEAST_RUNS = 4
"""Of a budget, for a parabola: three pin it, and leave nothing to tell whether it is one."""


class Vertex(NamedTuple):
    """The best size of one budget, or why there is none."""

    flops: float
    params: float
    loss: float
    num_runs: int
    refused: str
    """Empty where the vertex counts."""


class BestSizes(NamedTuple):
    """params = factor * flops^exponent through the best sizes."""

    exponent: float
    factor: float
    vertices: tuple[Vertex, ...]

    def params(self, flops: float) -> float:
        return float(self.factor * flops**self.exponent)


def by_parabolas(frame: Any) -> BestSizes:
    """Approach 2: a parabola of the loss in ln params at each budget, then a line through the
    vertices, in logs.

    frame: params, loss and flops or tokens. A parabola that opens downwards, a vertex outside the
    sizes that were run, and a budget with fewer than 4 runs are refused, each with its reason.
    Raises MoescopeError where fewer than two budgets are left.
    """
    return line_through(vertices(frame))


def vertices(frame: Any) -> tuple[Vertex, ...]:
    """The vertex of each budget, the smallest first, or why it has none; as `by_parabolas`."""
    columns = _columns(frame)
    return tuple(_vertex(columns, rows) for rows in _budgets(columns["flops"]))


def by_envelope(frame: Any, *, num_bins: int = 20) -> BestSizes:
    """Approach 1: the run of the least loss in each bin of FLOPs, of equal width in logs, then a
    line through these.

    A bin whose best run is worse than one that cost less is refused. Raises MoescopeError where
    fewer than two bins are left.
    """
    columns = _columns(frame)
    flops_R, params_R, loss_R = (columns[name] for name in ("flops", "params", "loss"))
    edges = np.geomspace(flops_R.min(), flops_R.max() * (1 + 1e-9), num_bins + 1)
    bin_R = np.clip(np.searchsorted(edges, flops_R, side="right") - 1, 0, num_bins - 1)
    found: list[Vertex] = []
    least = np.inf
    for number in np.unique(bin_R):
        rows = np.flatnonzero(bin_R == number)
        best = rows[loss_R[rows].argmin()]
        refused = "" if loss_R[best] < least else "a run that cost less was better"
        least = min(least, loss_R[best])
        found.append(
            Vertex(
                float(flops_R[best]), float(params_R[best]), float(loss_R[best]), len(rows), refused
            )
        )
    return line_through(tuple(found))


def _columns(frame: Any) -> dict[str, Array]:
    return read_columns(frame, ("params", "flops", "loss"))


def _budgets(flops_R: Array) -> list[Array]:
    """Returns the rows of each budget, the smallest first."""
    order = np.argsort(flops_R)
    steps = np.diff(np.log(flops_R[order])) > SAME_BUDGET
    return np.split(order, np.flatnonzero(steps) + 1)


def _vertex(columns: dict[str, Array], rows: Array) -> Vertex:
    flops = float(np.exp(np.log(columns["flops"][rows]).mean()))
    size, loss = np.log(columns["params"][rows]), columns["loss"][rows]
    if len(rows) < LEAST_RUNS:
        return Vertex(flops, np.nan, np.nan, len(rows), f"fewer than {LEAST_RUNS} runs")
    middle = size.mean()
    square, slope, level = np.polyfit(size - middle, loss, 2)
    if square <= 0:
        return Vertex(flops, np.nan, np.nan, len(rows), "the parabola opens downwards")
    place = middle - slope / (2 * square)
    least = level - slope**2 / (4 * square)
    is_inside = size.min() <= place <= size.max()
    refused = "" if is_inside else "the vertex lies outside the sizes that were run"
    return Vertex(flops, float(np.exp(place)), float(least), len(rows), refused)


def line_through(found: tuple[Vertex, ...]) -> BestSizes:
    """A line through the best sizes that count, in logs. Raises MoescopeError where fewer than two
    budgets have one."""
    kept = [vertex for vertex in found if not vertex.refused]
    if len({vertex.flops for vertex in kept}) < 2:
        reasons = sorted({vertex.refused for vertex in found if vertex.refused})
        raise MoescopeError(
            f"{len(kept)} of {len(found)} budgets have a best size ({'; '.join(reasons)}): a "
            "line needs two"
        )
    exponent, log_factor = np.polyfit(
        np.log([vertex.flops for vertex in kept]), np.log([vertex.params for vertex in kept]), 1
    )
    return BestSizes(float(exponent), float(np.exp(log_factor)), found)
