"""How often intervals of laws hold what they say: planted laws, 400 tables, 200 bootstraps each."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
from scipy.stats import binomtest

from moescope.studies.laws.law import fit

NUM_TABLES, NUM_BOOTSTRAPS, NUM_RUNS, NOISE, BUDGET = 400, 200, 60, 0.01, 1e22
PARAMS, TOKENS = 4e10, 8e11


def runs(seed: int, noise: float) -> dict[str, np.ndarray]:
    chance = np.random.default_rng(seed)
    params, tokens = (10 ** chance.uniform(*ends, NUM_RUNS) for ends in ((7.5, 10), (9, 11.5)))
    noises = np.exp(chance.normal(0, noise, NUM_RUNS))
    return {"params": params, "tokens": tokens, "loss": law_of(params, tokens) * noises}


def law_of(params: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    return 1.8172 + 477.83 / params**0.34731 + 2143.4 / tokens**0.36717


def ends(seed: int) -> tuple[float, float, float, float]:
    law = fit(runs(seed, NOISE), num_bootstraps=NUM_BOOTSTRAPS)
    low, high = law.interval(PARAMS, TOKENS)
    return float(low[0]), float(high[0]), *law.optimal(BUDGET).params_interval


def main() -> None:
    loss = float(law_of(np.float64(PARAMS), np.float64(TOKENS)))
    size = fit(runs(0, 1e-7)).optimal(BUDGET).params
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        found = np.array(list(pool.map(ends, range(1, NUM_TABLES + 1))))
    for name, truth, low, high in (
        ("the prediction", loss, found[:, 0], found[:, 1]),
        ("the recommended size", size, found[:, 2], found[:, 3]),
    ):
        hits = int(((low <= truth) & (truth <= high)).sum())
        interval = binomtest(hits, NUM_TABLES).proportion_ci(method="wilson")
        print(
            f"{name}: {hits / NUM_TABLES:.3f} of {NUM_TABLES} intervals hold "
            f"(Wilson {interval.low:.3f} to {interval.high:.3f})"
        )


if __name__ == "__main__":
    main()
