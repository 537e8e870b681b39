"""The stability frontier: how each trial fared, what moved before its loss did, and the learning
rates up to which each size stays healthy."""

# N samples
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ...platform import catalogue
from .table import LEARNING_RATE, coordinates, place

Array = NDArray[np.float64]

SMOOTHED = 5
"""Samples whose median is compared: one odd batch, or two, do not move it."""
LEAST_SAMPLES = 12
"""Below, half of a run is too short to tell its noise."""
MADS = 6.0
"""About 4 standard deviations of a normal value, as the alerts' rules (facts: health.md 4, 1)."""
LEAST_RISE = 0.05
"""Of the level: a rise below it is not worth a word, however quiet the run."""
PERSISTENT = 3
"""Samples in a row, the last of the run among them: a halted run has few after the first."""
STAYS = 0.9
"""Share of all later samples that lie above: what comes back has healed."""


class Watched(NamedTuple):
    """A signal that may move before the loss does."""

    signal: str
    word: str
    floor: float
    """A rise below it is none, in the signal's unit."""


LOSS = Watched(catalogue.LOSS_TOTAL, "loss", 0.0)
WATCHED = (
    # a quarter of the mean load; fresh routers differ by that from step to step
    Watched(catalogue.MAX_VIOLATION, "deadlock (MaxVio)", 0.25),
    Watched(catalogue.DEAD_EXPERTS, "dead experts", 0.5),
    # one pre-activation in a thousand
    Watched(catalogue.ACTIVATION_CLAMPED_SHARE, "clamped share", 1e-3),
    Watched(catalogue.ATTENTION_LOGIT_BOUND, "attention logits (bound)", 0.0),
    Watched(catalogue.ROUTER_Z, "router logits (z)", 0.05),
    Watched(catalogue.ACTIVATION_ABSMAX, "largest activation", 0.0),
    Watched(catalogue.GRAD_NORM, "gradient norm", 0.0),
)
"""Of signals with layers the largest value counts."""


class Health(NamedTuple):
    """How one trial fared."""

    key: str
    label: str
    verdict: str
    """healthy, healed, rolled back n times, diverged, stopped early, or the state that it is in."""
    alerts: str
    learning_rate: float
    params: float
    loss_grew_at: int | None
    """First step at which the loss began to grow and did not come back; None where it never did."""
    grew_at: dict[str, int]
    """{what: the first step at which it did}, of the watched signals that did."""

    @property
    def before_loss(self) -> dict[str, int]:
        """{what: steps by which it moved before the loss}, the earliest first."""
        if self.loss_grew_at is None:
            return {}
        lead = {
            word: self.loss_grew_at - step
            for word, step in self.grew_at.items()
            if step < self.loss_grew_at
        }
        return dict(sorted(lead.items(), key=lambda entry: -entry[1]))


class Edge(NamedTuple):
    """The learning rates of one size."""

    where: str
    params: float
    highest_healthy: float | None
    """The highest at which every seed stayed healthy."""
    lowest_not_healthy: float | None
    """The lowest at which one did not: it healed, was rolled back, or diverged."""
    lowest_diverged: float | None


class Frontier(NamedTuple):
    trials: tuple[Health, ...]
    counts: dict[str, int]
    """{verdict, without how often: trials}"""
    edges: tuple[Edge, ...]
    """From the smallest size on; empty where learning rates do not differ."""


def growth_onset(values: Array, floor: float = 0.0) -> int | None:
    """Returns the place of the first sample from which on a signal grew; None where it did not.

    The level is the least median of 5 samples so far: losses fall, and what rises slowly must not
    carry its own baseline along. A sample is high above level + max(6 MAD, 5% of the level, floor),
    with the MAD of the noise, from the steps between samples in the run's first half (over sqrt 2,
    for two samples' noise; a trend cancels). Growth begins with 3 high samples in a row, if of all
    that come after nine of ten stay above that bound, the last 3 among them. What is not finite is
    high.
    """
    value_N = np.where(np.isfinite(values), values, np.inf).astype(float)
    num = len(value_N)
    if num < LEAST_SAMPLES:
        return None
    windows = np.lib.stride_tricks.sliding_window_view(value_N, SMOOTHED)
    level_N = np.full(num, np.inf)
    # a sample does not count in the level that it is compared with
    level_N[SMOOTHED:] = np.minimum.accumulate(np.median(windows, axis=1))[:-1]
    bound_N = level_N + np.maximum(
        np.maximum(MADS * _noise(value_N), LEAST_RISE * np.abs(level_N)), floor
    )
    is_high_N = value_N > bound_N
    for at in np.flatnonzero(is_high_N):
        is_above = value_N[at:] > bound_N[at]
        if (
            len(is_above) >= PERSISTENT
            and is_above[:PERSISTENT].all()
            and is_above[-PERSISTENT:].all()
            and is_above.mean() >= STAYS
        ):
            return int(at)
    return None


