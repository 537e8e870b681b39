"""Learning-rate sensitivity: how much a rate that is off costs, at each size."""

# R rates
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from .table import LEARNING_RATE, coordinates, place

COUNTED = ("healthy", "healed", "rolled back", "unstable")
"""Verdicts of runs that the rate decided on; one that was stopped early says nothing of it."""


class Rate(NamedTuple):
    """What a learning rate came to, over its seeds."""

    rate: float
    loss: float
    """Mean of min(loss, loss at the start): a run that diverged has lost all, and not more."""
    losses: tuple[float, ...]
    verdicts: tuple[str, ...]


class Sensitivity(NamedTuple):
    """Of one size, and of one value of each other axis."""

    where: str
    size: str
    params: float
    start: float
    """Loss at initialisation."""
    rates: tuple[Rate, ...]
    """From the lowest on."""
    best_rate: float
    best_loss: float
    sensitivity: float
    """mean over rates of min(loss, loss at the start), less the best: arXiv 2309.14322."""
    remark: str


def sensitivities(frame: pd.DataFrame, first_losses: Mapping[str, float]) -> list[Sensitivity]:
    """Returns each size's sensitivity, from the smallest on.

    E over rates of [min(loss, loss at initialisation) - best loss], with the study's rates as they
    were chosen (in even steps of their logs, as a rule); source: arXiv 2309.14322. frame: all
    trials; those that diverged count with the loss at the start. first_losses: {key: loss of the
    first step}; the median of a size's trials is its start.
    """
    done = frame[(frame["state"] == "done") & frame["verdict"].isin(COUNTED)]
    names = [name for name in coordinates(done) if name != LEARNING_RATE]
    if done.empty:
        return []
    places = done[names].apply(lambda row: place(row, names), axis=1) if names else "all trials"
    found = [
        _of_place(str(where), rows, first_losses)
        for where, rows in done.groupby(places if names else lambda row: "all trials", sort=False)
    ]
    return sorted((one for one in found if one is not None), key=lambda one: one.params)


def _of_place(
    where: str, rows: pd.DataFrame, first_losses: Mapping[str, float]
) -> Sensitivity | None:
    firsts = [
        first_losses[key] for key in rows["key"] if np.isfinite(first_losses.get(key, np.nan))
    ]
    start = float(np.median(firsts)) if firsts else np.nan
    rates = []
    for rate, same in rows.groupby("learning_rate"):
        is_lost = (same["verdict"] == "unstable") | ~np.isfinite(same["loss"])
        loss = same["loss"].where(~is_lost, np.inf)
        losses = np.fmin(loss.to_numpy(float), start if np.isfinite(start) else np.inf)
        told = tuple(same["loss"].to_numpy(float).tolist())
        rates.append(Rate(float(str(rate)), float(losses.mean()), told, tuple(same["verdict"])))
    known = [one for one in rates if np.isfinite(one.loss)]
    if not known:
        return None
    best = min(known, key=lambda one: one.loss)
    remarks = []
    if len(known) < len(rates):
        remarks.append("rates that diverged are left out: the loss at the start is not known")
    if len(rates) > 1 and best.rate in (rates[0].rate, rates[-1].rate):
        edge = "lowest" if best.rate == rates[0].rate else "highest"
        remarks.append(f"the best rate is the {edge} that was tried: the true one may lie beyond")
    return Sensitivity(
        where,
        where.split(", ")[0],
        float(rows["params"].median()),
        start,
        tuple(rates),
        best.rate,
        best.loss,
        float(np.mean([one.loss for one in known]) - best.loss),
        "; ".join(remarks),
    )
