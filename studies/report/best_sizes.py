"""The best size of each budget of an isoFLOP study: parabolas, their vertices, and the line through
them, with intervals."""

# R runs  B bootstraps  V vertices
from typing import NamedTuple

import numpy as np
import pandas as pd

from ...platform.errors import MoescopeError
from ..laws.isoflop import LEAST_RUNS, SAME_BUDGET, Vertex, line_through, vertices

NUM_BOOTSTRAPS = 200
LEVEL = (0.025, 0.975)


class Budget(NamedTuple):
    """One budget: its runs, its parabola, its best size."""

    flops: float
    params: float
    """Of the vertex; NaN where there is none."""
    params_interval: tuple[float, float]
    loss: float
    num_runs: int
    refused: str
    """Why the vertex does not count; empty where it does."""
    sizes: tuple[float, ...]
    """Of the parabola, as it is drawn."""
    losses: tuple[float, ...]


class BestSizesAnswer(NamedTuple):
    budgets: tuple[Budget, ...]
    exponent: float
    """params ~ flops^exponent through the vertices; NaN where there is no line."""
    exponent_interval: tuple[float, float]
    factor: float
    refused: str
    """Why there is no line; empty where there is."""


def best_sizes(frame: pd.DataFrame, *, seed: int = 0) -> BestSizesAnswer:
    """Chinchilla's approach 2 with intervals. frame: rows that count.

    Intervals are of 95% of 200 tables whose losses are the parabola's plus residuals drawn among
    those of their budget, widened by sqrt(n / (n - 3)); a table without a vertex is left out. The
    approach is off where exponents differ or vertices drift (facts: scaling.md 2.1).
    """
    frame = frame.assign(flops=_as_asked(frame))
    found, refused, line = vertices(frame), "", (np.nan, np.nan)
    try:
        through = line_through(found)
        line = through.exponent, through.factor
    except MoescopeError as error:
        refused = str(error)
    resampled = _resampled(frame, seed)
    budgets = []
    for index, vertex in enumerate(found):
        rows = frame[np.abs(np.log(frame["flops"] / vertex.flops)) < SAME_BUDGET]
        sizes, losses = _parabola(rows)
        drawn = [one[index].params for one in resampled if not one[index].refused]
        interval = _interval(drawn)
        budgets.append(
            Budget(
                vertex.flops, vertex.params, interval, vertex.loss, vertex.num_runs,
                vertex.refused, sizes, losses,
            )
        )  # fmt: skip
    exponents = []
    for drawn_vertices in resampled:
        kept = [one for one in drawn_vertices if not one.refused]
        if len(kept) > 1:
            x, y = (np.log([getattr(one, name) for one in kept]) for name in ("flops", "params"))
            exponents.append(float(np.polyfit(x, y, 1)[0]))
    return BestSizesAnswer(tuple(budgets), line[0], _interval(exponents), line[1], refused)


def _as_asked(frame: pd.DataFrame) -> "pd.Series[float]":
    """FLOPs as the budget asked for them: a trial meets them by whole steps, which for small
    budgets differ by more than what `laws` takes for one budget."""
    if "at.flops" in frame:
        return frame["at.flops"].astype(float)
    return frame["flops"]


def _resampled(frame: pd.DataFrame, seed: int) -> list[tuple[Vertex, ...]]:
    chance = np.random.default_rng(seed)
    fitted = frame["loss"].to_numpy(float).copy()
    residual = np.zeros(len(frame))
    groups = []
    for _, rows in frame.groupby("flops"):
        at = frame.index.get_indexer(rows.index)
        if len(at) < LEAST_RUNS:
            continue
        x = np.log(rows["params"].to_numpy(float))
        law = np.polyfit(x - x.mean(), rows["loss"].to_numpy(float), 2)
        fitted[at] = np.polyval(law, x - x.mean())
        wide = np.sqrt(len(at) / (len(at) - 3))
        residual[at] = (rows["loss"].to_numpy(float) - fitted[at]) * wide
        groups.append(at)
    tables = []
    for _ in range(NUM_BOOTSTRAPS):
        loss = fitted.copy()
        for at in groups:
            loss[at] += chance.choice(residual[at], len(at))
        tables.append(vertices(frame.assign(loss=np.maximum(loss, 1e-12))))
    return tables


def _parabola(rows: pd.DataFrame) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if len(rows) < LEAST_RUNS:
        return (), ()
    x = np.log(rows["params"].to_numpy(float))
    law = np.polyfit(x - x.mean(), rows["loss"].to_numpy(float), 2)
    drawn = np.linspace(x.min(), x.max(), 41)
    return tuple(np.exp(drawn).tolist()), tuple(np.polyval(law, drawn - x.mean()).tolist())


def _interval(values: list[float]) -> tuple[float, float]:
    finite = [value for value in values if np.isfinite(value)]
    if len(finite) < 20:
        return (np.nan, np.nan)
    low, high = np.quantile(finite, LEVEL, method="weibull")
    return float(low), float(high)
