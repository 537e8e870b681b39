"""A record as a healthy training leaves it, into which a test puts what it is about."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from moescope.monitors.autopsy.record import Entry, FlightRecord
from moescope.platform import catalogue
from moescope.platform.records import Alert

LAYERS, EXPERTS, BATCH = 3, 4, 8


def make_entry(
    step: int, *, batch: int | None = None, chance: int = 0, factor: float = 1.0, **changes: Any
) -> Entry:
    """One step: losses that depend on sigma, gradients by layer, expert counts. factor: of the
    losses. changes: of the values, by the name of the catalogue's constant."""
    number = step if batch is None else batch
    rng = np.random.default_rng((number, chance))
    sigma = (np.stack([rng.permutation(BATCH), rng.permutation(BATCH)]) + 0.5) / BATCH
    loss = factor * (0.3 + sigma) * np.exp(0.1 * rng.standard_normal((2, BATCH)))
    values = {
        catalogue.LOSS_PER_SAMPLE: loss,
        catalogue.LOSS_SIGMA: sigma,
        catalogue.LOSS_TOTAL: loss.mean(),
        catalogue.GRAD_NORM: np.exp(0.1 * rng.standard_normal()),
        catalogue.GRAD_LAYER_NORM: np.exp(0.1 * rng.standard_normal(LAYERS)),
        catalogue.EXPERT_TOKENS: 100 + rng.integers(-10, 10, (2, EXPERTS)),
        catalogue.LEARNING_RATE: 1e-3,
        catalogue.DATA_BATCH: number,
        catalogue.UPDATE_WEIGHT_RATIO: np.exp(0.1 * rng.standard_normal(LAYERS)) * 1e-3,
    }
    values |= {getattr(catalogue, name): value for name, value in changes.items()}
    arrays = {name: np.asarray(value, np.float32) for name, value in values.items()}
    names = tuple(f"clip-{number * BATCH + i:05d}.mp4" for i in range(BATCH))
    return Entry(0, step, number, names, tuple(range(BATCH)), arrays)


def make_alert(
    onset: int = 100,
    fired: int = 104,
    signal: str = catalogue.LOSS_PER_SAMPLE,
    **evidence: Any,
) -> Alert:
    return Alert(
        "r-0-104-loss_spike", "r", 0, "loss_spike", "critical", onset, fired, 9.0, 3.5,
        "the loss stays far above its usual range", 1.0, "r/loss_spike",
        evidence={"signal": signal, **evidence},
    )  # fmt: skip


@pytest.fixture
def entry() -> Callable[..., Entry]:
    return make_entry


@pytest.fixture
def alert() -> Callable[..., Alert]:
    return make_alert


@pytest.fixture
def spike() -> FlightRecord:
    """A hundred quiet steps and five whose losses are four times as high."""
    entries = [make_entry(step, factor=4.0 if step >= 100 else 1.0) for step in range(105)]
    return FlightRecord(make_alert(), tuple(entries))
