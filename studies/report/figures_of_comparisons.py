"""Pure: ablations, seeds and grids in, plotly figures out."""

import plotly.graph_objects as go

from ...platform.palette import BLUE, GREEN, GREY, ORANGE, faded
from .comparisons import BASE, Ablations, Compared, Grid, Seeds
from .figures_of_laws import LOSS
from .look import empty_figure, in_figure
from .words import loss_text, short


def ablation_bars(found: Ablations) -> go.Figure:
    """Draws each change's mean loss as a bar from the base's mean, with the 95% interval of the
    difference, and each seed's run as a dot. A bar is grey where its interval holds 0."""
    figure = empty_figure(LOSS, "")
    names = []
    for where in dict.fromkeys(row.where for row in found.rows):
        rows = [row for row in found.rows if row.where == where]
        base = next((row.spread.mean for row in rows if row.name == BASE), None)
        for row in rows:
            name = in_figure(row.name if not where else f"{row.name}, {where}")
            names.append(name)
            _add_bar(figure, row, name, base)
    if found.rows:
        every = [loss for row in found.rows for loss in row.losses.values()]
        ends = [
            row.spread.mean + gap
            for row in found.rows
            if row.difference is not None
            for gap in (
                row.difference.low - row.difference.value,
                row.difference.high - row.difference.value,
            )
            if gap == gap
        ]
        low, high = min(every + ends), max(every + ends)
        room = 0.06 * (high - low) or 0.01
        figure.update_xaxes(range=[low - room, high + room])
    for colour, word in ((GREEN, "lower"), (ORANGE, "higher"), (GREY, "not told apart")):
        figure.add_scatter(
            x=[None], y=[None], mode="markers", name=word,
            marker={"symbol": "square", "size": 10, "color": colour},
        )  # fmt: skip
    figure.update_layout(height=130 + 44 * max(len(names), 2), bargap=0.35)
    figure.update_yaxes(type="category", autorange="reversed", categoryarray=names, showgrid=False)
    places = {row.where for row in found.rows}
    if len(places) == 1 and found.rows and found.rows[0].name == BASE:
        figure.add_vline(
            x=found.rows[0].spread.mean, line={"color": BLUE, "dash": "dash", "width": 1.5}
        )
    return figure


def _add_bar(figure: go.Figure, row: Compared, name: str, base: float | None) -> None:
    gap = row.difference
    if gap is not None and base is not None:
        colour = (GREEN if gap.value < 0 else ORANGE) if gap.is_told_apart else GREY
        has_interval = gap.low == gap.low
        figure.add_bar(
            x=[row.spread.mean - base],
            base=[base],
            y=[name],
            orientation="h",
            marker={"color": faded(colour, 0.55), "line": {"color": colour, "width": 1}},
            error_x={
                "type": "data", "symmetric": False, "color": colour, "thickness": 2,
                "array": [gap.high - gap.value], "arrayminus": [gap.value - gap.low],
            } if has_interval else None,
            showlegend=False,
            hovertemplate=f"{name}: {gap.value:+.4f} ({in_figure(gap.how)})<extra></extra>",
        )  # fmt: skip
    seeds = sorted(row.losses)
    figure.add_scatter(
        x=[row.losses[seed] for seed in seeds],
        y=[name] * len(seeds),
        mode="markers",
        marker={"color": BLUE, "size": 7, "symbol": "circle-open", "line": {"width": 1.8}},
        showlegend=False,
        text=[f"seed {seed}" for seed in seeds],
        hovertemplate="%{y}, %{text}: %{x:.4f}<extra></extra>",
    )


def seed_strip(found: Seeds) -> go.Figure:
    """Draws each seed's loss, the mean with its interval, and a band of one standard deviation."""
    figure = empty_figure("seed", LOSS, height=340)
    seeds, spread = sorted(found.losses), found.spread
    if spread.num > 1:
        figure.add_hrect(
            y0=spread.mean - spread.std, y1=spread.mean + spread.std, line_width=0,
            fillcolor=faded(GREY, 0.2),
        )  # fmt: skip
        figure.add_scatter(
            x=["mean"], y=[spread.mean], mode="markers", name="mean, 95% interval",
            marker={"color": ORANGE, "size": 11, "symbol": "diamond"},
            error_y={
                "type": "data", "array": [spread.high - spread.mean], "thickness": 2,
                "color": ORANGE,
            },
            hovertemplate="mean %{y:.4f}<extra></extra>",
        )  # fmt: skip
        figure.add_scatter(
            x=[None], y=[None], mode="markers", name="one standard deviation",
            marker={"symbol": "square", "size": 12, "color": faded(GREY, 0.4)},
        )  # fmt: skip
    figure.add_scatter(
        x=[str(seed) for seed in seeds], y=[found.losses[seed] for seed in seeds], mode="markers",
        marker={"color": BLUE, "size": 10}, name="a run",
        hovertemplate="seed %{x}: %{y:.4f}<extra></extra>",
    )  # fmt: skip
    order = [*map(str, seeds), "mean"]
    figure.update_xaxes(type="category", categoryorder="array", categoryarray=order)
    return figure


