"""Planted laws, and public tables of runs where they are there."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

DATA = Path(__file__).parents[3] / "shared" / "data" / "scaling"
"""Beside the checkout: public tables under licences of their own, no part of it."""
EPOCH = {"A": 477.83, "B": 2143.4, "E0": 1.8172, "alpha": 0.34731, "beta": 0.36717}
"""The refit of Chinchilla's runs. Source: arXiv 2404.10102; facts: scaling.md 2."""

Table = dict[str, np.ndarray]


def _table(name: str) -> pd.DataFrame:
    path = DATA / name
    if not path.is_file():
        pytest.skip(f"{name} is not in {DATA.name}/ beside the checkout")
    return pd.read_csv(path)


@pytest.fixture(scope="session")
def clark() -> pd.DataFrame:
    """The last evaluation of each run of arXiv 2202.01169 with experts in every second layer."""
    runs = _table("clark2022_routed_curves.csv.gz").sort_values("step")
    runs = runs.groupby("hyper_id").last()
    return runs[(runs.routing_frequency == 0.5) & (runs.k == 1) & (runs.seed == 42)]


@pytest.fixture(scope="session")
def gadre() -> pd.DataFrame:
    """The 104 runs of arXiv 2403.08540."""
    return _table("gadre2024_104runs.csv")


@pytest.fixture(scope="session")
def planted() -> Callable[..., Table]:
    """Makes runs of Chinchilla's law with Epoch's parameters and log-normal noise."""

    def runs(num_runs: int = 240, noise: float = 0.004, seed: int = 0) -> Table:
        chance = np.random.default_rng(seed)
        params, tokens = (10 ** chance.uniform(*ends, num_runs) for ends in ((7.5, 10), (9, 11.5)))
        loss = EPOCH["E0"] + EPOCH["A"] / params ** EPOCH["alpha"]
        loss += EPOCH["B"] / tokens ** EPOCH["beta"]
        noises = np.exp(chance.normal(0, noise, num_runs))
        return {"params": params, "tokens": tokens, "loss": loss * noises}

    return runs


@pytest.fixture(scope="session")
def epoch() -> dict[str, float]:
    return EPOCH
