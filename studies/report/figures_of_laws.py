"""Pure: laws and best sizes in, plotly figures out."""

import math

import pandas as pd
import plotly.graph_objects as go

from ...platform.palette import BLUE, GREY, RAMP, faded, ramp
from .best_sizes import BestSizesAnswer
from .law_answers import Laws
from .law_curve import Curve
from .look import empty_figure, in_figure, log_axis
from .words import loss_text, power, short

ACTIVE = "active parameters"
FLOPS = "training compute (FLOPs)"
LOSS = "loss (mse)"
MOST_NAMED = 8
"""Sizes that a legend names; more of them a bar of colours tells."""


def loss_against_compute(frame: pd.DataFrame, laws: Laws) -> go.Figure:
    """Draws each trial's loss by its compute, coloured by size; the law's least loss with its 95%
    band, dashed beyond the trials; and a ring around the trials that were held out.

    frame: rows that count.
    """
    figure = empty_figure(FLOPS, LOSS)
    curve = laws.curve
    if curve is not None:
        _add_curve(figure, curve, laws.can_extrapolate)
    sizes = _sizes(frame)
    if len(sizes) > MOST_NAMED:
        _add_dots(figure, frame, _scale_of(frame["params"].tolist()), "trials")
    else:
        for (size, rows), colour in zip(sizes, ramp(len(sizes)), strict=True):
            _add_dots(figure, rows, {"color": colour}, short(size))
    main = next((one for one in laws.answers if one.form == laws.main), None)
    held = frame[frame["key"].isin(main.held_out_keys)] if main is not None else frame[:0]
    if len(held):
        figure.add_scatter(
            x=held["flops"].tolist(), y=held["loss"].tolist(), mode="markers", name="held out",
            marker={
                "symbol": "circle-open", "size": 15, "color": GREY, "line": {"width": 2},
            },
            hoverinfo="skip",
        )  # fmt: skip
    every = frame["flops"].tolist() + (list(curve.flops) if curve is not None else [])
    figure.update_xaxes(**log_axis(every, is_count=False))
    return figure


def isoflop(frame: pd.DataFrame, found: BestSizesAnswer) -> go.Figure:
    """Draws each budget's runs, its parabola, and its vertex: a star where it counts, with its 95%
    interval."""
    figure = empty_figure(ACTIVE, LOSS)
    colours = ramp(len(found.budgets))
    of_trial = frame["at.flops"] if "at.flops" in frame else frame["flops"]
    every = frame["params"].tolist()
    for budget, colour in zip(found.budgets, colours, strict=True):
        rows = frame[(of_trial / budget.flops - 1).abs() < 0.02]
        group = f"{budget.flops:.3g}"
        figure.add_scatter(
            x=rows["params"].tolist(), y=rows["loss"].tolist(), mode="markers",
            marker={"color": colour, "size": 8}, legendgroup=group,
            name=f"{power(budget.flops)} FLOPs",
            text=[in_figure(label) for label in rows["label"]],
            hovertemplate="%{text}<br>%{x:.3g} parameters: %{y:.4f}<extra></extra>",
        )  # fmt: skip
        if budget.sizes:
            figure.add_scatter(
                x=list(budget.sizes), y=list(budget.losses), mode="lines", legendgroup=group,
                line={"color": colour, "width": 1.6}, showlegend=False, hoverinfo="skip",
            )  # fmt: skip
        if not budget.refused:
            low, high = budget.params_interval
            has_interval = low == low
            figure.add_scatter(
                x=[budget.params], y=[budget.loss], mode="markers", legendgroup=group,
                marker={"symbol": "star", "size": 15, "color": colour},
                error_x={
                    "type": "data", "symmetric": False, "color": colour,
                    "array": [high - budget.params], "arrayminus": [budget.params - low],
                } if has_interval else None,
                showlegend=False,
                hovertemplate=f"best size {short(budget.params)}: {loss_text(budget.loss)}"
                "<extra></extra>",
            )  # fmt: skip
            every += [low, high] if has_interval else []
    figure.update_xaxes(**log_axis(every, is_count=True))
    return figure


def _add_dots(figure: go.Figure, rows: pd.DataFrame, marker: dict[str, object], name: str) -> None:
    figure.add_scatter(
        x=rows["flops"].tolist(),
        y=rows["loss"].tolist(),
        mode="markers",
        marker={"size": 8, **marker},
        name=name,
        text=[in_figure(label) for label in rows["label"]],
        customdata=[short(size) for size in rows["params"]],
        hovertemplate="%{text} (%{customdata})<br>%{x:.3g} FLOPs: %{y:.4f}<extra></extra>",
    )


def _scale_of(sizes: list[float]) -> dict[str, object]:
    """Colours of many sizes, by their logs, with a bar that tells them."""
    axis = log_axis(sizes, is_count=True)
    ticks = axis["tickvals"]
    assert isinstance(ticks, list)
    return {
        "color": [math.log10(size) for size in sizes],
        "colorscale": [[i / (len(RAMP) - 1), colour] for i, colour in enumerate(RAMP)],
        "showscale": True,
        "colorbar": {
            "tickvals": [math.log10(tick) for tick in ticks],
            "ticktext": axis["ticktext"],
            "title": {"text": "active", "side": "top"},
            "thickness": 12,
            "outlinewidth": 0,
        },
    }


def _add_curve(figure: go.Figure, curve: Curve, is_trusted: bool) -> None:
    if curve.low:
        edge = {"width": 0, "color": BLUE}
        figure.add_scatter(
            x=list(curve.flops), y=list(curve.high), mode="lines", line=edge, showlegend=False,
            hoverinfo="skip",
        )  # fmt: skip
        figure.add_scatter(
            x=list(curve.flops), y=list(curve.low), mode="lines", line=edge, fill="tonexty",
            fillcolor=faded(BLUE, 0.2), name="95% band", hoverinfo="skip",
        )  # fmt: skip
    inside = [i for i, flops in enumerate(curve.flops) if flops <= curve.measured_to * 1.001]
    beyond = list(range(inside[-1], len(curve.flops))) if inside else []
    parts = (
        (inside, "solid" if is_trusted else "dot", "law" if is_trusted else "law, refused"),
        (beyond, "dash", "law, foretold"),
    )
    for places, dash, name in parts:
        if len(places) > 1:
            figure.add_scatter(
                x=[curve.flops[i] for i in places],
                y=[curve.loss[i] for i in places],
                mode="lines",
                line={"color": BLUE, "width": 2, "dash": dash},
                name=name,
                hovertemplate="%{x:.3g} FLOPs: %{y:.4f}<extra>law</extra>",
            )


def _sizes(frame: pd.DataFrame) -> list[tuple[float, pd.DataFrame]]:
    """Returns (active parameters, rows) of each size; sizes within 5% are one."""
    found: list[tuple[float, list[int]]] = []
    for place in frame["params"].sort_values().index:
        size = float(frame["params"][place])
        if not found or size > 1.05 * found[-1][0]:
            found.append((size, []))
        found[-1][1].append(place)
    return [(size, frame.loc[places]) for size, places in found]
