"""Answers of studies that compare: ablations, seeds and grids."""

# R runs  C columns
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from .spread import Difference, Spread, difference, interval_of_std, noise_of_seeds, spread
from .table import ABLATION, coordinates, place, word

BASE = "base"


class Compared(NamedTuple):
    """One change beside the base."""

    name: str
    where: str
    """The other coordinates, where the study varies them."""
    params: float
    flops: float
    losses: dict[int, float]
    """{seed: loss}"""
    spread: Spread
    difference: Difference | None
    """Of the base: None."""


class Ablations(NamedTuple):
    rows: tuple[Compared, ...]
    """The base first, then the changes from the lowest loss to the highest, for each place."""
    noise: float | None


class Seeds(NamedTuple):
    losses: dict[int, float]
    spread: Spread
    std_low: float
    std_high: float
    noise: float | None
    """Standard deviation of log loss: relative."""


class Cell(NamedTuple):
    """One combination of a grid."""

    values: dict[str, Any]
    spread: Spread
    params: float
    flops: float


class Effect(NamedTuple):
    """What a level does to the loss, all else equal: from its axis' mean."""

    axis: str
    level: str
    value: float
    num: int


class Grid(NamedTuple):
    axes: tuple[str, ...]
    cells: tuple[Cell, ...]
    """From the lowest loss on."""
    effects: tuple[Effect, ...]
    rest: float
    """Standard deviation of the loss around the sum of the effects: axes that work together, and
    noise."""
    noise: float | None
    remark: str
    """Why there are no effects; else empty."""


def ablations(frame: pd.DataFrame) -> Ablations:
    """Compares each ablation with the base of the same place. frame: rows that count."""
    others = [name for name in coordinates(frame) if name != ABLATION]
    found: list[Compared] = []
    for where, rows in _groups(frame, others):
        bases = rows[rows[ABLATION] == BASE]
        base = _by_seed(bases)
        if base:
            found.append(_compared(BASE, where, bases, None))
        changes = [
            _compared(str(name), where, own, difference(_by_seed(own), base) if base else None)
            for name, own in rows[rows[ABLATION] != BASE].groupby(ABLATION, sort=False)
        ]
        found += sorted(changes, key=lambda row: row.spread.mean)
    return Ablations(tuple(found), noise_of_seeds(frame))


def seeds(frame: pd.DataFrame) -> Seeds:
    """Returns the spread of a configuration. frame: rows that count."""
    losses = _by_seed(frame)
    found = spread(np.array(list(losses.values())))
    low, high = interval_of_std(found.std, found.num) if found.num > 1 else (np.nan, np.nan)
    return Seeds(losses, found, low, high, noise_of_seeds(frame))


def grid(frame: pd.DataFrame) -> Grid:
    """Returns each cell's mean, and the effect of each level by least squares of
    loss = mean + sum over axes of the level's effect. frame: rows that count."""
    axes = coordinates(frame)
    cells = [
        Cell(
            {word(axis): _own(rows[axis].iloc[0]) for axis in axes},
            spread(rows["loss"].to_numpy(float)),
            float(rows["params"].mean()),
            float(rows["flops"].mean()),
        )
        for _, rows in frame.groupby("point", sort=False)
    ]
    cells.sort(key=lambda cell: cell.spread.mean)
    effects, rest, remark = _effects(frame, axes)
    names = tuple(word(axis) for axis in axes)
    return Grid(names, tuple(cells), effects, rest, noise_of_seeds(frame), remark)


def _effects(frame: pd.DataFrame, axes: list[str]) -> tuple[tuple[Effect, ...], float, str]:
    """Effects of an axis add up to 0 over its levels; missing cells bias none of them, as long as
    the axes were varied independently."""
    loss_R = frame["loss"].to_numpy(float)
    columns, places = [np.ones(len(frame))], []
    for axis in axes:
        level_R = frame[axis].map(str).to_numpy()
        *levels, last = dict.fromkeys(level_R)
        columns += [(level_R == level).astype(float) - (level_R == last) for level in levels]
        places.append((axis, [*levels, last]))
    design_RC = np.stack(columns, 1)
    if np.linalg.matrix_rank(design_RC) < design_RC.shape[1]:
        return (), np.nan, "the runs that count do not tell the axes apart"
    solved_C, *_ = np.linalg.lstsq(design_RC, loss_R, rcond=None)
    freedom = len(loss_R) - design_RC.shape[1]
    residual_R = loss_R - design_RC @ solved_C
    rest = float(np.sqrt((residual_R**2).sum() / freedom)) if freedom else np.nan
    effects, at = [], 1
    for axis, levels in places:
        values = solved_C[at : at + len(levels) - 1]
        at += len(levels) - 1
        level_R = frame[axis].map(str)
        for level, value in zip(levels, [*values, -values.sum()], strict=True):
            effects.append(Effect(word(axis), level, float(value), int((level_R == level).sum())))
    return tuple(effects), rest, ""


def _compared(name: str, where: str, rows: pd.DataFrame, gap: Difference | None) -> Compared:
    losses = _by_seed(rows)
    return Compared(
        name,
        where,
        float(rows["params"].mean()),
        float(rows["flops"].mean()),
        losses,
        spread(np.array(list(losses.values()))),
        gap,
    )


def _own(value: Any) -> Any:
    """Python's number in place of numpy's."""
    return value.item() if isinstance(value, np.generic) else value


def _by_seed(rows: pd.DataFrame) -> dict[int, float]:
    return {int(seed): float(loss) for seed, loss in zip(rows["seed"], rows["loss"], strict=True)}


def _groups(frame: pd.DataFrame, names: list[str]) -> list[tuple[str, pd.DataFrame]]:
    """Returns (place in words, rows) of each combination of the columns."""
    if not names:
        return [("", frame)]
    places = frame[names].apply(lambda row: place(row, names), axis=1)
    return [(str(place), rows) for place, rows in frame.groupby(places, sort=False)]