def grid_map(found: Grid) -> go.Figure | None:
    """Draws a grid of two axes as a heat map of the mean loss, and one of one axis as a line; None
    for more, whose table and effects say it."""
    if len(found.axes) == 1:
        return _of_one_axis(found)
    if len(found.axes) != 2:
        return None
    down, along = found.axes
    rows, columns = (_levels(found, axis) for axis in (down, along))
    loss = {
        (str(cell.values[down]), str(cell.values[along])): cell.spread.mean for cell in found.cells
    }
    z = [[loss.get((str(row), str(column))) for column in columns] for row in rows]
    best = found.cells[0].values
    figure = empty_figure(in_figure(along), in_figure(down), height=150 + 62 * max(len(rows), 3))
    texts = [[_shown(value) for value in line] for line in z]
    figure.add_heatmap(
        x=[_said(value) for value in columns],
        y=[_said(value) for value in rows],
        z=z,
        text=texts,
        texttemplate="%{text}",
        colorscale="Cividis",
        reversescale=True,
        xgap=2,
        ygap=2,
        colorbar={"title": {"text": "loss"}, "thickness": 12, "outlinewidth": 0},
        hovertemplate="%{y}, %{x}: %{z:.4f}<extra></extra>",
    )
    figure.add_scatter(
        x=[_said(best[along])], y=[_said(best[down])], mode="markers", name="lowest",
        marker={
            "symbol": "square-open", "size": 46, "color": ORANGE, "line": {"width": 3},
        },
        hoverinfo="skip", showlegend=True,
    )  # fmt: skip
    figure.update_xaxes(type="category", showgrid=False)
    figure.update_yaxes(type="category", showgrid=False, autorange="reversed")
    return figure


def effects(found: Grid) -> go.Figure:
    """Draws what each level of each axis does to the loss, all else equal."""
    figure = empty_figure("effect on the loss (mse)", "")
    names = [
        f"{in_figure(one.axis)} = {in_figure(_short_level(one.level))}" for one in found.effects
    ]
    figure.add_bar(
        x=[one.value for one in found.effects],
        y=names,
        orientation="h",
        marker={"color": [GREEN if one.value < 0 else ORANGE for one in found.effects]},
        showlegend=False,
        hovertemplate="%{y}: %{x:+.4f}<extra></extra>",
    )
    figure.add_vline(x=0, line={"color": GREY, "width": 1})
    figure.update_layout(height=110 + 30 * max(len(names), 3), bargap=0.4)
    figure.update_yaxes(type="category", autorange="reversed", categoryarray=names, showgrid=False)
    return figure


def _of_one_axis(found: Grid) -> go.Figure:
    (axis,) = found.axes
    figure = empty_figure(in_figure(axis), LOSS, height=340)
    levels = _levels(found, axis)
    of_level = {str(cell.values[axis]): cell.spread for cell in found.cells}
    spreads = [of_level[str(level)] for level in levels]
    figure.add_scatter(
        x=[_said(level) for level in levels],
        y=[one.mean for one in spreads],
        mode="lines+markers",
        marker={"color": BLUE, "size": 9},
        line={"color": BLUE, "width": 1.5},
        error_y={
            "type": "data",
            "array": [one.high - one.mean if one.num > 1 else 0.0 for one in spreads],
        },
        showlegend=False,
        hovertemplate="%{x}: %{y:.4f}<extra></extra>",
    )
    figure.update_xaxes(type="category")
    return figure


def _levels(found: Grid, axis: str) -> list[object]:
    values = list({str(cell.values[axis]): cell.values[axis] for cell in found.cells}.values())
    is_number = all(isinstance(value, int | float) and value == value for value in values)
    return sorted(values) if is_number else sorted(values, key=str)


def _said(value: object) -> str:
    return short(value) if isinstance(value, float) else in_figure(value)


def _short_level(level: str) -> str:
    try:
        return short(float(level))
    except ValueError:
        return level


def _shown(value: float | None) -> str:
    return "" if value is None else loss_text(value)