def verdict_words(verdict: str, state: str, num_rollbacks: int) -> str:
    """Returns how a trial fared: healthy, healed, rolled back n times, diverged, stopped early."""
    if state != "done":
        return state
    if verdict == "rolled back":
        times = {1: "once", 2: "twice"}.get(num_rollbacks, f"{num_rollbacks} times")
        return f"rolled back {times}"
    return {"unstable": "diverged"}.get(verdict, verdict)


def frontier(frame: pd.DataFrame, grew_at: Mapping[str, Mapping[str, int]]) -> Frontier:
    """Returns how a study's trials fared. frame: all of them. grew_at: {key: {what: step}}."""
    trials = tuple(_health(row, grew_at.get(row["key"], {})) for _, row in frame.iterrows())
    counts: dict[str, int] = {}
    for trial in trials:
        word = "rolled back" if trial.verdict.startswith("rolled back") else trial.verdict
        counts[word] = counts.get(word, 0) + 1
    return Frontier(trials, counts, edges(frame))


def number_of(found: Frontier, trial: Health) -> int:
    """Returns a trial's number in the plan, from 1: its label is too long for a figure."""
    return found.trials.index(trial) + 1


def edges(frame: pd.DataFrame) -> tuple[Edge, ...]:
    """Returns each size's learning rates that stayed healthy, and those that did not."""
    done = frame[frame["state"] == "done"] if len(frame) else frame
    if done.empty or LEARNING_RATE not in coordinates(done):
        return ()
    names = [name for name in coordinates(done) if name != LEARNING_RATE]
    places = done.apply(lambda row: place(row, names), axis=1)
    found = []
    for where, rows in done.groupby(places, sort=False):
        of_rate = [
            (float(str(rate)), same["verdict"]) for rate, same in rows.groupby("learning_rate")
        ]
        healthy = [rate for rate, words in of_rate if (words == "healthy").all()]
        other = [
            rate
            for rate, words in of_rate
            if words.isin(("healed", "rolled back", "unstable")).any()
        ]
        diverged = [rate for rate, words in of_rate if (words == "unstable").any()]
        params = float(rows["params"].median())
        found.append(
            Edge(
                str(where),
                params,
                max(healthy, default=None),
                min(other, default=None),
                min(diverged, default=None),
            )
        )
    return tuple(sorted(found, key=lambda edge: edge.params))


def _health(row: "pd.Series[Any]", grew_at: Mapping[str, int]) -> Health:
    return Health(
        row["key"],
        row["label"],
        verdict_words(row["verdict"], row["state"], int(row["num_rollbacks"])),
        row["alerts"],
        float(row["learning_rate"]),
        float(row["params"]),
        grew_at.get(LOSS.word),
        {word: step for word, step in grew_at.items() if word != LOSS.word},
    )


def _noise(value_N: Array) -> float:
    """Median absolute deviation of a sample, without its trend."""
    half = value_N[: max(LEAST_SAMPLES, len(value_N) // 2)]
    step = np.diff(half[np.isfinite(half)])
    if not len(step):
        return 0.0
    return float(np.median(np.abs(step - np.median(step))) / np.sqrt(2.0))


def onset_step(steps: Sequence[int], values: Array, floor: float = 0.0) -> int | None:
    """Returns the step at which a signal began to grow: see `growth_onset`."""
    at = growth_onset(values, floor)
    return None if at is None else int(steps[at])
