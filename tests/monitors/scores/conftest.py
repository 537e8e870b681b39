"""Curves as files and as values, and where recorded ones lie."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from moescope.monitors.scores.curves import Curve

# read while tests are collected: no test sees the environment of whoever runs it
DATA = Path(os.environ.get("MOESCOPE_DATA", Path(__file__).parents[4] / "shared" / "data"))


@pytest.fixture(scope="session")
def recorded_curves() -> Path:
    """The folder of recorded curves, `healthy` and `spikes`."""
    folder = DATA / "curves"
    if not folder.is_dir():
        pytest.skip(f"no recorded curves at {DATA}: MOESCOPE_DATA names the folder of the data")
    return folder


def healthy_loss(num_steps: int, seed: int = 0) -> np.ndarray:
    chance = np.random.default_rng(seed)
    level = 3.2 + 7.0 * np.exp(-np.arange(num_steps) / 80)
    loss: np.ndarray = level * np.exp(chance.normal(0.0, 0.02, num_steps))
    return loss


@pytest.fixture
def make_curve() -> Callable[..., Curve]:
    def make(
        loss: Sequence[float] | int, name: str = "a", group: str = "a", seed: int = 0
    ) -> Curve:
        values = healthy_loss(loss, seed) if isinstance(loss, int) else np.asarray(loss, float)
        return Curve(name, group, values, np.full(values.size, np.nan))

    return make


@pytest.fixture
def write_curve(tmp_path: Path) -> Callable[..., Path]:
    """Writes a healthy curve as a CSV file."""

    def write(name: str, num_steps: int = 1000, seed: int = 0) -> Path:
        rows = [f"{i},{x:.4f}," for i, x in enumerate(healthy_loss(num_steps, seed))]
        path = tmp_path / name
        path.write_text("\n".join(["step,train_loss,grad_norm", *rows]) + "\n")
        return path

    return write
